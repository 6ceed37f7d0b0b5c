"""What messages are made of; and every error of the project comes back from another process as it was."""

import importlib
import pickle
import pkgutil
from pathlib import Path

import mambavl
from mambavl.configs.errors import counted, did_you_mean, differs, edit_distance, some

ARGUMENTS = {  # of errors that are made of more than their text
    "mambavl.cache.interchange.lookup.Fault": ("missing_video", "why"),
    "mambavl.cache.join.JoinError": ([("P01_101_0", "has no verb"), ("P01_101_1", "is twice")],),
    "mambavl.extract.isolated.Lost": ("P01_101", "frame 17", "hung"),
    "mambavl.extract.job.OtherRecipe": (["decoder: pyav -> decord"],),
    "mambavl.extract.questions.llm.replies.Rejected": ("words", "too many"),
    "mambavl.extract.timeline.VideoError": ("damaged_frame", "why"),
    "mambavl.fuse.owner.RunHeld": (Path("run"), "a process"),
}


def subclasses(kind):
    for below in kind.__subclasses__():
        yield below
        yield from subclasses(below)


def test_every_error_of_the_project_comes_out_of_a_pickle_as_it_went_in():
    """Worker processes hand them on; one that does not come back would hide what went wrong."""
    for module in pkgutil.walk_packages(mambavl.__path__, "mambavl."):
        if not module.name.rpartition(".")[2].startswith("_"):  # the command itself, and what is made of C
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:  # an optional package
                if str(error.name).startswith("mambavl"):
                    raise
    kinds = {kind for kind in subclasses(Exception) if kind.__module__.partition(".")[0] == "mambavl"}
    names = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in kinds}
    assert names.keys() >= {*ARGUMENTS, "mambavl.configs.errors.Interrupted"}
    for name, kind in names.items():
        error = kind(*ARGUMENTS.get(name, ("what is wrong, where, and what to do",)))
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is kind
        assert (str(back), vars(back)) == (str(error), vars(error)), name


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
