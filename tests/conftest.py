"""Settings of every test run. Threads are held at one: a second busy core makes OpenMP spin."""

import os

from helpers.paths import SHARED

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Triton's kernels then run on the CPU; read when they are first imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

COUNT = "count: "


@pytest.fixture(autouse=True)
def _skip_without_what_it_needs(request):
    if request.node.get_closest_marker("shared") and not (SHARED / "data" / "ek100").is_dir():
        pytest.skip("needs the shared EK100 annotations and clips beside the checkout")
    if request.node.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    if request.node.get_closest_marker("soak") and "soak" not in request.config.getoption("markexpr"):
        pytest.skip("a long test; run with `pytest -m soak`")


@pytest.fixture
def count(record_property) -> Callable[[str, int], None]:
    """Say how much was tried: `count("crash states", 1234)`. The run ends with the sums of all tests."""
    return lambda what, number: record_property(f"{COUNT}{what}", number)


def pytest_terminal_summary(terminalreporter) -> None:
    sums = Counter()
    for report in itertools.chain(*terminalreporter.stats.values()):
        if getattr(report, "when", None) == "call":
            for name, number in report.user_properties:
                if name.startswith(COUNT):
                    sums[name.removeprefix(COUNT)] += number
    if sums:
        terminalreporter.section("faults tried")
        for what, number in sums.items():
            terminalreporter.line(f"{number:>9,} {what}")


@pytest.fixture(scope="session")
def shared() -> Path:
    return SHARED


@pytest.fixture(scope="session")
def stores(tmp_path_factory) -> Path:
    """A folder with finished stores of the same rows: video.zarr and text.zarr."""
    from helpers.tiny import ROWS, make_dense_store, make_text_store

    folder = tmp_path_factory.mktemp("stores")
    make_dense_store(folder / "video.zarr", ROWS)
    make_text_store(folder / "text.zarr", ROWS)
    return folder
