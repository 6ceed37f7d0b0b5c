"""Hits by row of runs, as they scored and less the prior."""

import numpy as np
import pytest

from helpers.tiny import tiny_recipe
from mambavl.cache import open_store
from mambavl.fuse.fused import EXPONENTS
from mambavl.fuse.run import read_prior, read_result, read_scores
from mambavl.fuse.train import train
from mambavl.reproduce.hits import hits, kept, less_prior


@pytest.fixture(scope="module")
def runs(stores, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        train(tiny_recipe(stores, seed=seed), out / str(seed))
    return [out / "0", out / "1"]


def recall(scores, labels):
    """The class mean of whether fewer than five classes have a larger score; (N,) and the mean. No ties."""
    best5 = (scores > scores[np.arange(len(labels)), labels][:, None]).sum(1) < 5
    return best5, np.mean([best5[labels == one].mean() for one in np.unique(labels)])


def test_hits_are_those_of_the_files_and_their_class_mean_is_the_result(runs):
    found = hits(runs, kept)
    for number, run in enumerate(runs):
        result = read_result(run)
        scores = read_scores(run, result.split)
        for name in ("verb", "noun"):
            best5, mean = recall(scores[name], found[name].label)
            assert np.array_equal(found[name].best5[number], best5)
            assert result.metrics[f"all_{name}_mean_class_recall5"] == pytest.approx(100 * mean)
    assert found["action"].best5.shape == (2, len(found["action"].video))
    assert found["verb"].seconds == sum(read_result(run).trained.train_seconds for run in runs)


def test_the_exponent_of_a_row_is_chosen_without_its_participant(runs, stores):
    """Against all exponents tried by hand, on both halves."""
    result = read_result(runs[0])
    file, scores = less_prior(runs[0], {})
    plain = read_scores(runs[0], result.split)
    segments = {}
    for stream in result.streams.values():
        for path in stream.stores:
            segments |= {one.narration_id: one for one in open_store(path, verify="none").segments}
    owner = np.array([segments[row].participant_id for row in file.ids])
    people = sorted(set(owner))
    assert len(people) > 1
    half = np.isin(owner, people[1::2])
    for name in ("verb", "noun"):
        prior, labels = read_prior(runs[0])[name], file.labels[name]
        for mine in (half, ~half):
            tried = [recall((plain[name] - e * prior)[~mine], labels[~mine])[1] for e in EXPONENTS]
            best = EXPONENTS[int(np.argmax(tried))]
            expected = (plain[name] - best * prior)[mine]
            expected -= np.log(np.exp(expected.astype(np.float64)).sum(1, keepdims=True))
            np.testing.assert_allclose(scores[name][mine], expected, rtol=0, atol=1e-4)
