"""Files of scores against lists: the measures of the run that wrote them, and what does not fit."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.mixing import CLASSES, make_kitchens, recipe
from helpers.paths import DATA
from mambavl.cache import open_store
from mambavl.cache.classes import Classes, RowGroup, Target
from mambavl.cache.scores import marginalize
from mambavl.configs.errors import DataError
from mambavl.fuse import metrics
from mambavl.fuse.run import read_classes, read_result
from mambavl.fuse.scored import measure_scores, pairs_by_text, read_scores_file
from mambavl.fuse.train import train

VALIDATION = [segment for segment in make_kitchens() if segment.split == "validation"]


@pytest.fixture
def arrays(mixable):
    return dict(np.load(mixable / "mlp" / "scores" / "validation.npz"))


def found(path, arrays=None, segments=None, classes=CLASSES):
    if arrays is not None:
        np.savez(path, **arrays)
    file = read_scores_file(path, classes)
    return measure_scores(file, VALIDATION if segments is None else segments, "validation")


@pytest.mark.parametrize("run", ["mlp", "counts"])
def test_a_run_s_file_has_the_measures_of_its_result_to_the_last_digit(mixable, run):
    """Groups of rows and of classes, relaxed recall, and actions by their pairs among them."""
    covered = found(mixable / run / "scores" / "validation.npz")
    assert covered.metrics == read_result(mixable / run).metrics
    assert {"unseen_action_top1", "tail_noun_top1", "relaxed_action_mean_class_recall5"} <= set(
        covered.metrics
    )
    assert (covered.listed, covered.scored) == (72, 72)
    assert (covered.missing, covered.unlisted, covered.unused) == ((), (), ())
    assert covered.relabelled == {}
    assert covered.groups == ("all", "unseen", "tail")


def test_actions_by_product_are_ranked_as_the_run_ranked_them(mixable, tmp_path):
    by_product = recipe(mixable / "past.zarr", "mlp", targets={"action": {"ranked_by": "product"}})
    result = train(by_product, tmp_path / "run")
    assert found(tmp_path / "run" / "scores" / "validation.npz").metrics == result.metrics


def test_scores_in_half_precision_are_measured_as_the_run_measured_them(mixable, tmp_path):
    keys = {"train": {"score_dtype": "float16", "keep": "scores"}}
    result = train(recipe(mixable / "past.zarr", "mlp", **keys), tmp_path / "run")
    assert found(tmp_path / "run" / "scores" / "validation.npz").metrics == result.metrics


def test_the_order_of_the_file_does_not_count(arrays, mixable, tmp_path):
    order = np.random.default_rng(0).permutation(72)
    names = [name for name in arrays if name != "pairs"]
    turned = {**arrays, **{name: arrays[name][order] for name in names}}
    assert found(tmp_path / "f.npz", turned).metrics == read_result(mixable / "mlp").metrics


def test_rows_on_one_side_alone_are_named_and_the_others_measured(arrays, mixable, tmp_path):
    covered = found(tmp_path / "f.npz", arrays, VALIDATION[2:])
    assert covered.unlisted == tuple(one.narration_id for one in VALIDATION[:2])
    assert (covered.listed, covered.scored, covered.metrics["all_verb_n"]) == (70, 70, 70)
    shorter = {name: one if name == "pairs" else one[:-3] for name, one in arrays.items()}
    covered = found(tmp_path / "g.npz", shorter)
    assert covered.missing == tuple(one.narration_id for one in VALIDATION[-3:])
    assert (covered.listed, covered.scored, covered.metrics["all_action_n"]) == (72, 69, 69)
    labels = [one.labels["verb"] for one in VALIDATION[:-3]]
    hits = shorter["verb"].argmax(1) == labels
    assert covered.metrics["all_verb_top1"] == pytest.approx(100 * hits.mean())


def test_labels_are_those_of_the_list_and_others_are_named(arrays, tmp_path):
    own = {**arrays, "verb_label": arrays["verb_label"].copy()}
    own["verb_label"][[4, 9]] += 1
    covered = found(tmp_path / "f.npz", own)
    assert covered.relabelled == {"verb": (VALIDATION[4].narration_id, VALIDATION[9].narration_id)}
    assert covered.metrics == found(tmp_path / "g.npz", arrays).metrics
    bare = {name: one for name, one in arrays.items() if not name.endswith("_label")}
    assert found(tmp_path / "h.npz", bare).metrics == covered.metrics


def test_verbs_and_nouns_of_action_scores_alone_are_sums_over_pairs(arrays, tmp_path):
    alone = {name: arrays[name] for name in ("narration_id", "action", "pairs")}
    covered = found(tmp_path / "f.npz", alone)
    verbs, nouns = marginalize(arrays["action"], arrays["pairs"], num_verbs=8, num_nouns=9)
    with np.errstate(divide="ignore"):
        expected = metrics.evaluate(
            np.log(verbs).astype(np.float32),
            np.log(nouns).astype(np.float32),
            arrays["verb_label"],
            arrays["noun_label"],
            action_scores=arrays["action"],
            pairs=arrays["pairs"].tolist(),
        )
    for key in ("all_verb_mean_class_recall5", "all_noun_top1", "all_action_top5"):
        assert covered.metrics[key] == expected[key]


def test_a_file_of_one_target_is_measured_for_it(arrays, tmp_path):
    covered = found(tmp_path / "f.npz", {name: arrays[name] for name in ("narration_id", "verb")} | {"x": 1})
    assert covered.targets == ("verb",)
    assert covered.unused == ("x",)
    assert not any("noun" in key or "action" in key for key in covered.metrics)


def test_several_classes_a_row_are_measured_too(tmp_path):
    """Of an own list: rows are of kinds 0, both, and none that is known; by hand, the mean of two average
    precisions, 1 and 1/2.
    """
    classes = Classes({"kind": Target({0: "a", 1: "b"}, 2, "multi")}, {}, {"far": RowGroup("video_id", ())})
    labels = [{"kind": (0,)}, {"kind": (0, 1)}, {}]
    rows = [replace(one, labels=label) for one, label in zip(VALIDATION[:3], labels, strict=True)]
    scores = np.array([[2.0, 2.0], [1.0, 1.0], [5.0, 5.0]])
    ids = np.array([one.narration_id for one in rows])
    given = np.array([[1, 0], [1, 1], [-1, -1]])
    covered = found(
        tmp_path / "f.npz", {"narration_id": ids, "kind": scores, "kind_label": given}, rows, classes
    )
    assert covered.metrics["all_kind_map"] == 75.0
    assert covered.relabelled == {}
    given[1, 1] = 0
    covered = found(
        tmp_path / "g.npz", {"narration_id": ids, "kind": scores, "kind_label": given}, rows, classes
    )
    assert covered.relabelled == {"kind": (rows[1].narration_id,)}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ({"verb": lambda one: one[:, :7]}, r"verb is float32 of shape \(72, 7\); 72 ids and 8 columns"),
        ({"noun": lambda one: np.where(one == one[5, 2], np.nan, one)}, "noun of row .* holds NaN"),
        ({"noun": lambda one: np.where(one == one[5, 2], np.inf, one)}, "noun of row .* holds NaN, infinity"),
        ({"action": lambda one: np.where(one == one[5, 2], -np.inf, one)}, "action holds -infinity"),
        ({"pairs": lambda one: one[1:]}, "action is float32 of shape"),
        ({"pairs": lambda one: np.where(one == one[0], 9, one)}, r"pairs names \[9, 9\], which are no"),
        ({"pairs": lambda one: one * 0}, "pairs names a combination twice"),
        ({"pairs": lambda one: one.astype(float)}, r"pairs is float64 .*; it is 2 classes a column"),
        ({"narration_id": lambda one: np.repeat(one[:36], 2)}, "stands there twice"),
        ({"narration_id": lambda one: np.arange(72)}, "it is a text for each row"),
        ({"narration_id": lambda one: np.char.add(one, "x")}, r"has 72 rows .* and none of the 72 rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_by_name(arrays, tmp_path, spoil, says):
    spoilt = {name: spoil[name](one) if name in spoil else one for name, one in arrays.items()}
    with pytest.raises(DataError, match=rf"f\.npz: .*{says}"):
        found(tmp_path / "f.npz", spoilt)


def test_what_is_no_file_of_scores_is_refused(arrays, mixable, tmp_path):
    def refused(says, **kept):
        with pytest.raises(DataError, match=says):
            found(tmp_path / "f.npz", kept)

    refused("and no narration_id", verb=arrays["verb"])
    refused("scores of none of the list's targets: verb, noun, action", narration_id=arrays["narration_id"])
    refused(
        "action has 37 columns and no `pairs` that says",
        narration_id=arrays["narration_id"],
        action=arrays["action"],
    )
    refused(r"is not a file of scores \(.*pickle", narration_id=np.array([{}], object))
    (tmp_path / "text.npz").write_text("verb")
    with pytest.raises(DataError, match=r"text\.npz: is not a file of scores"):
        read_scores_file(tmp_path / "text.npz", CLASSES)
    np.save(tmp_path / "one.npy", arrays["verb"])
    with pytest.raises(DataError, match=r"one\.npy: is not a file of scores"):
        read_scores_file(tmp_path / "one.npy", CLASSES)
    cut = (mixable / "mlp" / "scores" / "validation.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(cut[: len(cut) // 2])
    with pytest.raises(DataError, match=r"cut\.npz: is not a file of scores"):
        read_scores_file(tmp_path / "cut.npz", CLASSES)
    with pytest.raises(DataError, match=r"none\.npz: cannot be read \(No such file"):
        read_scores_file(tmp_path / "none.npz", CLASSES)


def test_a_list_without_labels_measures_nothing(arrays, tmp_path):
    bare = [replace(one, labels={}) for one in VALIDATION]
    with pytest.raises(DataError, match="the list of validation has no labels"):
        found(tmp_path / "f.npz", arrays, bare)


@pytest.mark.parametrize("name", ["mambavl", "mlp"])
def test_a_file_that_an_older_version_wrote_is_read(name):
    run = DATA / "before-targets" / "runs" / name
    rows = open_store(DATA / "before-targets" / "stores" / "video.zarr").segments
    listed = [segment for segment in rows if segment.split == "validation"]
    covered = found(run / "scores" / "validation.npz", None, listed, read_classes(run))
    before = read_result(run).metrics
    assert {key: covered.metrics[key] for key in before} == pytest.approx(before, rel=1e-12)
    assert covered.scored == covered.listed == len(listed)


# --- other people's


def test_columns_of_the_lists_pairs_are_taken_in_the_order_of_their_text(arrays, tmp_path):
    """(10, 3) comes before (9, 1): as text. The file's own pairs are all that the list's rows show, here."""
    rows = [
        replace(VALIDATION[0], labels={"verb": v, "noun": n}) for v, n in ((9, 1), (10, 3), (9, 0), (9, 1))
    ]
    assert pairs_by_text([*rows, replace(VALIDATION[0], labels={})], ("verb", "noun")) == (
        (10, 3),
        (9, 0),
        (9, 1),
    )
    by_text = tuple(sorted(map(tuple, arrays["pairs"].tolist()), key=lambda pair: "{}:{}".format(*pair)))
    whole = found(tmp_path / "whole.npz", arrays)
    place = {tuple(pair): column for column, pair in enumerate(arrays.pop("pairs").tolist())}
    arrays["action"] = arrays["action"][:, [place[pair] for pair in by_text]]
    np.savez(tmp_path / "f.npz", **arrays)
    file = read_scores_file(tmp_path / "f.npz", CLASSES, pairs_of=lambda name: {"action": by_text}[name])
    assert file.supposed == ("action",)
    assert measure_scores(file, VALIDATION, "validation").metrics == whole.metrics
    with pytest.raises(
        DataError, match=r"has 37 columns and no `pairs` .*, nor are they the 36 of the lists"
    ):
        read_scores_file(tmp_path / "f.npz", CLASSES, pairs_of=lambda _: by_text[1:])


def test_views_are_averaged_by_their_probabilities_or_their_scores(arrays, tmp_path):
    rng = np.random.default_rng(3)
    several = {
        name: arrays[name][:, None] + rng.normal(size=(72, 4, arrays[name].shape[1])) * 3
        for name in ("verb", "noun", "action")
    }
    np.savez(tmp_path / "f.npz", **{**arrays, **several})
    by = {
        average: read_scores_file(tmp_path / "f.npz", CLASSES, average=average)
        for average in ("probabilities", "logits")
    }
    assert [file.views for file in by.values()] == [4, 4]
    for name, scores in several.items():
        p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        np.testing.assert_allclose(np.exp(by["probabilities"].scores[name]), p.mean(1), rtol=1e-5)
        np.testing.assert_allclose(by["logits"].scores[name], scores.mean(1), rtol=1e-5)
    np.savez(tmp_path / "g.npz", **{**arrays, **several, "noun": several["noun"][:, :2]})
    with pytest.raises(DataError, match="targets have other numbers of views"):
        read_scores_file(tmp_path / "g.npz", CLASSES)
    several["verb"][5, 2, 1] = np.nan
    np.savez(tmp_path / "h.npz", **{**arrays, **several})
    with pytest.raises(DataError, match=f"verb of row {arrays['narration_id'][5]} holds NaN"):
        read_scores_file(tmp_path / "h.npz", CLASSES)
