"""A small class list with every trap of EK100's, and rows over it."""

import re
from pathlib import Path

from mambavl.cache.classes import verb_noun_classes
from mambavl.extract.annotations import Annotations, Segment
from mambavl.extract.class_lists import ClassList
from mambavl.extract.questions import Question, generate

VERBS = {  # key: (instances, category)
    "take": (("get", "grab", "pick-up", "take", "take-out", "collect-from"), "retrieve"),
    "put": (("lay", "put", "put-down", "put-on", "set-down"), "leave"),
    "turn-on": (("light", "switch-on", "turn-on"), "access"),
    "turn-off": (("switch-off", "turn-off"), "block"),
    "peel": (("peel", "skin"), "split"),
    "cut": (("chop", "cut", "dice", "slice", "slice-through"), "split"),
    "brush": (("brush", "sweep"), "clean"),
    "water": (("water", "wet"), "manipulate"),
    "hang": (("hand", "hang", "hang-up"), "leave"),
    "cook": (("cook", "fry", "stir-fry"), "manipulate"),
}
NOUNS = {
    "tap": (("tap", "tap:water", "water:tap"), "appliances"),
    "plate": (("plate", "dish", "saucer"), "crockery"),
    "board:chopping": (("board:chopping", "board", "board:cutting"), "utensils"),
    "potato": (("potato", "piece:potato"), "vegetables"),
    "knife": (("knife", "blade"), "cutlery"),
    "leaf": (("leaf", "leaf:bay"), "vegetables"),
    "brush": (("brush", "brush:washing"), "cleaning equipment and material"),
    "water": (("water",), "drinks"),
    "hand": (("hand", "finger"), "hand"),
    "table": (("table",), "furniture"),
}


def class_list(table: dict[str, tuple[tuple[str, ...], str]]) -> ClassList:
    return ClassList(
        keys=dict(enumerate(table)),
        instances={i: instances for i, (instances, _) in enumerate(table.values())},
        categories={i: category for i, (_, category) in enumerate(table.values())},
    )


def annotations(verbs: dict = VERBS, nouns: dict = NOUNS, segments: tuple[Segment, ...] = ()) -> Annotations:
    return Annotations(
        folder=Path("toy"),
        segments=segments,
        classes=verb_noun_classes(class_list(verbs).keys, class_list(nouns).keys),
        lists={"verb": class_list(verbs), "noun": class_list(nouns)},
        videos={},
    )


def segment(
    narration: str,
    verb_class: str,
    noun_class: str,
    *,
    verb: str = "",
    noun: str = "",
    name: str = "P01_01_0",
    **more,
) -> Segment:
    return Segment(
        narration_id=name,
        participant_id="P01",
        video_id="P01_01",
        narration_timestamp="",
        start=0.0,
        stop=1.0,
        start_frame=1,
        stop_frame=60,
        split="validation",
        narration=narration,
        verb=verb or verb_class,
        noun=noun or noun_class,
        labels={"verb": list(VERBS).index(verb_class), "noun": list(NOUNS).index(noun_class)},
        **more,
    )


def ask(row: Segment, data: Annotations | None = None) -> Question:
    (question,) = generate(data or annotations(), "oracle", [row])
    return question


def context(text: str) -> str:
    return re.search(r'"(.*)"', text).group(1)
