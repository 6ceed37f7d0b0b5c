"""Batches of clips through an encoder."""

import pytest
import torch

from helpers.jobs import run
from mambavl.cache import open_store
from mambavl.configs.errors import UsageError
from mambavl.extract import clip_encoder
from mambavl.extract.encoders.levels import video_levels

pytestmark = pytest.mark.usefixtures("barcode")


def test_the_encoder_may_run_in_lower_precision_which_the_spec_says(dataset, tmp_path, monkeypatch):
    seen = []
    levels = video_levels
    monkeypatch.setattr(
        clip_encoder, "video_levels", lambda *a: seen.append(torch.is_autocast_enabled("cpu")) or levels(*a)
    )
    run(dataset, tmp_path / "v.zarr", precision="bf16")
    assert all(seen)
    assert open_store(tmp_path / "v.zarr").spec.recipe.precision == "bf16"
    with pytest.raises(UsageError, match=r"recipe\.precision: 'bf16' -> 'fp32'"):
        run(dataset, tmp_path / "v.zarr")
