"""Folders of mixed scores: what is in them, and when they are left alone."""

import shutil

import numpy as np
import pytest

from helpers.mixing import make_kitchens, mixed, recipe
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse import fused, metrics, report
from mambavl.fuse.counting import read_choice
from mambavl.fuse.fusing import fuse_scores
from mambavl.fuse.owner import RunHeld, held
from mambavl.fuse.run import read_prior, read_recipe, read_result, read_scores
from mambavl.fuse.train import train


def plain(run, name, split="validation"):
    """What a run that counts thinks, without its exponent; rows of the prior are told by it."""
    scores, prior = read_scores(run, split)[name].astype(float), read_prior(run)[name]
    exponent = read_choice(run)["chosen"][name]["exponent"]
    found = scores + exponent * prior
    found -= np.log(np.exp(found).sum(1, keepdims=True))
    return np.where((scores == prior.astype(np.float32)).all(1, keepdims=True), scores, found)


def test_a_mixture_is_chosen_on_held_out_kitchens_and_mixed_from_the_runs(mixable, tmp_path):
    """Every candidate is tried by the official measure over the held-out rows, of counts without their own
    exponent; then the runs' scores are mixed by what won. Rows of the prior tie throughout at exponent 1.
    """
    result = mixed(mixable, tmp_path / "out")
    scores, on = read_scores(tmp_path / "out", "validation"), "train_0_of_3"
    counted, headed = (read_scores(mixable / f"{name}-held", on) for name in ("counts", "mlp"))
    for name in ("verb", "noun"):
        labels, chosen = counted[f"{name}_label"], result.fused.chosen[name]
        tried = {}
        logs = [headed[name], plain(mixable / "counts-held", name, on)]
        prior = read_prior(mixable / "counts-held")[name]
        for shares in fused.simplex(2):
            for exponent in fused.EXPONENTS:
                both = shares[0] * logs[0] + shares[1] * logs[1] - exponent * prior
                tried[shares, exponent] = metrics.mean_class_recall5(np.round(both, 5), labels)
        assert chosen.recall5 == pytest.approx(tried[chosen.weights, chosen.exponent])
        assert chosen.recall5 == pytest.approx(max(tried.values()))
        assert (chosen.among, chosen.rows) == (55, len(labels))
        both = chosen.weights[0] * read_scores(mixable / "mlp", "validation")[name].astype(float)
        both += chosen.weights[1] * plain(mixable / "counts", name)
        both -= chosen.exponent * read_prior(mixable / "counts")[name]
        both -= np.log(np.exp(both).sum(1, keepdims=True))
        np.testing.assert_allclose(scores[name], both, rtol=1e-4, atol=1e-4)


def test_actions_are_chosen_among_the_pairs_of_the_held_out_runs(mixable, tmp_path):
    """They know fewer pairs than the runs; a row of a pair that they lack is a miss."""
    result = mixed(mixable, tmp_path / "out")
    known, whole = (read_scores(mixable / one, split) for one, split in (
        ("mlp-held", "train_0_of_3"), ("mlp", "validation")))  # fmt: skip
    assert (
        len(known["pairs"])
        < len(whole["pairs"])
        == read_scores(tmp_path / "out", "validation")["action"].shape[1]
    )
    chosen = result.fused.chosen["action"]
    logs = [known["action"], plain(mixable / "counts-held", "action", "train_0_of_3")]
    both = chosen.weights[0] * logs[0] + chosen.weights[1] * logs[1]
    both -= chosen.exponent * read_prior(mixable / "counts-held")["action"]
    found = metrics.evaluate(
        known["verb"],
        known["noun"],
        known["verb_label"],
        known["noun_label"],
        action_scores=np.round(both, 5),
        pairs=[tuple(pair) for pair in known["pairs"].tolist()],
    )
    assert chosen.recall5 == pytest.approx(found["all_action_mean_class_recall5"])
    columns = {tuple(pair) for pair in known["pairs"].tolist()}
    rows = zip(known["verb_label"].tolist(), known["noun_label"].tolist(), strict=True)
    assert not columns.issuperset(rows)


def test_the_result_says_what_was_mixed_and_carries_what_must_be_said(mixable, tmp_path):
    result = mixed(mixable, tmp_path / "out")
    assert read_result(tmp_path / "out") == result
    inputs = [read_result(mixable / name) for name in ("mlp", "counts")]
    assert (result.head, result.title, result.split) == ("fused", "mlp + counts, loglinear", "validation")
    assert (result.text_protocol, result.history_protocol) == ("absent", "oracle")
    assert result.notice == inputs[0].notice
    assert result.notice.startswith("ORACLE HISTORY")
    assert result.rows.scored_by_prior == inputs[0].rows.scored_by_prior > 0
    assert result.prior_metrics == inputs[0].prior_metrics
    assert result.params.total == sum(one.params.total for one in inputs)
    assert [one.run for one in result.fused.inputs] == [str(mixable / "mlp"), str(mixable / "counts")]
    held = read_scores(mixable / "mlp-held", "train_0_of_3")["narration_id"].tolist()
    [cook] = {one.participant_id for one in make_kitchens() if one.narration_id in held}
    assert result.fused.participants == (cook,)
    assert result.fused.known == ()
    assert result.fused.on == "train_0_of_3"
    lines = result.fused.in_words
    assert lines[0] == "loglinear mixture of mlp, counts"
    assert "chosen among 55 on train_0_of_3, by class-mean recall@5 (" in lines[1]
    assert any(key.startswith("unseen_action") for key in result.metrics)


def test_groups_are_those_of_the_runs(mixable, tmp_path):
    """Of a mean of one run and its copy, every measure is the run's own."""
    shutil.copytree(mixable / "mlp", tmp_path / "again")
    result = fuse_scores([mixable / "mlp", tmp_path / "again"], tmp_path / "out", rule="mean")
    assert result.metrics == pytest.approx(read_result(mixable / "mlp").metrics)
    assert result.metrics["unseen_verb_n"] > 0
    assert result.title == "mlp, mean"
    assert result.fused.chosen == {}


def test_a_mean_takes_the_scores_as_the_runs_gave_them(mixable, tmp_path):
    names = ("mlp", "mlp1", "counts")
    fuse_scores([mixable / name for name in names], tmp_path / "out", rule="mean")
    found = read_scores(tmp_path / "out", "validation")
    for target in ("verb", "noun", "action"):
        every = [np.exp(read_scores(mixable / name, "validation")[target]) for name in names]
        np.testing.assert_allclose(np.exp(found[target]), np.mean(every, axis=0), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("rule", ["mean", "confidence", "rrf"])
def test_other_rules_choose_weights_on_held_out_kitchens_too(rule, mixable, tmp_path):
    """For --per; the rest weighs alike. Scores are the runs' own, of those that count with their exponent."""
    runs, twins = ([mixable / f"{name}{held}" for name in ("mlp", "counts")] for held in ("", "-held"))
    result = fuse_scores(runs, tmp_path / "out", rule=rule, chosen_on=twins, per=["noun"])
    assert set(result.fused.chosen) == {"noun"}
    found, on = read_scores(tmp_path / "out", "validation"), "train_0_of_3"
    held = [read_scores(one, on) for one in twins]
    best = result.fused.chosen["noun"]
    labels = held[0]["noun_label"]
    priors = [read_prior(one)["noun"] for one in twins]
    assert best == fused.choose([one["noun"] for one in held], priors, labels, labels, rule)
    weights = {"verb": (0.5, 0.5), "noun": best.weights, "action": (0.5, 0.5)}
    for name, shares in weights.items():
        logs = [read_scores(one, "validation")[name] for one in runs]
        expected = fused.mean(logs, shares) if rule == "mean" else fused.summed(logs, rule, shares)
        np.testing.assert_array_equal(found[name], expected)
    assert result.fused.in_words[1].startswith("noun: weights ")


def test_another_split_is_mixed_by_the_same_weights(mixable, tmp_path):
    """Its scores of the runs are made up, as a test list's would be: other rows, no labels."""
    for name in ("mlp", "counts"):
        shutil.copytree(mixable / name, tmp_path / name)
        with np.load(tmp_path / name / "scores" / "validation.npz") as whole:
            arrays = dict(whole)
        for key, values in arrays.items():
            if key != "pairs":
                arrays[key] = values[::-2]
        arrays["narration_id"] = np.array([f"P37_101_{row}" for row in range(len(arrays["verb"]))])
        arrays |= {f"{key}_label": np.full(len(arrays["verb"]), -1) for key in ("verb", "noun")}
        np.savez(tmp_path / name / "scores" / "test.npz", **arrays)
    runs = [tmp_path / "mlp", tmp_path / "counts"]
    twins = [mixable / "mlp-held", mixable / "counts-held"]
    out = tmp_path / "out"
    result = fuse_scores(runs, out, chosen_on=twins, also=["test"])
    assert result == read_result(out)
    assert result.split == "validation"
    own, other = read_scores(out, "validation"), read_scores(out, "test")
    assert other["narration_id"][0] == "P37_101_0"
    for name in ("verb", "noun", "action"):
        np.testing.assert_array_equal(other[name], own[name][::-2])
    with pytest.raises(UsageError, match="is what the runs are scored on"):
        fuse_scores(runs, out, chosen_on=twins, also=["validation"])
    (tmp_path / "counts" / "scores" / "test.npz").unlink()
    with pytest.raises(DataError, match=r"test\.npz: cannot be read"):
        fuse_scores(runs, out, chosen_on=twins, also=["test"])


def test_of_one_run_alone_the_exponent_is_chosen(mixable, tmp_path):
    result = mixed(mixable, tmp_path / "out", "mlp")
    assert {one.weights for one in result.fused.chosen.values()} == {(1.0,)}
    assert {one.among for one in result.fused.chosen.values()} == {5}


def test_twins_that_kept_their_scores_alone_in_half_precision_serve(mixable, tmp_path):
    keys = {"train": {"score_dtype": "float16", "keep": "scores"}, "data": {"hold_out": "0/3"}}
    train(recipe(mixable / "past.zarr", "mlp", **keys), tmp_path / "held")
    result = fuse_scores([mixable / "mlp"], tmp_path / "out", chosen_on=[tmp_path / "held"])
    whole = mixed(mixable, tmp_path / "whole", "mlp")
    for name, one in result.fused.chosen.items():
        assert one.recall5 == pytest.approx(whole.fused.chosen[name].recall5, abs=3)
    assert not (tmp_path / "held" / "model.safetensors").exists()


def test_no_scored_label_reaches_the_choice(mixable, spoilable, tmp_path):
    for name in ("mlp", "counts"):
        path = spoilable / name / "scores" / "validation.npz"
        arrays = dict(np.load(path))
        arrays["verb_label"] = (arrays["verb_label"] + 1) % 8
        np.savez(path, **arrays)
    one, other = mixed(mixable, tmp_path / "a"), mixed(spoilable, tmp_path / "b")
    assert one.fused.chosen == other.fused.chosen
    assert one.metrics != other.metrics


def test_reports_show_a_mixture_and_join_its_seeds(mixable, tmp_path):
    mixed(mixable, tmp_path / "a")
    mixed(mixable, tmp_path / "b", "mlp1", "counts")
    entries = report.collect([tmp_path / "a", tmp_path / "b", mixable / "mlp"])
    assert [entry.seeds for entry in entries] == [[0, 1], [0]]
    report.write_report([tmp_path / "a", mixable / "mlp"], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "mlp + counts, loglinear" in page
    assert "chosen among 55 on train_0_of_3" in page


def test_actions_by_product_are_ranked_by_the_mixed_parts(mixable, tmp_path):
    keys = {"targets": {"action": {"ranked_by": "product"}}}
    train(recipe(mixable / "past.zarr", "mlp", **keys), tmp_path / "p")
    train(recipe(mixable / "past.zarr", "mlp", data={"hold_out": "0/3"}, **keys), tmp_path / "h")
    result = fuse_scores([tmp_path / "p"], tmp_path / "out", chosen_on=[tmp_path / "h"])
    assert set(result.fused.chosen) == {"verb", "noun"}
    assert result.targets == ("verb", "noun", "action")
    scores = read_scores(tmp_path / "out", "validation")
    found = metrics.evaluate(*(scores[key] for key in ("verb", "noun", "verb_label", "noun_label")))
    for kind in ("top1", "mean_class_recall5"):
        assert result.metrics[f"all_action_{kind}"] == found[f"all_action_{kind}"]


# --- the mixable


def test_the_same_mixture_is_made_again_and_another_is_refused(mixable, tmp_path):
    first = mixed(mixable, tmp_path / "out")
    scores = (tmp_path / "out" / "scores" / "validation.npz").read_bytes()
    (tmp_path / "out" / "result.json").unlink()  # it was interrupted
    assert mixed(mixable, tmp_path / "out") == first
    assert (tmp_path / "out" / "scores" / "validation.npz").read_bytes() == scores
    for names in (("mlp",), ("counts", "mlp"), ("mlp1", "counts")):
        with pytest.raises(UsageError, match=r"is a loglinear mixture of other scores \(.*mlp, .*counts\)"):
            mixed(mixable, tmp_path / "out", *names)
    runs = [mixable / "mlp", mixable / "counts"]
    with pytest.raises(UsageError, match="mixture of other scores"):
        fuse_scores(runs, tmp_path / "out", rule="mean")
    other_twins = [mixable / "mlp1-held", mixable / "counts-held"]
    with pytest.raises(UsageError, match="mixture of other scores"):
        fuse_scores(runs, tmp_path / "out", chosen_on=other_twins)
    assert read_result(tmp_path / "out") == first


def test_a_folder_of_something_else_is_left_alone(mixable, tmp_path):
    with pytest.raises(UsageError, match=r"mlp1: is not empty \(.*\); use another --out"):
        mixed(mixable, mixable / "mlp1")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        mixed(mixable, tmp_path / "file")
    with held(tmp_path / "busy"), pytest.raises(RunHeld):
        mixed(mixable, tmp_path / "busy")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "fusion.json").write_text("{}")
    with pytest.raises(UsageError, match=r"fusion\.json: fused is damaged"):
        mixed(mixable, tmp_path / "bad")


def test_a_mixture_is_no_run(mixable, tmp_path):
    mixed(mixable, tmp_path / "out")
    with pytest.raises(DataError, match="holds scores of several runs as one, and no head"):
        read_recipe(tmp_path / "out")
    with pytest.raises(DataError, match=r"and no head; fusion\.json names the runs"):
        fuse_scores([tmp_path / "out", mixable / "mlp1"], tmp_path / "more", rule="mean")


# --- calls that cannot be meant


def test_wrong_calls_say_what_to_type(mixable, tmp_path):
    runs, twins = [mixable / "mlp", mixable / "counts"], [mixable / "mlp-held", mixable / "counts-held"]

    def refused(*args, says, **keys):
        with pytest.raises(UsageError, match=says):
            fuse_scores(*args, tmp_path / "out", **keys)

    refused(runs, says="2 runs and 0 --chosen-on: repeat --chosen-on for each")
    refused(runs, says="2 runs and 1 --chosen-on", chosen_on=twins[:1])
    refused([runs[0], runs[0]], says="is named twice", rule="mean")
    refused(runs, says="is named twice", chosen_on=[twins[0], runs[1]])
    refused(runs, says="1 --chosen-on", chosen_on=twins[:1], rule="mean")
    refused(runs[:1], says="--rule rrf: one run is its own mixture", rule="rrf")
    refused(runs, says="--per: nothing is chosen without --chosen-on", rule="rrf", per=["verb"])
    refused(runs, says="--per tool: the runs score verb, noun, action", chosen_on=twins, per=["tool"])
    five = [mixable / name for name in ("a", "b", "c", "d", "e")]
    refused(five, says="5 runs have too many weights", chosen_on=[mixable / f"{name}h" for name in "abcde"])
    assert not (tmp_path / "out").exists()
