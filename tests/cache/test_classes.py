"""classes.json: written and read back in both forms, and what cannot be meant is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.tiny import CLASSES
from mambavl.cache.classes import Classes, Derived, RowGroup, Target, fits_schema_2, verb_noun_classes

DATA = Path(__file__).parents[1] / "data"
GOLDEN = sorted(
    file for folder in ("schema-2", "before-targets") for file in DATA.glob(f"{folder}/**/classes.json")
)
OWN = Classes(
    targets={
        "tool": Target({0: "knife", 4: "fork"}, 5, sets={"rare": (4,)}),
        "grip": Target({0: "firm", 1: "loose"}, 2),
        "scene": Target({0: "indoors", 1: "night"}, 2, "multi"),
    },
    derived={"use": Derived(("tool", "grip"), pairs=((0, 1), (4, 0))), "other": Derived(("grip", "tool"))},
    groups={"far": RowGroup("video_id", ("V1", "V2"))},
)


@pytest.mark.parametrize("classes", [CLASSES, OWN], ids=["EK100's kind", "own"])
def test_classes_come_back_as_they_were_in_their_order(classes):
    back = Classes.from_json(classes.to_json())
    assert back == classes
    assert back.names == classes.names  # the order in which classifiers are drawn; equality ignores it
    assert back.group_names == classes.group_names
    assert all(isinstance(number, int) for target in back.targets.values() for number in target.classes)


def test_ek100s_lists_are_a_preset():
    classes = verb_noun_classes(
        {0: "take", 3: "cut"}, {1: "cup"}, tail_verbs=[3, 0], unseen_participants={"P2", "P1"}
    )
    assert classes.names == ("verb", "noun", "action")
    assert classes.group_names == ("all", "unseen", "tail")
    assert (classes.targets["verb"].count, classes.targets["noun"].count) == (4, 2)  # ids may have gaps
    assert classes.targets["verb"].sets == {"tail": (0, 3)}
    assert classes.derived["action"] == Derived(("verb", "noun"))
    assert classes.groups["unseen"] == RowGroup("participant_id", ("P1", "P2"))


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: "/".join(file.parts[-4:-1]))
def test_lists_of_schema_2_are_read_and_written_to_the_byte(file):
    data = file.read_bytes()
    raw, classes = json.loads(data), Classes.from_json(data)
    assert "verbs" in raw, "the golden files are of schema 2"
    assert fits_schema_2(classes)
    assert classes.to_json(schema=2) == data
    assert {str(k): v for k, v in classes.targets["noun"].classes.items()} == raw["nouns"]
    assert classes.targets["noun"].sets["tail"] == tuple(raw["tail_nouns"])
    assert classes.targets["verb"].count == raw["num_verbs"]
    assert classes.groups["unseen"].values == tuple(raw["unseen_participants"])
    assert Classes.from_json(classes.to_json()) == classes


def test_schema_2_can_say_no_more_than_verbs_and_nouns():
    assert fits_schema_2(CLASSES)
    assert not fits_schema_2(OWN)
    assert not fits_schema_2(replace(CLASSES, derived={}))
    assert not fits_schema_2(replace(CLASSES, groups={**CLASSES.groups, "far": RowGroup("video_id", ())}))
    turned = dict(reversed(CLASSES.targets.items()))
    assert not fits_schema_2(replace(CLASSES, targets=turned)), "the order of classifiers would be lost"


def test_rows_that_nobody_labelled_have_no_targets():
    nothing = Classes({})
    assert Classes.from_json(nothing.to_json()) == nothing
    assert nothing.names == ()
    assert not fits_schema_2(nothing)


TOOL = OWN.targets["tool"]
FAR = RowGroup("video_id", ("V",))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"targets": {"Tool": TOOL}}, "'Tool' cannot name"),
        ({"targets": {"all": TOOL}}, "'all' cannot name"),
        ({"targets": {"verb_label": TOOL}}, "'verb_label' cannot name"),
        ({"targets": {"all_noun": TOOL}}, "'all_noun' cannot name"),
        ({"groups": {"all": RowGroup("video_id", ())}}, "'all' cannot name"),
        ({"groups": {"Far": RowGroup("video_id", ())}}, "'Far' cannot name"),
        ({"groups": {"far": RowGroup("weather", ())}}, "not by weather"),
        ({"targets": {"tool": replace(TOOL, kind="both")}}, "kind is single or multi"),
        ({"targets": {"tool": replace(TOOL, count=4)}}, "classes name class 4, which is not among"),
        ({"targets": {"tool": replace(TOOL, sets={"rare": (5,)})}}, "rare name class 5, which"),
        ({"targets": {"tool": replace(TOOL, sets={"rare": (2,)})}}, "rare name class 2, which"),  # a gap
        ({"targets": {"tool": Target({}, 0)}}, "has no class"),
        (
            {"groups": {"rare": RowGroup("video_id", ("V",))}},
            "rare names a group of rows and a group of classes",
        ),
        (
            {"targets": {"tool": TOOL, "west_tool": TOOL}, "groups": dict.fromkeys(("far", "far_west"), FAR)},
            "group far_west of target tool and group far of target west_tool",
        ),
        ({"derived": {"use": Derived(("tool",))}}, "two or more"),
        ({"derived": {"use": Derived(("tool", "tool"))}}, "two or more"),
        ({"derived": {"use": Derived(("tool", "weather"))}}, "no target weather"),
        ({"derived": {"use": Derived(("tool", "scene"))}}, "scene is multi-label"),
        ({"derived": {"tool": Derived(("tool", "grip"))}}, "names a target and a derived"),
        ({"derived": {"use": Derived(("tool", "grip"), pairs=())}}, "list of combinations"),
        ({"derived": {"use": Derived(("tool", "grip"), pairs=((0, 0), (0, 0)))}}, "each once"),
        ({"derived": {"use": Derived(("tool", "grip"), pairs=((0, 2),))}}, "no combination"),
        ({"derived": {"use": Derived(("tool", "grip"), pairs=((0,),))}}, "no combination"),
        ({"derived": {"use": Derived(("tool", "grip"), pairs=((1, 0),))}}, "no combination"),  # a gap
    ],
)
def test_what_cannot_be_meant_is_refused(changes, fault):
    own = {"targets": OWN.targets} | ({} if "targets" in changes else {"derived": OWN.derived})
    with pytest.raises(ValueError, match=fault):
        Classes(**{**own, **changes})


@pytest.mark.parametrize("data", [b"[]", b"{}", b'{"targets": [{}]}', b'{"verbs": {}}', b'{"targets": 1}'])
def test_other_files_are_no_lists_of_classes(data):
    with pytest.raises(ValueError, match="class"):
        Classes.from_json(data)
