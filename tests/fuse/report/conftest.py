"""Runs that reports are made of, trained once for all tests of the report."""

import pytest

from helpers.browser import chromium
from helpers.contests import make_sweep
from helpers.tiny import tiny_recipe
from mambavl.fuse import report
from mambavl.fuse.report.measured import measure
from mambavl.fuse.train import train


@pytest.fixture(scope="session")
def page(stores, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = []
    for seed in (0, 1):
        train(
            tiny_recipe(stores, seed=seed, title="<script>alert(1)</script> fused"), folder / f"fused{seed}"
        )
        runs.append(folder / f"fused{seed}")
    text_only = tiny_recipe(stores, title="text only")
    text_only = text_only.model_copy(
        update={"streams": {k: v for k, v in text_only.streams.items() if k != "video"}}
    )
    train(text_only, folder / "text")
    report.write_report([*runs, folder / "text"], folder / "report.html")
    return folder, (folder / "report.html").read_text()


@pytest.fixture(scope="session")
def swept(mixable, tmp_path_factory):
    """A sweep of two candidates with 90 and 40 % of the rows right, two seeds each; its result.json are those
    of other scores.
    """
    return make_sweep(
        tmp_path_factory.mktemp("c") / "sweep", mixable / "mlp", {0.01: 0.9, 0.001: 0.4}, seeds=2
    )


@pytest.fixture(scope="session")
def contest(swept):
    """Its two candidates: the better, then the worse."""
    runs = [swept / f"lr={lr},seed={seed}" for lr in (0.01, 0.001) for seed in (0, 1)]
    return [measure(entry) for entry in report.collect(runs)]


@pytest.fixture(scope="module")
def browser():
    """A browser, for tests that are marked `browser`."""
    with chromium() as found:
        yield found
