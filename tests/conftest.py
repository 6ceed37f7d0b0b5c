"""Settings of every test run. Threads are held at one: a second busy core makes OpenMP spin."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(autouse=True)
def _skip_without_what_it_needs(request):
    if request.node.get_closest_marker("shared") and not (SHARED / "data" / "ek100").is_dir():
        pytest.skip("needs the shared EK100 annotations and clips beside the checkout")


@pytest.fixture(scope="session")
def shared() -> Path:
    return SHARED


@pytest.fixture(scope="session")
def stores(tmp_path_factory) -> Path:
    """A folder with finished stores of the same rows: video.zarr and text.zarr."""
    from tiny import ROWS, make_dense_store, make_text_store

    folder = tmp_path_factory.mktemp("stores")
    make_dense_store(folder / "video.zarr", ROWS)
    make_text_store(folder / "text.zarr", ROWS)
    return folder
