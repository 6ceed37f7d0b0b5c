"""The estimate, by hand; and the trial: how much it reads and encodes, by a clock that is wound by hand."""

import itertools
from functools import partial

import pytest

from helpers.dataset import broken_copy
from helpers.jobs import OPTIONS
from mambavl.extract import trial as module
from mambavl.extract.annotations import read_annotations
from mambavl.extract.clip_encoder import ClipEncoder
from mambavl.extract.options import VideoExtraction
from mambavl.extract.plan import plan
from mambavl.extract.trial import Estimate, Rates, estimate, trial

pytestmark = pytest.mark.usefixtures("barcode")


def planned(folder, tmp_path, stores=1):
    options = VideoExtraction.model_validate(OPTIONS | {"batch_rows": 4})
    jobs = [(tmp_path / f"{number}.zarr", options) for number in range(stores)]
    return plan(read_annotations(folder / "annotations"), folder / "videos", jobs)


# twenty rows of four videos: 4 x 1 s to open, 20 x (1.5 + 0.5) s to read: 44 s of one thread
RATES = Rates(opening=1.0, decode=1.5, resize=0.5, encode=(0.25,))


@pytest.mark.parametrize(
    ("rates", "readers", "cores", "threads", "expected"),
    [
        (RATES, 2, 4, 0, Estimate(22.0, "decode", 2, 1, 4, 9)),  # the encoder takes 5 s
        (RATES, 8, 4, 0, Estimate(11.0, "decode", 8, 1, 4, 9)),  # no faster than there are cores
        (Rates(5.0, 0.25, 0.5, (0.25,)), 1, 4, 0, Estimate(35.0, "opening", 1, 1, 4, 7)),
        (Rates(0.0, 0.25, 0.5, (0.25,)), 1, 4, 0, Estimate(15.0, "resize", 1, 1, 4, 3)),
        (Rates(1.0, 1.5, 0.5, (4.0,)), 2, 4, 0, Estimate(80.0, "encode", 2, 1, 4, 1)),
        (Rates(1.0, 1.5, 0.5, (1.0,)), 4, 4, 0, Estimate(20.0, "encode", 4, 1, 4, 3)),
        # 44 s and 20 s on both of two cores, on two cores
        (Rates(1.0, 1.5, 0.5, (1.0,)), 2, 2, 2, Estimate(42.0, "the processor", 2, 1, 2, 3)),
        (Rates(1.0, 1.5, 0.5, (1.0,)), 2, 8, 2, Estimate(22.0, "decode", 2, 1, 8, 3)),
    ],
)
def test_the_estimate_is_that_of_the_slower_side(dataset, tmp_path, rates, readers, cores, threads, expected):
    found = estimate(planned(dataset, tmp_path), rates, readers=readers, cores=cores, encoder_threads=threads)
    assert found == expected


def test_each_process_has_a_gpu_and_readers_of_its_own(dataset, tmp_path):
    rates = Rates(opening=1.0, decode=1.5, resize=0.5, encode=(1.0,))
    found = estimate(planned(dataset, tmp_path), rates, readers=2, cores=16, processes=4)
    assert found == Estimate(5.5, "decode", 2, 4, 16, 3)  # the encoders take 5 s
    found = estimate(planned(dataset, tmp_path), rates, readers=3, cores=16, processes=4)
    assert found == Estimate(5.0, "encode", 3, 4, 16, 3)


def test_encoders_take_turns_and_frames_are_read_once(dataset, tmp_path):
    found = planned(dataset, tmp_path, stores=2)
    rates = Rates(opening=1.0, decode=1.5, resize=0.5, encode=(2.0, 1.0))
    assert estimate(found, rates, readers=1, cores=1) == Estimate(60.0, "encode", 1, 1, 1, 1)


def test_a_trial_without_time_reads_a_unit_of_each_video_and_encodes_a_batch(dataset, tmp_path, monkeypatch):
    batches = []
    start = ClipEncoder.start
    monkeypatch.setattr(
        ClipEncoder, "start", lambda self, clips: batches.append(len(clips)) or start(self, clips)
    )
    before = sorted(tmp_path.rglob("*"))
    clock = partial(next, itertools.count())  # a second at each look
    rates, faults = trial(planned(dataset, tmp_path), 0.5, clock)
    assert rates.videos == ["P01_101", "P01_103", "P01_104"]
    assert (rates.rows, faults, batches) == (15, {}, [4])
    assert (rates.opening, rates.encode) == (1.0, (1 / 4,))
    assert rates.decode > 0
    assert rates.resize > 0
    assert sorted(tmp_path.rglob("*")) == before


def test_time_goes_to_reading_and_to_encoding_in_halves_and_the_first_batch_is_not_timed(
    dataset, tmp_path, monkeypatch
):
    batches = []

    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    clock = Clock()

    def start(self, clips):
        clock.now += 10.0 if not batches else 1.0  # it warms up
        batches.append([clip.images is not None and len(clip.images) for clip in clips])
        for clip in clips:
            clip.forget()
        return dict

    monkeypatch.setattr(ClipEncoder, "start", start)
    rates, _ = trial(planned(dataset, tmp_path), 30.0, clock)
    assert rates.encode == (1.0 / 4,)
    assert batches == [[1] * 4] * 6  # 10 s, and five times 1 s; whole clips each time


def test_a_video_that_cannot_be_read_is_named_and_none_gives_no_rates(dataset, tmp_path):
    copy = broken_copy(dataset, tmp_path)  # of what is there, P01_101 is text
    rates, faults = trial(planned(copy, tmp_path), 0.5)
    assert list(faults) == ["P01_101"]
    assert faults["P01_101"].startswith("unreadable_video: ")
    assert rates.videos == ["P01_103", "P01_104"]
    for name in ("P01_103", "P01_104"):
        (copy / f"videos/P01/videos/{name}.MP4").write_text("not a video")
    rates, faults = trial(planned(copy, tmp_path), 0.5)
    assert rates is None
    assert list(faults) == ["P01_101", "P01_103", "P01_104"]


def test_only_what_is_left_to_do_is_tried(dataset, tmp_path):
    found = planned(dataset, tmp_path)
    left = found.__class__(found.segments, found.paths, found.stores, [6, 7])
    rates, _ = trial(left, 0.5)
    assert (rates.videos, rates.rows) == (["P01_102"], 2)


def test_this_machine_has_readers_and_cores(monkeypatch):
    monkeypatch.setattr(module.job, "cores", lambda: 6)
    monkeypatch.setattr(module.torch, "get_num_threads", lambda: 3)
    options = VideoExtraction(encoder="barcode", device="cpu")
    here = {"readers": 6, "cores": 6, "processes": 1, "encoder_threads": 3}
    assert module.here(options) == here
    assert module.here(options.model_copy(update={"readers": 2})) == here | {"readers": 2}
    assert module.here(options, 4) == {"readers": 1, "cores": 6, "processes": 4, "encoder_threads": 0}
