"""Which rows an import is for, and when each of them is looked at."""

import numpy as np
import pytest
import torch

from helpers.dataset import make_dataset
from helpers.foreign_lists import make_ego4d
from helpers.tiny import make_dense_store, make_segments
from mambavl.cache import open_store
from mambavl.cache.interchange.export import export_store
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.import_job import ImportSettings, prepare, sampling_times
from mambavl.extract.lists.durations import read_durations
from mambavl.extract.lists.layouts import make
from mambavl.extract.lists.listing import Request
from mambavl.extract.sampling import Sampling, window


@pytest.mark.parametrize("sampling", [Sampling(frames=4), Sampling(task="anticipation", frames=3)])
def test_an_import_looks_at_the_moments_of_extraction(sampling):
    segments = make_segments(12)
    found = sampling_times(segments, sampling)
    assert found.sampling == sampling.model_dump()
    for row, segment in enumerate(segments):
        seen = window(segment.start, segment.stop, sampling)
        if seen.is_empty:
            assert np.isnan(found.times[row]).all()
        else:
            np.testing.assert_array_equal(found.times[row], seen.times)
        assert found.flags[row] == seen.flags


def test_an_export_needs_no_annotations_and_takes_no_setting_but_one(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    export_store(open_store(tmp_path / "s.zarr"), tmp_path / "s.h5", "hdf5")
    source, out = tmp_path / "s.h5", tmp_path / "back.zarr"
    assert prepare(source, "hdf5", out, ImportSettings(max_failed=2), None, ()).annotations is None
    with pytest.raises(UsageError, match=r"is an export .*; leave out annotations$"):
        prepare(source, "hdf5", out, ImportSettings(), tmp_path, ("train",))
    with pytest.raises(UsageError, match=r"is an export .*; leave out dtype$"):
        prepare(source, "hdf5", out, ImportSettings(dtype="float16"), None, ())


def test_features_of_others_need_annotations_and_settings_that_fit(tmp_path):
    data = make_dataset(tmp_path / "data", videos=2)
    (tmp_path / "steps").mkdir()
    source, out, folder = tmp_path / "steps", tmp_path / "v.zarr", data / "annotations"
    with pytest.raises(UsageError, match="say with --annotations DIR"):
        prepare(source, "npy", out, ImportSettings(), None, ("train",))
    with pytest.raises(UsageError, match="--format npy needs --set stride=N --set window=N"):
        prepare(source, "npy", out, ImportSettings(fps=30), folder, ("train",))
    chosen = ImportSettings(sampling={"frames": 4})
    with pytest.raises(UsageError, match=r"sampling\.frames: the moments of hdf5 features"):
        prepare(source, "hdf5", out, chosen, folder, ("train",))
    steps = {"fps": 10, "window": 1, "stride": 1}
    counting = ImportSettings(sampling={"rule": "lavila"}, **steps)
    with pytest.raises(UsageError, match=r"sampling\.rule = lavila counts the frames of a video file"):
        prepare(source, "npy", out, counting, folder, ("train",))
    for video in ("P01_101", "P01_102"):
        np.save(source / f"{video}.npy", np.zeros((60, 3), np.float32))  # 6 s at 10 a second
    with pytest.raises(
        UsageError, match=r"nothing beside .* of P01_101 says when its steps are.*--set fps=N"
    ):
        prepare(source, "npy", out, ImportSettings(), folder, ("train",))
    job = prepare(source, "npy", out, chosen.model_copy(update=steps), folder, ("train",))
    wrong = chosen.model_copy(update={**steps, "fps": 5})
    with pytest.raises(
        DataError, match=r"12\.0 s at fps = 5, and the list says 6\.0 s; --set fps=10 would fit"
    ):
        prepare(source, "npy", out, wrong, folder, ("train",))
    insisting = wrong.model_copy(update={"any_length": True})
    assert prepare(source, "npy", out, insisting, folder, ("train",)).times.durations == {}
    assert {segment.split for segment in job.annotations.segments} == {"train"}


def test_features_of_whole_videos_meet_the_rows_of_clips(tmp_path):
    """Ego4D's lists are of clips, its features of the whole videos: (T, D) tensors, 32 frames every 16 at 30
    a second. Step i here says i, so that what a row gets tells at which second of the whole video it was
    looked up.
    """
    lists = make_ego4d(tmp_path / "theirs")
    (tmp_path / "lengths.csv").write_text("video_id,duration\nwhole-c1,200\nwhole-c2,200\n")
    request = Request(columns={"video": "video_uid"})
    lengths = read_durations(tmp_path / "lengths.csv")
    make(lists, "ego4d-lta", request, tmp_path / "ours", durations=lengths)
    (tmp_path / "features").mkdir()
    steps = torch.arange(374.0).repeat(5, 1).T  # 373 x 16 + 32 = 6000 frames
    for video in ("whole-c1", "whole-c2"):
        torch.save(steps, tmp_path / "features" / f"{video}.pt")
    settings = ImportSettings(fps=30, window=32, stride=16, sampling={"frames": 1})
    job = prepare(
        tmp_path / "features",
        "torch",
        tmp_path / "v.zarr",
        settings,
        tmp_path / "ours",
        ("train", "validation"),
    )
    assert job.run("0" * 64, lambda *_: None, lambda: False).finalized
    store = open_store(tmp_path / "v.zarr")
    tokens, _ = store.batch(range(3), "frame")
    for segment, step in zip(store.segments, tokens[:, 0, 0].tolist(), strict=True):
        middle = (segment.start + segment.stop) / 2
        assert abs((step * 16 + 16) / 30 - middle) <= 8 / 30 + 1e-6
    with pytest.raises(DataError, match=r"the list says 200\.0 s; --set fps=30 would fit"):
        prepare(
            tmp_path / "features",
            "torch",
            tmp_path / "w.zarr",
            settings.model_copy(update={"fps": 15.0}),
            tmp_path / "ours",
            ("train", "validation"),
        )
