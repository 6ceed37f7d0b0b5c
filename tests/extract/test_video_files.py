"""Video files: found in every known disk layout, and told apart by what stands for them."""

import hashlib
import os

from mambavl.extract.video_files import find_video, fingerprint


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
