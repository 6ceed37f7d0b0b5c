"""The film that is rendered twice, and which rows and levels notice."""

import av
import numpy as np
import pytest

from helpers.dataset import barcode_record
from mambavl.extract.causality import T_OBS, what_later_pictures_reach, write_film
from mambavl.extract.encoders import registry
from mambavl.extract.options import VideoExtraction


def test_both_films_are_the_same_until_t_obs_and_differ_in_every_later_picture(tmp_path):
    """As PyAV decodes them."""
    films = []
    for others in (False, True):
        write_film(tmp_path / f"{others}.mp4", others=others)
        with av.open(str(tmp_path / f"{others}.mp4")) as file:
            frames = list(file.decode(video=0))
        films.append([frame.to_ndarray(format="rgb24") for frame in frames])
    times = np.array([frame.time for frame in frames])
    same = [np.array_equal(one, other) for one, other in zip(*films, strict=True)]
    assert same == (times <= T_OBS).tolist()


@pytest.mark.parametrize("frames", [1, 16])
def test_only_the_row_that_observes_later_pictures_changes_and_in_every_level(monkeypatch, frames):
    monkeypatch.setitem(registry.ENCODERS, "barcode", barcode_record())
    levels = ["clip", "frame", "grid", "patch"]
    settings = {"encoder": "barcode", "levels": levels, "grid": 1, "sampling": {"frames": frames}}
    options = VideoExtraction.model_validate(settings)
    assert what_later_pictures_reach(options) == {"early": [], "row": [], "late": levels}


def test_what_leaks_through_the_batch_is_found_in_every_row(monkeypatch):
    leaking = barcode_record(spoil=lambda cells: cells + 1e-4 * cells.mean())
    monkeypatch.setitem(registry.ENCODERS, "barcode", leaking)
    options = VideoExtraction.model_validate({"encoder": "barcode", "levels": ["frame"]})
    assert what_later_pictures_reach(options) == {"early": ["frame"], "row": ["frame"], "late": ["frame"]}
