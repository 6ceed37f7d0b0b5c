"""Whether a Matroska file is whole, and says nothing of how long its pictures last."""

import numpy as np
import pytest

from helpers.clips import noisy_barcode, without_durations, write_video
from mambavl.extract.input_files import InputFile
from mambavl.extract.matroska import lasts_until_the_next

VP8 = {"codec": "libvpx", "deadline": "realtime", "cpu-used": "8", "b": "400k"}


def says(path):
    file = InputFile(path)
    file.seek(7)
    found = lasts_until_the_next(file)
    assert file.tell() == 7
    file.close()
    return found


@pytest.mark.parametrize(
    "muxer", [{}, {"live": "1"}, {"cues_to_front": "1", "reserve_index_space": "4096"}], ids=str
)
@pytest.mark.parametrize("container", ["matroska", "webm"])
def test_a_whole_file_without_durations_is_one(tmp_path, container, muxer):
    """live: neither the segment nor a cluster says its size, as browsers write them."""
    codec = VP8 if container == "webm" else {}
    path = write_video(tmp_path / "a", frames=80, container=container, muxer=muxer, **codec)
    assert not says(path)  # its track says a duration
    assert says(without_durations(path))


@pytest.fixture
def whole(tmp_path):
    path = without_durations(
        write_video(
            tmp_path / "a", frames=240, container="matroska", preset="ultrafast", picture=noisy_barcode
        )
    )
    assert says(path)
    return path


def test_bytes_that_are_lost_or_zeroed_anywhere_show(whole):
    data, draw = whole.read_bytes(), np.random.default_rng(0)
    end = data.rindex(bytes.fromhex("1c53bb6b"))  # of the pictures: Cues
    for hole in (1, 7, 200, 3000):
        for at in draw.integers(64, end - hole, 12).tolist():
            whole.write_bytes(data[:at] + data[at + hole :])
            assert not says(whole)
    for at in draw.integers(64, end - 60_000, 20).tolist():
        whole.write_bytes(data[:at] + bytes(60_000) + data[at + 60_000 :])
        assert not says(whole)


def test_a_file_that_breaks_off_is_whole_up_to_there(whole):
    data = whole.read_bytes()
    for share in (0.4, 0.7, 0.9):
        whole.write_bytes(data[: int(len(data) * share)])
        assert says(whole)
    whole.write_bytes(data + bytes(1000))  # behind its end
    assert not says(whole)


@pytest.mark.parametrize("data", [b"", b"\0", b"no video at all", b"\x1a\x45\xdf\xa3"])
def test_another_file_is_none(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    assert not says(tmp_path / "a")
