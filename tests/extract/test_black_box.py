"""Causality from outside: video files are made twice, the second time with some pictures changed, and the
real command extracts both. A row must be the same to the bit unless the file shows it something else.

What a row may see is worked out here, from what the rules say in words. That only the meant pictures differ
is seen by PyAV itself, never by our reader.
"""

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from helpers.cli import call
from helpers.clips import HEIGHT, WIDTH, write_video
from helpers.dataset import ROWS_PER_VIDEO, barcode_record, make_dataset
from helpers.hf import save_video
from helpers.own import GOOD
from helpers.sounds import RATE, save_audio, write_sound
from mambavl.cache import open_store
from mambavl.cache.rows import EMPTY_WINDOW, OK
from mambavl.extract.encoders import registry

SECONDS, T = 6.0, 4
LOSSLESS = {  # what a picture is predicted from changes nothing of it
    # one keyframe a second, and most pictures predicted from later ones
    "H.265 with B-frames": {
        "codec": "libx265",
        "fps": 25,
        "gop": 25,
        "preset": "ultrafast",
        "x265-params": "lossless=1:bframes=2:b-adapt=0:scenecut=0:log-level=none",
    },
    # pictures that are each on display for 20 to 80 ms
    "a variable rate": {"times": True, "gop": 12, "qp": "0", "crf": "0", "bf": "0", "preset": "veryfast"},
    # every picture by itself
    "FFV1": {"fps": 25, "codec": "ffv1", "container": "matroska", "crf": "", "bf": "0"},
}
STARTS = [1.1 * row for row in range(ROWS_PER_VIDEO)]  # of the rows of each video
BEFORE = {  # rule -> seconds before start - tau_a of the T moments that it looks at
    "strict": [64 / 30, 43 / 30, 22 / 30, 1 / 30],
    "vjepa": [4 / 8, 3 / 8, 2 / 8, 1 / 8],
    "rulstm": [0.75, 0.5, 0.25, 0.0],
}
LEVELS = '["clip","frame","grid","patch"]'


class Films:
    """Two videos of noise, no picture twice, in one of the forms above."""

    def __init__(self, folder: Path, form: str) -> None:
        self.folder = make_dataset(folder, videos=2)
        self.form = dict(LOSSLESS[form])
        self.times = None
        count = round(SECONDS * 25)
        if self.form.pop("times", False):
            gaps = np.random.default_rng(5).integers(20, 81, 400)
            self.times = np.concatenate([[0], np.cumsum(gaps)])
            self.times = self.times[self.times < SECONDS * 1000].tolist()
            count = len(self.times)
        self.pts = np.array(self.times) / 1000 if self.times else np.arange(count) / 25
        self.first = {video: self.write(video) for video in ("P01_101", "P01_102")}  # as they are at first

    def path(self, video: str) -> Path:
        return self.folder / "videos" / "P01" / "videos" / f"{video}.MP4"

    def write(self, video: str, changed: frozenset[int] = frozenset()) -> list[np.ndarray]:
        """Make the file of a video, with other pictures in place of `changed`; returns what it shows."""
        film = int(video[-1])

        def picture(number: int) -> np.ndarray:
            dice = np.random.default_rng((film, number, number in changed))
            return dice.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)

        write_video(self.path(video), frames=len(self.pts), times=self.times, picture=picture, **self.form)
        with av.open(str(self.path(video))) as file:
            frames = list(file.decode(video=0))
        has_b_frames = any(PictureType(frame.pict_type).name == "B" for frame in frames)
        assert has_b_frames == ("x265-params" in self.form)
        np.testing.assert_allclose([frame.time - frames[0].time for frame in frames], self.pts, atol=1e-3)
        return [frame.to_ndarray(format="rgb24") for frame in frames]

    def change(self, video: str, changed: frozenset[int]) -> None:
        """Change these pictures and no others, seen by what PyAV decodes before and after."""
        before, after = self.first[video], self.write(video, changed)
        assert {n for n, picture in enumerate(after) if (picture != before[n]).any()} == changed

    def observed(self, start: float, rule: str, tau_a: float) -> set[int]:
        """The pictures on display at the moments of a row; none where there is nothing to observe."""
        end = start - tau_a
        if end <= 0:
            return set()
        moments = [max(end - before, 0.0) for before in BEFORE[rule]]
        return {int((self.pts <= moment + 1e-6).sum()) - 1 for moment in moments}


@pytest.fixture
def encoder(request, tmp_path, monkeypatch) -> list[str]:
    """The words of a command that name an encoder: per frame, over the whole clip, one's own."""
    if request.param == "barcode":
        monkeypatch.setitem(registry.ENCODERS, "barcode", barcode_record())
        return ["--encoder", "barcode"]
    if request.param == "own":
        (tmp_path / "mine_of_black_box.py").write_text(GOOD)
        monkeypatch.chdir(tmp_path)
        return ["--encoder", "mine_of_black_box:build"]
    if request.param == "timm:test_vit":
        return ["--encoder", request.param, "--weights", "random", "--set", "image_size=64"]
    folder = save_video(tmp_path / request.param, request.param)
    return ["--encoder", f"hf:{folder}", "--set", "weights_state=random"]


def extract(films: Films, out: Path, encoder: list[str], rule: str, tau_a: float) -> list[dict]:
    """Features of each row by level, as bytes, none of an empty row; those of the first video come first."""
    sets = (f"levels={LEVELS}", "grid=2", f"sampling.rule={rule}", f"sampling.frames={T}")
    return features("video", films.folder, out, encoder, tau_a, *sets)


def features(kind: str, folder: Path, out: Path, encoder: list[str], tau_a: float, *sets: str) -> list[dict]:
    """As `extract`, of videos or of their sound."""
    words = ("extract", kind, "--annotations", folder / "annotations", "--videos", folder / "videos")
    words += ("--out", out, "--task", "anticipation", *encoder)
    # of five rows a video, so videos share a batch
    for setting in (*sets, "batch_rows=4", "dtype=float32", f"sampling.tau_a={tau_a}"):
        words += ("--set", setting)
    assert call(*words) == 0
    store = open_store(out)
    by_id = {segment.narration_id: row for row, segment in enumerate(store.segments)}
    rows = [by_id[f"{video}_{n}"] for video in ("P01_101", "P01_102") for n in range(ROWS_PER_VIDEO)]
    assert store.status[rows].tolist() == [OK if start > tau_a else EMPTY_WINDOW for start in STARTS] * 2
    return [
        {level: store.batch([row], level)[0].numpy().tobytes() for level in store.levels}
        if store.status[row] == OK
        else {}
        for row in rows
    ]


CASES = [
    ("barcode", "H.265 with B-frames", "strict", 1.0),
    ("barcode", "a variable rate", "rulstm", 0.45),
    ("timm:test_vit", "FFV1", "strict", 0.45),
    ("videomae", "H.265 with B-frames", "vjepa", 1.0),
    ("vjepa2", "a variable rate", "vjepa", 0.0),
    ("own", "FFV1", "rulstm", 1.0),
]


@pytest.mark.parametrize(("encoder", "form", "rule", "tau_a"), CASES, indirect=["encoder"])
def test_a_row_knows_nothing_but_the_pictures_that_it_observes(tmp_path, encoder, form, rule, tau_a):
    films = Films(tmp_path / "films", form)
    seen = [films.observed(start, rule, tau_a) for start in STARTS]
    first = extract(films, tmp_path / "first.zarr", encoder, rule, tau_a)

    def expect(name: str, changed: frozenset[int]) -> None:
        """Of the first video, all rows that see a changed picture differ in every level, and no others."""
        films.change("P01_101", changed)
        found = extract(films, tmp_path / f"{name}.zarr", encoder, rule, tau_a)
        for row, pictures in enumerate(seen):
            for level, features in found[row].items():
                differs = features != first[row][level]
                assert differs == bool(pictures & changed), (name, row, level)
        assert found[ROWS_PER_VIDEO:] == first[ROWS_PER_VIDEO:], name

    row = 3
    later = frozenset(np.flatnonzero(films.pts > STARTS[row] - tau_a).tolist())
    assert later
    assert any(pictures & later for pictures in seen[row + 1 :])
    expect("later", later)
    expect("one", frozenset({min(seen[row])}))
    expect("last", frozenset({max(seen[row])}))
    unseen = frozenset(range(len(films.pts))) - set().union(*seen)
    expect("unseen", unseen)
    films.write("P01_101")
    films.change("P01_102", frozenset(range(len(films.pts))))  # the batch mates
    mates = extract(films, tmp_path / "mates.zarr", encoder, rule, tau_a)
    assert mates[:ROWS_PER_VIDEO] == first[:ROWS_PER_VIDEO]
    for row, pictures in enumerate(seen):
        for level, features in mates[ROWS_PER_VIDEO + row].items():
            assert (features != first[ROWS_PER_VIDEO + row][level]) == bool(pictures), (row, level)


def noise(film: int, *changed: tuple[float, float]) -> np.ndarray:
    """(n, 1) samples; other ones in each span of seconds (from, to)."""
    samples, others = np.random.default_rng(film).uniform(-0.5, 0.5, (2, round(SECONDS * RATE), 1))
    for begin, end in changed:
        first, last = (round(moment * RATE) for moment in (begin, end))
        samples[first:last] = others[first:last]
    return samples


def heard(path: Path) -> np.ndarray:
    """Every sample of a file, as PyAV decodes it."""
    with av.open(str(path)) as file:
        return np.concatenate([frame.to_ndarray().ravel() for frame in file.decode(audio=0)])


@pytest.mark.parametrize("kind", ["wav2vec2", "ast", "whisper"])
def test_a_row_knows_nothing_but_the_sound_that_it_hears(tmp_path, kind):
    """The rows hear the 64/30 s before 0.1, 1.2, 2.3 and 3.4 s."""
    folder = make_dataset(tmp_path / "films", videos=2)
    paths = {film: folder / "videos" / "P01" / "videos" / f"P01_10{film}.MP4" for film in (1, 2)}
    encoder = ["--encoder", f"audio:{save_audio(tmp_path / kind, kind)}", "--set", "weights_state=random"]

    def extract_with(name: str, film: int = 1, *changed: tuple[float, float]) -> list[dict]:
        for number, path in paths.items():
            # losslessly, in a container whose clock counts samples (Matroska counts milliseconds)
            write_sound(path, noise(number, *(changed if number == film else ())), codec="alac")
        is_other = heard(paths[film]) != first_heard[film] if first_heard else np.zeros(0, bool)
        times = np.arange(len(is_other)) / RATE
        meant = [(begin - 1e-4 <= times) & (times < end) for begin, end in changed]
        assert not is_other[~np.any(meant, axis=0)].any() if changed else not is_other.any()
        assert all(is_other[span].mean() > 0.99 for span in meant)
        sets = ('levels=["clip","frame"]', "steps=2")
        return features("audio", folder, tmp_path / f"{name}.zarr", encoder, 1.0, *sets)

    first_heard: dict[int, np.ndarray] = {}
    first = extract_with("first")
    first_heard |= {film: heard(path) for film, path in paths.items()}
    ends = [start - 1.0 for start in STARTS]  # -1.0, 0.1, 1.2, 2.3, 3.4
    for name, span in (("later", (2.3, SECONDS)), ("within", (1.25, 1.26)), ("between", (3.4, SECONDS))):
        found = extract_with(name, 1, span)
        for row, end in enumerate(ends):
            hears = end > 0 and span[0] < end - 1e-6 and span[1] > end - 64 / 30
            for level, values in found[row].items():
                assert (values != first[row][level]) == hears, (name, row, level)
        assert found[ROWS_PER_VIDEO:] == first[ROWS_PER_VIDEO:], name
    mates = extract_with("mates", 2, (0.0, SECONDS))
    assert mates[:ROWS_PER_VIDEO] == first[:ROWS_PER_VIDEO]
    assert all(new != old for new, old in zip(mates[6:], first[6:], strict=True))
