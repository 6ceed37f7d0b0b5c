"""Runs that are asked about videos."""

from pathlib import Path

import pytest

from helpers.predicting import make_kit


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, `rec` and `ant`, and what they were made from; tests that change it copy."""
    return make_kit(tmp_path_factory.mktemp("kit"))
