"""Video files are told apart by what stands for them."""

import hashlib
import os

from mambavl.extract.video_files import fingerprint


def test_a_fingerprint_changes_with_the_file(tmp_path):
    path = tmp_path / "a.MP4"
    path.write_bytes(b"frames")
    os.utime(path, ns=(5, 7))
    assert fingerprint(path, "fast") == [6, 7]
    assert fingerprint(path, "full") == [6, hashlib.sha256(b"frames").hexdigest()]
    assert fingerprint(None, "fast") is None
