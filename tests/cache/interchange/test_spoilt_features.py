"""Ways in which features of others go wrong: each is refused by name, or every row gets what it should.

Two videos of 20 and 12 s; step i of a video is (i, video, 1, 0, 0). By stated clock: a step a frame, 10 a
second. Beside: as video_features leaves them, stacks of 10 frames every 5 at 10 a second, with a rate and
times.
"""

import h5py
import numpy as np
import pytest
import torch

from helpers.tiny import CLASSES, make_segments
from mambavl.cache import open_store
from mambavl.cache.interchange.foreign import check_options, check_source, import_features
from mambavl.cache.interchange.lookup import SamplingTimes
from mambavl.configs.errors import MambaVLError

SEGMENTS = make_segments(12)  # P01_101 has ten rows, two seconds apart, P01_102 two
LENGTHS = {"P01_101": 20.0, "P01_102": 12.0}
TIMES = np.array([[segment.start + 0.75] for segment in SEGMENTS])
EVERY = {"fps": 10.0, "window": 1, "stride": 1}
CLIPS = {"window": 10, "stride": 5, "fps": 10.0}


def steps_of(video, clock):
    count = round((LENGTHS[video] * clock["fps"] - clock["window"]) / clock["stride"]) + 1
    values = np.zeros((count, 5), np.float32)
    values[:, 0], values[:, 1], values[:, 2] = np.arange(count), int(video[-1]), 1
    return values


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, values in files.items():
        np.save(folder / f"{name}.npy", values)


def stated(folder, **changes):
    """Features to be read with EVERY, some of them changed; None: not written."""
    arrays = {video: steps_of(video, EVERY) for video in LENGTHS} | changes
    write(folder, **{name: values for name, values in arrays.items() if values is not None})


def beside(folder, video="P01_101", **changes):
    """Triples as video_features writes them; changes: of one video's."""
    for name in LENGTHS:
        steps = steps_of(name, CLIPS)
        times = (np.arange(len(steps)) * 5 + 9) / 10 * 1000  # ms at which the last frame of a stack begins
        triple = {"rgb": steps, "fps": np.array(10.0), "timestamps_ms": times}
        triple |= changes if name == video else {}
        for kind, values in triple.items():
            if values is not None:
                write(folder, **{f"{name}_{kind}": values})


def bring(tmp_path, format="npy", known=True, **options):
    moments = SamplingTimes(
        {"task": "recognition", "rule": "test", "frames": 1}, TIMES, durations=LENGTHS if known else {}
    )
    chosen = check_options(format, **options)
    check_source(
        tmp_path / "source", format, SEGMENTS, moments, chosen
    )  # before a long read, with the same words
    import_features(
        tmp_path / "source", format, tmp_path / "v.zarr", SEGMENTS, CLASSES, moments, max_failed=0, **options
    )
    return open_store(tmp_path / "v.zarr").batch(range(len(SEGMENTS)), "frame")[0][:, 0]


def assert_right(tokens, clock):
    for segment, time, token in zip(SEGMENTS, TIMES[:, 0], tokens.tolist(), strict=True):
        step, video, one, *rest = token
        centre = (step * clock["stride"] + clock["window"] / 2) / clock["fps"]
        assert abs(centre - time) <= clock["stride"] / clock["fps"] / 2 + 1e-6
        assert (video, one, rest) == (int(segment.video_id[-1]), 1.0, [0.0, 0.0])


# --- what means the same


def turned(folder):
    stated(folder, **{video: steps_of(video, EVERY).T for video in LENGTHS})


def turned_in_memory(folder):
    """Of Fortran's order, with the axes as they should be."""
    stated(folder, **{video: np.asfortranarray(steps_of(video, EVERY)) for video in LENGTHS})


def doubles(folder):
    stated(folder, **{video: steps_of(video, EVERY).astype(np.float64) for video in LENGTHS})


def other_bytes(folder):
    stated(folder, **{video: steps_of(video, EVERY).astype(">f4") for video in LENGTHS})


def batches_of_one(folder):
    stated(folder, **{video: steps_of(video, EVERY)[None] for video in LENGTHS})


def a_step_less(folder):
    stated(folder, **{video: steps_of(video, EVERY)[:-1] for video in LENGTHS})


def a_stranger(folder):
    stated(folder, P09_901=np.zeros((7, 3), np.float32))


def with_endings(folder):
    write(folder, **{f"{video}.MP4": steps_of(video, EVERY) for video in LENGTHS})


@pytest.mark.parametrize(
    "fault",
    [turned, turned_in_memory, doubles, other_bytes, batches_of_one, a_step_less, a_stranger, with_endings],
)
def test_forms_that_mean_the_same_are_read_right(tmp_path, fault):
    fault(tmp_path / "source")
    assert_right(bring(tmp_path, **EVERY), EVERY)


def test_triples_are_read_by_their_own_clock(tmp_path):
    beside(tmp_path / "source")
    assert_right(bring(tmp_path), CLIPS)


def test_times_are_milliseconds_whatever_the_rate_beside_them(tmp_path):
    """The rate says how many frames a step saw, and not when."""
    beside(tmp_path / "source", fps=np.array(20.0))
    for time, token in zip(TIMES[:10, 0], bring(tmp_path)[:10].tolist(), strict=True):
        assert abs((token[0] * 10 + 9.5) / 20 - time) <= 0.25 + 1e-6  # 19 frames, the last at 900 ms


def test_each_triple_may_have_its_own_rate(tmp_path):
    """The second video made at 20 a second: twice the steps, at half the distance."""
    clock = {"fps": 20.0, "window": 10, "stride": 5}
    steps = steps_of("P01_102", clock)
    times = (np.arange(len(steps)) * 5 + 9) / 20 * 1000
    changes = {"rgb": steps, "fps": np.array(20.0), "timestamps_ms": times}
    beside(tmp_path / "source", "P01_102", **changes)
    tokens = bring(tmp_path).tolist()
    for time, token in zip(TIMES[10:, 0], tokens[10:], strict=True):
        assert abs((token[0] * 5 + 5) / 20 - time) <= 0.125 + 1e-6


def test_hdf5_by_video_and_tensors_say_the_same(tmp_path):
    (tmp_path / "h").mkdir()
    with h5py.File(tmp_path / "h" / "source", "w") as file:
        for video in LENGTHS:
            file[video] = steps_of(video, EVERY)
    assert_right(bring(tmp_path / "h", "hdf5", **EVERY), EVERY)
    (tmp_path / "t" / "source").mkdir(parents=True)
    for video in LENGTHS:
        torch.save(
            {"feats": torch.from_numpy(steps_of(video, EVERY))}, tmp_path / "t" / "source" / f"{video}.pt"
        )
    assert_right(bring(tmp_path / "t", "torch", **EVERY), EVERY)


# --- what does not


LONG = steps_of("P01_101", EVERY)
CLIP = steps_of("P01_101", CLIPS)
CLIP_TIMES = (np.arange(len(CLIP)) * 5 + 9) * 100.0


def with_value(value):
    values = LONG.copy()
    values[:, 3] = value
    return values


REFUSED = [
    # what is written, options, what the message says
    ({}, {**EVERY, "fps": 20.0}, "--set fps=10 would fit"),
    ({}, {**EVERY, "fps": 5.0}, "--set fps=10 would fit"),
    ({}, {**EVERY, "stride": 2}, r"last .* at fps = 10"),
    ({}, {**EVERY, "fps": 0.0}, "fps = 0: expected a number above 0"),
    ({}, {**EVERY, "fps": float("nan")}, "fps = nan: expected a number above 0"),
    ({}, {}, "nothing beside the features of P01_101 says when its steps are"),
    ({"P01_101": LONG[::2]}, EVERY, r"1 video of 2 do not last as long .*those of P01_101 last 10\.0 s"),
    ({"P01_101": np.repeat(LONG, 2, 0)}, EVERY, r"those of P01_101 last 40\.0 s"),
    ({"P01_101": LONG[:150]}, EVERY, r"those of P01_101 last 15\.0 s"),
    ({"P01_101": np.zeros((200, 4), np.float32)}, EVERY, "all must have one form and one width"),
    ({"P01_101": LONG.T}, EVERY, "all must have one form and one width"),
    ({"P01_101": LONG.astype(np.int64)}, EVERY, "P01_101 is int64"),
    ({"P01_101": LONG.astype(np.complex64)}, EVERY, "P01_101 is complex64"),
    ({"P01_101": LONG.reshape(2, 100, 5)}, EVERY, r"P01_101 is float32 \(2, 100, 5\)"),
    ({"P01_101": LONG[:, 0]}, EVERY, r"P01_101 is float32 \(200,\)"),
    ({"P01_101": LONG[:, :0]}, EVERY, r"P01_101 is float32 \(200, 0\)"),
    ({"P01_101": with_value(np.nan)}, EVERY, "have no features|nonfinite_features|holds NaN"),
    ({"P01_101": with_value(np.inf)}, EVERY, "have no features|nonfinite_features|holds NaN"),
    ({"P01_102": None}, EVERY, "no features of P01_102|have no features"),
    ({"P01_101": None, "P01_102": None, "P02_101": LONG}, EVERY, "has nothing for any row"),
    ({"P01_101_flow": LONG, "P01_101_rgb": LONG, "P01_101": None}, EVERY, "name one with --set dataset=KEY"),
]


@pytest.mark.parametrize(("changes", "options", "said"), REFUSED)
def test_features_that_cannot_be_theirs_are_refused_by_name(tmp_path, changes, options, said):
    stated(tmp_path / "source", **changes)
    with pytest.raises(MambaVLError, match=said):
        bring(tmp_path, **options)


BESIDE = [
    ({"fps": None}, "nothing beside the features of P01_101 says when"),
    ({"timestamps_ms": None}, "nothing beside the features of P01_101 says when"),
    ({"fps": np.array(0.0)}, "they are no times"),
    ({"fps": np.array(np.nan)}, "they are no times"),
    ({"fps": np.array([10.0, 10.0])}, r"P01_101_fps\.npy: holds 2 numbers; expected one, the rate"),
    ({"fps": np.array(25.0)}, "they are not even|do not last as long"),
    ({"timestamps_ms": CLIP_TIMES / 1000}, "they are not even|no stride"),
    ({"timestamps_ms": CLIP_TIMES * 2}, "do not last as long as"),
    ({"timestamps_ms": CLIP_TIMES[::-1]}, "they are not even"),
    ({"timestamps_ms": CLIP_TIMES[:-1]}, "there are 38 for 39 steps"),
    ({"timestamps_ms": np.r_[CLIP_TIMES[:10], CLIP_TIMES[10:] + 900]}, "they are not even"),
    ({"timestamps_ms": CLIP_TIMES[:, None]}, "they are no times"),
    ({"timestamps_ms": np.full(39, np.nan)}, "they are no times"),
    ({"timestamps_ms": np.array(["0:01"] * 39)}, "timestamps_ms.*cannot be read"),
    ({"rgb": CLIP[:20], "timestamps_ms": CLIP_TIMES[:20]}, "do not last as long as"),
    ({"rgb": np.concatenate([CLIP, CLIP]), "timestamps_ms": np.arange(78) * 500.0 + 900}, "do not last"),
]


@pytest.mark.parametrize(("changes", "said"), BESIDE)
def test_a_clock_beside_features_that_cannot_be_is_refused(tmp_path, changes, said):
    beside(tmp_path / "source", **changes)
    with pytest.raises(MambaVLError, match=said):
        bring(tmp_path)


@pytest.mark.parametrize("cut", [0, 40, 1000])
def test_a_file_that_was_cut_is_named(tmp_path, cut):
    stated(tmp_path / "source")
    path = tmp_path / "source" / "P01_101.npy"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(MambaVLError, match=r"P01_101\.npy: cannot be read"):
        bring(tmp_path, **EVERY)


def test_an_array_of_objects_is_never_loaded(tmp_path):
    stated(tmp_path / "source")
    np.save(tmp_path / "source" / "P01_101.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(MambaVLError, match="P01_101 is object"):
        bring(tmp_path, **EVERY)
