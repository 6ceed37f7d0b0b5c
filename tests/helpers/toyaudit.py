"""A labelled toy set with a clean question for each row, for the tests of the audit."""

from dataclasses import replace

from helpers import toyclasses
from helpers.toyclasses import NOUNS, annotations, segment
from mambavl.extract.questions import generate, write_questions

VERBS = toyclasses.VERBS | {  # a hint needs three classes to choose among
    "fetch": (("fetch",), "retrieve"), "gather": (("gather",), "retrieve"), "grate": (("grate",), "split"),
    "open": (("open",), "access"), "unlock": (("unlock",), "access"),
}  # fmt: skip


TABLES = {"verb": VERBS, "noun": NOUNS}


def toy_rows(count: int):
    """Rows of four verbs and six nouns, dealt so that neither tells of the other; every fifth video is for
    validation.
    """
    verbs, nouns = ("take", "peel", "turn-on", "cut"), ("tap", "plate", "knife", "leaf", "table", "potato")
    rows = []
    for number in range(count):
        verb, noun = verbs[number % 4 if number % 3 else 0], nouns[number // 4 % 6]
        row = segment(f"{verb} the {noun}", verb, noun, name=f"P01_{number // 8}_{number}")
        rows.append(
            replace(
                row, video_id=f"P01_{number // 8}", split="validation" if number // 8 % 5 == 4 else "train"
            )
        )
    return tuple(rows)


DATA = annotations(VERBS, segments=toy_rows(480))


CLEAN = list(generate(DATA, "oracle"))


def write(path, questions=CLEAN):
    write_questions(path, questions)
    return path
