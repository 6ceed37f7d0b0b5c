"""Runs that differ in nothing that decided their weights are alike, and others are not."""

from helpers.mixing import mixed
from mambavl.fuse.decided import decided
from mambavl.fuse.run import read_result


def test_runs_are_alike_but_for_their_seed(mixable):
    one, other = (read_result(mixable / name) for name in ("mlp", "mlp1"))
    assert decided(one) != decided(other)
    assert decided(one, "train.seed") == decided(other, "train.seed")
    assert decided(one, "train.seed") != decided(read_result(mixable / "mlp-held"), "train.seed")
    assert decided(one, "train.seed") != decided(read_result(mixable / "counts"), "train.seed")


def test_a_mixture_is_decided_by_its_rule_and_its_runs(mixable, tmp_path):
    result = mixed(mixable, tmp_path / "out")
    found = decided(result, "train.seed")
    assert found["rule"] == "loglinear"
    runs = [decided(read_result(mixable / name), "train.seed") for name in ("mlp", "counts")]
    assert found["runs"] == runs
