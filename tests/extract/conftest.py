"""The data set of the extraction tests: videos that show their own frame numbers, and an encoder that reads
them.
"""

from pathlib import Path

import pytest

from helpers.dataset import barcode_record, make_dataset
from mambavl.extract.encoders import registry


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty rows of four videos in the EPIC layout; tests that change it take a copy."""
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def barcode(monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder `barcode`, whose tokens are the numbers of the frames."""
    monkeypatch.setitem(registry.ENCODERS, "barcode", barcode_record())
