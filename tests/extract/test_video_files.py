"""Video files: found in every known disk layout, and told apart by what stands for them."""

import hashlib
import os

import pytest

from helpers.dataset import broken_copy
from mambavl.configs.errors import DataError
from mambavl.extract.annotations import read_annotations
from mambavl.extract.video_files import find_video, find_videos, fingerprint


def test_both_disk_layouts_are_found(tmp_path):
    assert find_video(tmp_path, "P01", "P01_01") is None
    flat = tmp_path / "P01" / "P01_01.MP4"
    flat.parent.mkdir()
    flat.touch()
    assert find_video(tmp_path, "P01", "P01_01") == flat
    epic = tmp_path / "P01" / "videos" / "P01_01.MP4"
    epic.parent.mkdir()
    epic.touch()
    assert find_video(tmp_path, "P01", "P01_01") == epic


def test_a_fingerprint_changes_with_the_file(tmp_path):
    path = tmp_path / "a.MP4"
    path.write_bytes(b"frames")
    os.utime(path, ns=(5, 7))
    assert fingerprint(path, "fast") == [6, 7]
    assert fingerprint(path, "full") == [6, hashlib.sha256(b"frames").hexdigest()]
    assert fingerprint(None, "fast") is None


def test_missing_videos_stop_the_job_unless_they_are_allowed(dataset, tmp_path):
    read, copy = read_annotations(dataset / "annotations"), broken_copy(dataset, tmp_path)
    paths = find_videos(read, copy / "videos", allow_missing=True)
    assert [video for video, path in paths.items() if path is None] == ["P01_102"]
    assert paths["P01_104"] == copy / "videos" / "P01" / "videos" / "P01_104.MP4"
    with pytest.raises(DataError, match=r"1 of 4 videos are not there \(P01_102\).*allow_missing=true"):
        find_videos(read, copy / "videos", allow_missing=False)
    with pytest.raises(DataError, match="--videos takes the folder that holds"):
        find_videos(read, tmp_path / "nowhere", allow_missing=True)
