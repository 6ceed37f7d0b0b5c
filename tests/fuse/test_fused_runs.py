"""Runs whose scores are not mixed: of other rows, labels, recipes, or trained on what they are scored on."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from helpers.mixing import CLASSES, make_kitchens, mixed, recipe
from helpers.tiny import make_history_store
from mambavl.cache.rows import Segment
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.fused_runs import read_member
from mambavl.fuse.fusing import fuse_scores
from mambavl.fuse.train import train


def test_a_twin_of_another_recipe_or_that_holds_nothing_out_is_refused(mixable, tmp_path):
    with pytest.raises(DataError, match=r"(?s)counts-held: is another recipe than .*mlp.*head\.name"):
        fuse_scores([mixable / "mlp"], tmp_path / "out", chosen_on=[mixable / "counts-held"])
    with pytest.raises(UsageError, match=r"mlp1: holds out no training rows .*data\.hold_out=0/5"):
        fuse_scores([mixable / "mlp"], tmp_path / "out", chosen_on=[mixable / "mlp1"])
    more = recipe(mixable / "past.zarr", "mlp", data={"hold_out": "0/3"}, train={"epochs": 3})
    train(more, tmp_path / "more")
    with pytest.raises(DataError, match=r"train\.epochs: 2 -> 3"):
        fuse_scores([mixable / "mlp"], tmp_path / "out", chosen_on=[tmp_path / "more"])


@pytest.mark.parametrize("head", ["counts", "mlp"])
def test_half_precision_hides_neither_the_prior_s_rows_nor_an_exponent(head, mixable, tmp_path):
    keys = {"train": {"score_dtype": "float16"}}
    train(recipe(mixable / "past.zarr", head, **keys), tmp_path / "run")
    half, whole = (read_member(run, {}) for run in (tmp_path / "run", mixable / head))
    for name in ("verb", "noun", "action"):
        rows = half.by_prior(name)
        assert rows.tolist() == whole.by_prior(name).tolist()
        assert rows.sum() == whole.result.rows.scored_by_prior > 0
        np.testing.assert_array_equal(half.log_p(name)[rows], np.tile(half.prior[name], (rows.sum(), 1)))
        np.testing.assert_allclose(half.log_p(name), whole.log_p(name), atol=0.02)


def test_a_twin_of_another_seed_serves(mixable, tmp_path):
    result = fuse_scores([mixable / "mlp"], tmp_path / "out", chosen_on=[mixable / "mlp1-held"])
    assert result.fused.chosen["verb"].among == 5


def test_a_twin_that_read_other_stores_is_refused(mixable, tmp_path):
    make_history_store(tmp_path / "past.zarr", make_kitchens(seed=5), classes=CLASSES)
    train(recipe(tmp_path / "past.zarr", "mlp", data={"hold_out": "0/3"}), tmp_path / "held")
    with pytest.raises(DataError, match=r"or read other stores.*\n.*past\.store_ids"):
        fuse_scores([mixable / "mlp"], tmp_path / "out", chosen_on=[tmp_path / "held"])


def test_twins_that_hold_other_parts_out_are_refused(mixable, tmp_path):
    train(recipe(mixable / "past.zarr", "counts", data={"hold_out": "1/3"}), tmp_path / "held")
    with pytest.raises(DataError, match="are scored on train_0_of_3 and on train_1_of_3"):
        fuse_scores(
            [mixable / "mlp", mixable / "counts"],
            tmp_path / "out",
            chosen_on=[mixable / "mlp-held", tmp_path / "held"],
        )


def other_store(folder, change, **keys):
    """A run of the recipe of `mlp` on rows that are changed."""
    segments = tuple(change(one) for one in make_kitchens())
    make_history_store(folder / "past.zarr", segments, classes=CLASSES, **keys)
    train(recipe(folder / "past.zarr", "mlp"), folder / "run")
    return folder / "run"


def test_runs_of_other_rows_labels_or_protocols_are_refused(mixable, tmp_path):
    def refused(name, says, change=lambda one: one, **keys):
        (tmp_path / name).mkdir()
        run = other_store(tmp_path / name, change, **keys)
        with pytest.raises(DataError, match=says):
            fuse_scores([mixable / "counts", run], tmp_path / "out", rule="mean")

    def later(segment: Segment) -> Segment:
        return segment.labelled(verb=0) if segment.narration_id == "P01_114_8" else segment

    def elsewhere(segment: Segment) -> Segment:
        return replace(segment, split="other") if segment.narration_id == "P01_114_8" else segment

    assert {one.narration_id: one for one in make_kitchens()}["P01_114_8"].split == "validation"
    refused("labels", "other labels of verb, the first of row P01_114_8", later)
    refused("rows", "have other rows of validation: 72 and 71, not in both P01_114_8", elsewhere)
    refused("protocol", "different history protocols: oracle of “counts”, predicted of “mlp”",
            protocol="predicted")  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_runs_that_rank_other_pairs_or_targets_are_refused(mixable, tmp_path):
    train(recipe(mixable / "past.zarr", "mlp", targets={"action": {"ranked_by": "product"}}), tmp_path / "p")
    with pytest.raises(DataError, match=r"rank action among other combinations, \d+ and 0"):
        fuse_scores([mixable / "mlp", tmp_path / "p"], tmp_path / "out", rule="mean")
    by_product = {"action": {"ranked_by": "product"}}
    verbs = recipe(mixable / "past.zarr", "mlp", targets=by_product, use_targets=["verb"])
    train(verbs, tmp_path / "v")
    with pytest.raises(DataError, match="score other targets: verb, noun, action; verb"):
        fuse_scores([mixable / "mlp", tmp_path / "v"], tmp_path / "out", rule="mean")


def test_what_a_head_was_trained_on_is_neither_scored_nor_chosen_on(mixable, spoilable, tmp_path):
    """A run that is scored on the rows its fellow was trained on; a twin whose scores are of rows that it
    knows; and a choice on the scored rows themselves.
    """
    shutil.copytree(spoilable / "mlp", spoilable / "seen")
    known = spoilable / "seen" / "recipe.toml"
    known.write_text(known.read_text().replace('train_split = "train"', 'train_split = "validation"'))
    with pytest.raises(DataError, match=r"seen: was trained on 72 of the rows that are scored \(P01_"):
        fuse_scores([mixable / "mlp1", spoilable / "seen"], tmp_path / "out", rule="mean")
    known = spoilable / "mlp-held" / "recipe.toml"
    known.write_text(known.read_text().replace('hold_out = "0/3"', 'hold_out = "1/3"'))
    with pytest.raises(DataError, match=r"mlp-held: was trained on \d+ of the rows to choose on \(P01_"):
        mixed(spoilable, tmp_path / "out", "mlp")
    shutil.copy(
        spoilable / "mlp" / "scores" / "validation.npz", spoilable / "mlp1-held" / "scores/train_0_of_3.npz"
    )
    with pytest.raises(DataError, match=r"mlp1-held: \d+ of the rows to choose on are scored"):
        mixed(spoilable, tmp_path / "out", "mlp1")


def test_damaged_inputs_are_named(spoilable, tmp_path):
    (spoilable / "counts" / "choice.json").unlink()
    with pytest.raises(DataError, match=r"counts: has no choice\.json, so its exponent is not known"):
        mixed(spoilable, tmp_path / "a")
    path = spoilable / "mlp" / "scores" / "validation.npz"
    arrays = dict(np.load(path))
    arrays["noun"][3, 2] = np.nan
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=rf"noun of row {arrays['narration_id'][3]} holds NaN"):
        mixed(spoilable, tmp_path / "b")
    path.unlink()
    with pytest.raises(DataError, match=r"validation\.npz: cannot be read .*; `mambavl evaluate"):
        mixed(spoilable, tmp_path / "c")


def test_a_store_that_is_gone_is_named(spoilable, tmp_path):
    """Whose rows are scored, stands in the stores alone."""
    for name in ("streams.json", "result.json"):
        path = spoilable / "mlp" / name
        path.write_text(path.read_text().replace("past.zarr", "gone.zarr"))
    with pytest.raises(DataError, match=r"gone\.zarr"):
        mixed(spoilable, tmp_path / "out", "mlp")


def test_runs_that_put_other_rows_into_a_group_are_refused(spoilable, tmp_path):
    path = spoilable / "mlp1" / "classes.json"
    path.write_text(path.read_text().replace('"P03"', '"P02"'))
    with pytest.raises(DataError, match="put other rows into the groups unseen"):
        fuse_scores([spoilable / "mlp", spoilable / "mlp1"], tmp_path / "out", rule="mean")
    text = path.read_text().replace('"P02"', '"P03"').replace('"n3"', '"another"')
    path.write_text(text)
    with pytest.raises(DataError, match="have other classes of noun"):
        fuse_scores([spoilable / "mlp", spoilable / "mlp1"], tmp_path / "out", rule="mean")
