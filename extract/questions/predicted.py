"""Protocol `predicted`: questions about what a recogniser saw, so that no label is needed to ask them.

A segment's labels and its narration (written by people who saw the action) are thrown away. In their place
stand the recogniser's best verb and noun class, and a narration made of their keys: "turn on tap". Only
`train` rows may take the classes of their own labels instead, in the same words; or better, scores of runs
that held each row out, since a recogniser is wrong at times and the head should learn so.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mambavl.cache.rows import Segment
from mambavl.cache.scores import BestClasses, best_classes
from mambavl.configs.errors import DataError, UsageError, some
from mambavl.extract.annotations import Annotations
from mambavl.extract.questions.file import Question
from mambavl.extract.questions.labels import classes_of, is_labelled
from mambavl.extract.questions.template import generate

Classes = dict[str, tuple[int, int]]  # narration_id -> (verb, noun)


def predict(
    annotations: Annotations,
    scores: Sequence[Path],
    *,
    train_from: Sequence[Path] = (),
    segments: Sequence[Segment] | None = None,
    hints: bool = True,
) -> Iterator[Question]:
    """Questions of `segments` (all of them by default), in their order, as protocol `predicted`.

    scores: scores files (cache/scores.py) that together hold every row outside `train` exactly once.
    train_from: the same for the train rows, from runs that did not train on them (`data.hold_out`); without,
    train rows take their labels. Any file may hold other rows, too.

    Raises as `as_predicted`.
    """
    seen = as_predicted(annotations, scores, train_from=train_from, segments=segments)
    return from_templates(annotations, seen, origin(train_from), hints=hints)


def from_templates(
    annotations: Annotations, seen: Sequence[Segment], origin: str, *, hints: bool = True
) -> Iterator[Question]:
    """Template questions about segments that `as_predicted` gave."""
    # templates avoid the words of all rows, and scored rows' must not be looked at
    blind = replace(annotations, segments=())
    return named(generate(blind, "oracle", seen, hints=hints), origin)


def named(questions: Iterable[Question], origin: str) -> Iterator[Question]:
    """Questions about relabelled segments under the protocol that they then have."""
    return (
        replace(q, protocol="predicted", prompt_version=f"{q.prompt_version}, {origin}") for q in questions
    )


def origin(train_from: Sequence[Path]) -> str:
    """What the prompt version says of the train rows: halves of one store must have the same."""
    return f"train rows from {'scores' if train_from else 'labels'}"


def as_predicted(
    annotations: Annotations,
    scores: Sequence[Path],
    *,
    train_from: Sequence[Path] = (),
    segments: Sequence[Segment] | None = None,
) -> list[Segment]:
    """The segments as the recogniser saw them: its classes, and a narration of their keys, in place of all
    words and labels.

    Arguments as of `predict`. Raises UsageError without scores for rows outside train, DataError naming the
    rows that no file holds or two files hold.
    """
    segments = annotations.segments if segments is None else segments
    trained = [segment for segment in segments if segment.split == "train"]
    others = [segment for segment in segments if segment.split != "train"]
    if others and not scores:
        raise UsageError(
            f"{len(others):,} rows are not of split train, and predicted questions never read a label there; "
            "name a recogniser's scores with --scores FILE.npz"
        )
    classes = _predictions(annotations, scores, others)
    classes |= _predictions(annotations, train_from, trained) if train_from else _labels(trained)
    return [_as_if(annotations, segment, *classes[segment.narration_id]) for segment in segments]


def _as_if(annotations: Annotations, segment: Segment, verb: int, noun: int) -> Segment:
    """The segment with all its words and classes replaced; id, times and split stay."""
    verbs, nouns = annotations.verbs, annotations.nouns
    return replace(
        segment,
        narration=f"{verbs.words(verb)} {nouns.words(noun)}",
        verb=verbs.keys[verb],
        noun=nouns.keys[noun],
        all_nouns=(nouns.keys[noun],),
        all_noun_classes=(noun,),
        labels={"verb": verb, "noun": noun},
        words_from_classes=True,
    )


def _labels(segments: Sequence[Segment]) -> Classes:
    unlabelled = [segment.narration_id for segment in segments if not is_labelled(segment)]
    if unlabelled:
        raise DataError(
            f"{len(unlabelled):,} train rows have no labels ({some(unlabelled)}); name scores with "
            "--train-from FILE"
        )
    return {segment.narration_id: classes_of(segment) for segment in segments}


def _predictions(annotations: Annotations, paths: Sequence[Path], segments: Sequence[Segment]) -> Classes:
    wanted = {segment.narration_id for segment in segments}
    found: Classes = {}
    holder: dict[str, Path] = {}
    for path in paths:
        guesses = best_classes(path, num_verbs=annotations.verbs.size, num_nouns=annotations.nouns.size)
        mine = [row for row, name in enumerate(guesses.narration_ids) if name in wanted]
        twice = [guesses.narration_ids[row] for row in mine if guesses.narration_ids[row] in found]
        if twice:
            raise DataError(
                f"{path}: holds {len(twice):,} rows that {holder[twice[0]]} holds, too ({some(twice)}); "
                "every row has one prediction"
            )
        _refuse_unknown_classes(annotations, guesses)
        for row in mine:
            name = guesses.narration_ids[row]
            found[name], holder[name] = (int(guesses.verb[row]), int(guesses.noun[row])), path
    missing = [segment.narration_id for segment in segments if segment.narration_id not in found]
    if missing:
        named = " and ".join(map(str, paths))
        raise DataError(
            f"{named}: no scores for {len(missing):,} of {len(segments):,} rows ({some(missing)})"
        )
    return found


def _refuse_unknown_classes(annotations: Annotations, guesses: BestClasses) -> None:
    for kind, classes, best in (
        ("verb", annotations.verbs, guesses.verb),
        ("noun", annotations.nouns, guesses.noun),
    ):
        for row, class_id in enumerate(best.tolist()):
            if class_id not in classes.keys:
                raise DataError(
                    f"{guesses.path}: row {guesses.narration_ids[row]}: its best {kind} class {class_id} is "
                    "not in the class file"
                )
