"""Predicted questions: what a scores file must be, that no label and no narration of a scored row is ever
read.
"""

import random
from dataclasses import asdict, replace

import numpy as np
import pytest

from helpers.cli import call
from helpers.dataset import make_dataset
from helpers.toyclasses import NOUNS, VERBS, annotations, segment
from mambavl.cache.scores import best_classes
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.annotations import read_annotations
from mambavl.extract.questions import generate, read_questions, write_questions
from mambavl.extract.questions.predicted import predict
from mambavl.fuse import metrics


def rows(split: str, count: int, first: int = 0):
    verbs, nouns = list(VERBS), list(NOUNS)
    made = []
    for number in range(first, first + count):
        verb, noun = verbs[number % len(verbs)], nouns[(3 * number) % len(nouns)]
        row = segment(f"quickly {verb} my {noun} by the window", verb, noun, name=f"P01_01_{number}")
        made.append(replace(row, split=split))
    return tuple(made)


TRAIN, VALIDATION = rows("train", 20), rows("validation", 12, first=20)
ALL = annotations(segments=TRAIN + VALIDATION)


def scores(path, segments, *, seed=0, **changes):
    """A scores file of some rows; `changes` replace arrays, None drops one."""
    dice = np.random.default_rng(seed)
    arrays = {
        "narration_id": np.array([s.narration_id for s in segments]),
        "verb": np.log(dice.dirichlet(np.ones(len(VERBS)), len(segments))).astype(np.float32),
        "noun": np.log(dice.dirichlet(np.ones(len(NOUNS)), len(segments))).astype(np.float32),
    } | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_questions_are_those_of_the_predicted_classes_in_pseudo_narration(tmp_path):
    found = scores(tmp_path / "val.npz", VALIDATION)
    questions = list(predict(ALL, [found]))
    assert [q.narration_id for q in questions] == [s.narration_id for s in ALL.segments]
    assert {q.protocol for q in questions} == {"predicted"}
    assert {q.prompt_version.partition(", ")[2] for q in questions} == {"train rows from labels"}
    guesses = best_classes(found, num_verbs=len(VERBS), num_nouns=len(NOUNS))
    verbs, nouns = ALL.verbs, ALL.nouns
    for row, question in zip(VALIDATION, questions[len(TRAIN) :], strict=True):
        at = guesses.narration_ids.index(row.narration_id)
        verb, noun = int(guesses.verb[at]), int(guesses.noun[at])
        stand_in = replace(
            row, verb=verbs.keys[verb], noun=nouns.keys[noun], labels={"verb": verb, "noun": noun},
            narration=f"{verbs.words(verb)} {nouns.words(noun)}",
        )  # fmt: skip
        (expected,) = generate(ALL, "oracle", [stand_in])
        assert question.verb_question == expected.verb_question
        assert question.noun_question == expected.noun_question
        assert "window" not in question.verb_question + question.noun_question
    # train rows look like the others
    assert not any("window" in q.verb_question + q.noun_question for q in questions)
    assert write_questions(tmp_path / "q.jsonl", questions) == len(ALL.segments)
    assert [*read_questions(tmp_path / "q.jsonl").values()] == questions


def test_no_label_and_no_narration_of_a_scored_row_is_read(tmp_path):
    """Labels and words of the validation rows are shuffled: the file is the same, byte for byte."""
    found = scores(tmp_path / "val.npz", VALIDATION)
    write_questions(tmp_path / "a.jsonl", predict(ALL, [found]))
    dice = random.Random(1)
    for trial in range(3):
        dealt = dice.sample(VALIDATION, len(VALIDATION))
        words = (
            "narration",
            "verb",
            "noun",
            "all_nouns",
            "all_noun_classes",
            "labels",
            "words_from_classes",
        )
        shuffled = tuple(
            replace(row, **{name: asdict(other)[name] for name in words})
            for row, other in zip(VALIDATION, dealt, strict=True)
        )
        assert shuffled != VALIDATION
        blank = replace(shuffled[0], narration="", verb="", noun="", labels={})
        write_questions(
            tmp_path / "b.jsonl", predict(annotations(segments=(*TRAIN, blank, *shuffled[1:])), [found])
        )
        assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes(), trial


def test_no_word_of_a_scored_row_changes_the_wording(tmp_path):
    """Templates avoid what rows call their own verb and noun; those of scored rows must not be looked at."""
    found = scores(tmp_path / "val.npz", VALIDATION)
    words = tuple(replace(row, verb="narrate", noun="object") for row in VALIDATION)
    assert [*predict(annotations(segments=(*TRAIN, *words)), [found])] == [*predict(ALL, [found])]


def test_train_rows_may_come_from_runs_that_held_them_out(tmp_path):
    val = scores(tmp_path / "val.npz", VALIDATION)
    folds = [scores(tmp_path / f"{n}.npz", TRAIN[n::3], seed=n) for n in range(3)]
    questions = list(predict(ALL, [val], train_from=folds))
    bare = [replace(s, narration="", verb="", noun="", labels={}) for s in ALL.segments]
    # no label of any row is read now
    assert list(predict(ALL, [val], train_from=folds, segments=bare)) == questions
    assert questions[0].prompt_version.endswith("train rows from scores")
    assert [q.masked for q in questions] != [q.masked for q in predict(ALL, [val])]
    with pytest.raises(
        DataError, match=r"0\.npz and .*1\.npz: no scores for 6 of 20 rows \(P01_01_2, P01_01_5"
    ):
        predict(ALL, [val], train_from=folds[:2])
    again = scores(tmp_path / "again.npz", TRAIN[:2])
    with pytest.raises(
        DataError, match=r"again\.npz: holds 2 rows that .*0\.npz holds, too \(P01_01_0, P01_01_1\)"
    ):
        predict(ALL, [val], train_from=[*folds, again])


def test_pair_scores_are_summed_as_the_metrics_sum_them(tmp_path):
    pairs = np.array([(v, n) for v in range(0, len(VERBS), 2) for n in range(len(NOUNS)) if (v + n) % 3])
    action = np.random.default_rng(3).normal(size=(len(VALIDATION), len(pairs))) * 3
    path = scores(tmp_path / "a.npz", VALIDATION, verb=None, noun=None, action=action, pairs=pairs)
    verb, noun = metrics.marginalize(action, pairs, num_verbs=len(VERBS), num_nouns=len(NOUNS))
    found = best_classes(path, num_verbs=len(VERBS), num_nouns=len(NOUNS))
    np.testing.assert_array_equal(found.verb, verb.argmax(1))
    np.testing.assert_array_equal(found.noun, noun.argmax(1))
    # a class without a pair is never the best
    assert not set(found.verb.tolist()) & set(range(1, len(VERBS), 2))
    assert len(list(predict(ALL, [path]))) == len(ALL.segments)


def test_rows_that_are_not_asked_for_may_stand_in_the_file(tmp_path):
    path = scores(tmp_path / "all.npz", TRAIN + VALIDATION)
    assert len(list(predict(ALL, [path], segments=VALIDATION[:3]))) == 3
    assert len(list(predict(ALL, [], segments=TRAIN))) == len(TRAIN)


V, N, IDS = len(VERBS), len(NOUNS), len(VALIDATION)
ONES = np.ones((IDS, V))


VERB_PAIRS = np.array([(verb, 0) for verb in range(V)])


def spoilt(value, row=4):
    array = ONES.copy()
    array[row] = value
    return array


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"narration_id": None}, r"holds verb, noun; a scores file holds narration_id"),
        ({"noun": None}, r"holds narration_id, verb; a scores file"),
        ({"verb": ONES[:-1]}, r"verb is float64 of shape \(11, 10\); 12 ids and 10 columns"),
        ({"verb": ONES[:, :-1]}, r"verb is float64 of shape \(12, 9\)"),
        ({"verb": ONES[:, 0]}, r"verb is float64 of shape \(12,\)"),
        ({"verb": ONES.astype("U3")}, r"verb is <U3 of shape"),
        (
            {"verb": spoilt(np.nan)},
            r"verb of row P01_01_24 holds NaN, infinity or nothing but -infinity \(1 such rows\)",
        ),
        ({"verb": spoilt(np.inf)}, r"verb of row P01_01_24 holds NaN"),
        ({"verb": spoilt(-np.inf)}, r"verb of row P01_01_24 holds NaN"),
        ({"narration_id": np.array(["a"] * IDS)}, r"narration_id a stands there twice \(11 such rows\)"),
        (
            {"narration_id": np.arange(IDS)},
            r"narration_id is int64 of shape \(12,\); it is a text for each row",
        ),
        (
            {"narration_id": np.array([s.narration_id for s in VALIDATION], object)},
            r"val\.npz: is not a scores file",
        ),
        ({"narration_id": np.array([f"P09_{n}" for n in range(IDS)])}, r"no scores for 12 of 12 rows"),
        ({"verb": None, "noun": None, "action": ONES}, r"holds narration_id, action; a scores"),
        (
            {"verb": None, "noun": None, "action": ONES, "pairs": np.zeros((9, 3), int)},
            r"pairs is int64 of shape \(9, 3\)",
        ),
        (
            {"verb": None, "noun": None, "action": ONES, "pairs": np.zeros((V, 2), int)},
            r"names a verb-noun pair twice",
        ),
        (
            {"verb": None, "noun": None, "action": ONES, "pairs": np.array([(0, N)] * V)},
            r"pairs names \[0, 10\]; there are 10",
        ),
        (
            {"verb": None, "noun": None, "action": spoilt(np.nan, 0), "pairs": VERB_PAIRS},
            r"action of row P01_01_20 holds NaN",
        ),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_right_is_named_with_what_is_wrong(tmp_path, changes, message):
    path = scores(tmp_path / "val.npz", VALIDATION, **changes)
    with pytest.raises(DataError, match=message):
        predict(ALL, [path])


def test_what_is_no_scores_file_at_all(tmp_path):
    with pytest.raises(UsageError, match=r"12 rows are not of split train.*--scores FILE\.npz"):
        predict(ALL, [])
    with pytest.raises(DataError, match=r"gone\.npz: cannot be read \(No such file"):
        predict(ALL, [tmp_path / "gone.npz"])
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(DataError, match=r"text\.npz: is not a scores file"):
        predict(ALL, [tmp_path / "text.npz"])
    np.save(tmp_path / "one.npy", ONES)
    with pytest.raises(DataError, match=r"one\.npy: is not a scores file \(it is a single array\)"):
        predict(ALL, [tmp_path / "one.npy"])
    path = scores(tmp_path / "val.npz", VALIDATION)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match=r"val\.npz: is not a scores file"):
        predict(ALL, [path])
    with pytest.raises(DataError, match="1 train rows have no labels"):
        predict(ALL, [], segments=[TRAIN[0].labelled(verb=None)])


def test_a_best_class_that_the_class_file_does_not_have_is_refused(tmp_path):
    path = scores(tmp_path / "val.npz", VALIDATION)
    holes = annotations(segments=ALL.segments)
    best = best_classes(path, num_verbs=V, num_nouns=N).verb
    lost = next(c for c in sorted(set(best.tolist())) if c != V - 1)
    del holes.verbs.keys[lost]
    with pytest.raises(DataError, match=f"its best verb class {lost} is not in the class file"):
        predict(holes, [path])


def test_the_command_takes_scores_and_says_where_they_do_not_belong(tmp_path, capsys):
    data = make_dataset(tmp_path)
    read = read_annotations(data / "annotations")
    two = {"verb": np.eye(2)[[0] * 5], "noun": np.eye(2)[[1] * 5]}
    val = scores(tmp_path / "val.npz", [s for s in read.segments if s.split == "validation"], **two)
    three = {"verb": np.eye(2)[[1] * 15], "noun": np.eye(2)[[0] * 15]}
    folds = scores(tmp_path / "folds.npz", [s for s in read.segments if s.split == "train"], **three)
    words = (
        "questions",
        "generate",
        "--annotations",
        data / "annotations",
        "--out",
        tmp_path / "q.jsonl",
        "--protocol",
    )
    assert call(*words, "predicted", "--scores", val, "--train-from", folds) == 0
    assert "wrote 20 question pairs (predicted protocol" in capsys.readouterr().out
    questions = read_questions(tmp_path / "q.jsonl")
    masked = {s.split: questions[s.narration_id].masked["verb_question"] for s in read.segments}
    assert masked == {"train": ["wash", "onion"], "validation": ["cut", "cup"]}
    assert call(*words, "predicted", "--scores", val) == 0
    capsys.readouterr()
    plan = (
        "questions",
        "plan",
        *words[2:],
        "predicted",
        "--model",
        "m",
        "--scores",
        val,
        "--train-from",
        folds,
    )
    assert call(*plan) == 0
    assert "2 for descriptions, 2 for questions" in capsys.readouterr().out  # `wash onion` and `cut cup`
    for wrong in (
        ("predicted",),
        ("oracle", "--scores", val),
        ("predicted", "--scores", val, "--train-from", "labels", "--train-from", folds),
    ):
        assert call(*words, *wrong) == 2
    assert call(*words, "predicted", "--scores", folds) == 1
    assert "no scores for 5 of 5 rows" in capsys.readouterr().err
