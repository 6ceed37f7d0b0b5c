"""Conditions of the scan's tests."""

import pytest
import torch

from helpers.scan import INTERPRETED
from mambavl.fuse.scan import triton


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def short_chunks(monkeypatch):
    """Where Triton is interpreted, chunks of 4 steps in place of 32: a step takes tens of milliseconds, and
    five steps then cross a border.
    """
    if INTERPRETED:
        monkeypatch.setattr(triton, "CHUNK", 4)
