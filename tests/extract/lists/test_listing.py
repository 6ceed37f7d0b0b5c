"""What every layout shares: names of classes, rows that are there twice, splits, text files."""

import pytest

from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.class_lists import ClassList
from mambavl.extract.lists.listing import (
    Listed,
    Listing,
    Names,
    Request,
    agreement,
    checked,
    file_in,
    split_named,
    split_of_all,
    text_lines,
    whole,
)
from mambavl.extract.tables import Tables


def given(*keys):
    return ClassList(
        dict(enumerate(keys)), {n: (key,) for n, key in enumerate(keys)}, dict.fromkeys(keys, "")
    )


def listing(tmp_path, *rows):
    return Listing(Tables(tmp_path), {"tool": Names()}, list(rows))


def row(where="x:1", video="a", start=0.0, stop=1.0, split="train", **more):
    return Listed(where, video, start, stop, split, **{"labels": {"tool": 0}, **more})


def test_names_stand_in_order_of_appearance():
    names = Names()
    assert [names.id_of(name) for name in ("b", "a", "b", "c")] == [0, 1, 0, 2]


def test_a_given_list_knows_its_names_and_ids_alone():
    names = Names("single", given("Cut", "wash"))
    assert names.id_of("cut") == 0  # capitals do not matter
    with pytest.raises(ValueError, match="'wahs' is not in the class list; did you mean `wash`"):
        names.id_of("wahs")
    assert names.known(1) == 1
    with pytest.raises(
        ValueError, match=r"2 is not in the class list \(0 to 1\); is the list counted from 1"
    ):
        names.known(2)
    with pytest.raises(ValueError, match=r"7 is not in the class list \(0 to 1\)$"):
        names.known(7)


def test_capitals_matter_where_they_tell_classes_apart():
    names = Names("single", given("Cut", "cut"))
    assert (names.id_of("Cut"), names.id_of("cut")) == (0, 1)


def test_a_name_is_of_one_class():
    with pytest.raises(DataError, match="names cut twice"):
        Names("single", given("cut", "cut"))


def test_rows_without_a_name_have_that_of_their_video_and_place(tmp_path):
    found = checked(listing(tmp_path, row(), row("x:2", start=2.0, stop=3.0), row("x:3", "b")), Request())
    assert [one.name for one in found.rows] == ["a_0", "a_1", "b_0"]


def test_names_keep_their_place_where_rows_are_left_out(tmp_path):
    rows = (row(), row("x:2", start=2.0, stop=3.0), row("x:3", "b"))
    found = checked(listing(tmp_path, *rows), Request(without=frozenset({"a_0", "b"})))
    assert [one.name for one in found.rows] == ["a_1"]
    with pytest.raises(UsageError, match="--without c: there is no video and no row of this name"):
        checked(listing(tmp_path, *rows), Request(without=frozenset({"c"})))


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (row("x:2"), "x:2: is the same row as x:1; delete one"),
        (row("x:2", split="test"), "x:2: is the same row as x:1, there as train, here as test"),
        (row("x:2", start=5.0, stop=6.0, name="a_0"), "x:2: row a_0 occurs twice, first in x:1"),
        (
            row("x:2", start=5.0, stop=6.0, participant="P1"),
            "x:2: video a belongs to P1, but to unknown in x:1",
        ),
        (row("x:2", start=5.0, stop=5.0), r"x:2: ends at 5\.00 s, not after its start at 5\.00 s"),
        (row("x:2", start=5.0, stop=90_000.0), r"x:2: ends at 90,000 s, 1\.0 days into the video"),
    ],
)
def test_what_cannot_be_meant_is_named_with_both_places(tmp_path, second, said):
    with pytest.raises(DataError, match=said):
        checked(listing(tmp_path, row(), second), Request())


def test_columns_that_are_swapped_are_one_fault(tmp_path):
    with pytest.raises(
        DataError, match=r"^x:1: every row ends before it starts; are start and stop swapped\?"
    ):
        checked(listing(tmp_path, row(start=2.0), row("x:2", start=9.0, stop=8.0)), Request())


def test_a_listing_without_training_rows_says_so(tmp_path):
    found = checked(listing(tmp_path, row(split="validation")), Request())
    assert found.notes == ["no row is for training, all are of validation"]


def test_splits_are_known_or_said():
    assert split_named("val", {"val": "validation"}, Request()) == "validation"
    assert split_named("val", {"val": "validation"}, Request(splits={"val": "train"})) == "train"
    with pytest.raises(UsageError, match=r"x; say which split .* --split train\|validation\|test"):
        split_of_all(Request(), "x")


def test_files_are_found_or_what_lies_there_is_said(tmp_path):
    (tmp_path / "b.txt").write_text("one\n\n two \n\n")
    assert file_in(tmp_path, "a.txt", "b.txt") == "b.txt"
    with pytest.raises(DataError, match=r"has no a\.txt and no c\.txt; there are b\.txt"):
        file_in(tmp_path, "a.txt", "c.txt")
    with pytest.raises(DataError, match="no such folder"):
        file_in(tmp_path / "none", "a.txt")
    lines = list(text_lines(Tables(tmp_path), "b.txt"))
    assert lines == [(f"{tmp_path / 'b.txt'}:{n}", text) for n, text in ((1, "one"), (2, ""), (3, "two"))]


def test_whole_numbers_have_no_sign_and_no_point():
    assert [whole(text) for text in ("12", "-1", "1.0", "")] == [12, None, None, None]


def test_a_class_list_is_doubted_where_most_words_are_of_other_classes():
    agreement("x", 5, 10)
    agreement("x", 0, 0)
    with pytest.raises(DataError, match=r"x: of 10 labels only 4 name the class"):
        agreement("x", 4, 10)
