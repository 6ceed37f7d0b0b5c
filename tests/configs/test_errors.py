"""What messages are made of."""

from mambavl.configs.errors import counted, did_you_mean, differs, edit_distance, some


def test_a_long_list_of_names_is_cut():
    assert some([]) == ""
    assert some(["a", "b"]) == "a, b"
    assert some(list("abcde")) == "a, b, c, d, e"
    assert some(list("abcdef")) == "a, b, c, d, e, ..."
    assert some(list("abc"), 2) == "a, b, ..."


def test_one_is_counted_in_the_singular():
    assert [counted(n, "row") for n in (0, 1, 1200)] == ["0 rows", "1 row", "1,200 rows"]


def test_what_differs_is_listed_under_its_sides_and_cut():
    assert differs(["x: 1 -> 2"], "there -> asked for") == "What differs (there -> asked for):\n  x: 1 -> 2"
    assert differs([str(n) for n in range(50)], "a -> b").count("\n") == 20


def test_the_nearest_name_is_meant_and_a_far_one_is_not():
    assert did_you_mean("d_sate", ["d_model", "d_state"]) == "; did you mean `d_state`?"
    assert did_you_mean("zebra", ["d_model", "d_state"]) == "; known: d_model, d_state."
    assert did_you_mean("zebra", []) == "."


def test_edit_distance_counts_swaps_of_neighbours_once():
    assert edit_distance("d_sate", "d_state") == 1
    assert edit_distance("recieve", "receive") == 1
    assert edit_distance("", "abc") == 3
    assert edit_distance("kitten", "sitting") == 3
