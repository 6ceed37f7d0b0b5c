"""A page of three runs, written once for all tests of the report."""

import pytest

from helpers.browser import chromium
from helpers.tiny import tiny_recipe
from mambavl.fuse import report
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


@pytest.fixture(scope="module")
def browser():
    """A browser, for tests that are marked `browser`."""
    with chromium() as found:
        yield found
