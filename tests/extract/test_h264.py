"""H.264 packets are told apart as the encoder made them."""

import av
import pytest

from helpers.clips import write_video
from mambavl.extract.h264 import H264Packets


def packets(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        kinds = H264Packets(stream)
        return [
            (packet.is_keyframe, kinds.is_idr(packet), kinds.is_unreferenced(packet))
            for packet in container.demux(stream)
            if packet.size
        ]


def test_every_keyframe_of_closed_groups_is_an_idr(tmp_path):
    found = packets(write_video(tmp_path / "a.mp4", sc_threshold="0"))
    assert [key for key, _, _ in found].count(True) == 5
    assert all(key == idr for key, idr, _ in found)


@pytest.mark.parametrize("params", ["open-gop=1:bframes=2:keyint=12", "intra-refresh=1:bframes=0:keyint=12"])
def test_a_keyframe_that_pictures_behind_it_look_past_is_none(tmp_path, params):
    found = packets(write_video(tmp_path / "a.mp4", **{"x264-params": f"{params}:scenecut=0"}))
    assert [idr for key, idr, _ in found if key] == [True, False, False, False, False]


@pytest.mark.parametrize(("bf", "share"), [("0", 0), ("1", 0.4)])
def test_b_frames_alone_are_referred_to_by_none(tmp_path, bf, share):
    found = packets(write_video(tmp_path / "a.mp4", bf=bf, b_strategy="0", sc_threshold="0"))
    unreferenced = [free for _, _, free in found]
    assert sum(unreferenced) >= share * len(found)
    assert any(unreferenced) == (bf != "0")
    assert not any(key and free for key, _, free in found)


def test_of_another_layout_or_codec_nothing_is_said(tmp_path):
    for changes in ({"container": "mpegts"}, {"codec": "mpeg4"}):
        found = packets(write_video(tmp_path / "a", **changes))
        assert not any(idr or free for _, idr, free in found)
