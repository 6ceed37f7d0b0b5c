"""The child that reads a stranger's file: its limits hold, and one line says why a file was refused."""

import json
import pickle

import pytest

from mambavl.configs.untrusted import PLAIN_PICKLE, Limits, Refused, convert

LIMITS = Limits(seconds=60, room=2**30, times=16)

READER = """
import json, os, sys, time
from pathlib import Path

def read_untrusted(source, target):
    what = Path(source).read_text()
    if what == "sleep":
        time.sleep(60)
    if what == "fill":
        held = bytearray(2**30)
    if what == "die":
        print("its last words", file=sys.stderr)
        os._exit(7)
    if what == "vanish":
        os._exit(9)
    if what == "refuse":
        return {"fault": "is not to my taste"}
    if what == "fail":
        raise RuntimeError("one line\\nand another")
    print("a library's chatter")
    Path(target).write_text(what.upper())
    return {"environment": sorted(os.environ), "isolated": sys.flags.isolated}
"""


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A reader's module, found on the parent's path."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "stranger_reader.py").write_text(READER)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    return "stranger_reader"


def test_a_reader_answers_and_writes_and_sees_no_secret(tmp_path, reader, monkeypatch):
    monkeypatch.setenv("A_SECRET", "x")
    (tmp_path / "a").write_text("words")
    answer = convert(tmp_path / "a", tmp_path / "b", reader, LIMITS)
    assert (tmp_path / "b").read_text() == "WORDS"
    assert answer["isolated"]
    assert "PATH" in answer["environment"]
    assert "A_SECRET" not in answer["environment"]


@pytest.mark.parametrize(
    ("what", "limits", "message"),
    [
        ("sleep", Limits(1, 2**30, 0), r"took more than 1 s to read and was given up"),
        ("fill", Limits(60, 2**29, 16), r"cannot be read \(MemoryError\)"),
        ("die", LIMITS, r"cannot be read \(its last words\)"),
        ("vanish", LIMITS, r"cannot be read \(its reader ended with 9\)"),
        ("refuse", LIMITS, "is not to my taste"),
        ("fail", LIMITS, r"cannot be read \(RuntimeError: one line\)"),
    ],
)
def test_a_file_that_is_not_read_is_refused_in_one_line(tmp_path, reader, what, limits, message):
    (tmp_path / "a").write_text(what)
    with pytest.raises(Refused, match=f"^{message}$"):
        convert(tmp_path / "a", tmp_path / "b", reader, limits)
    assert not (tmp_path / "b").exists()


def test_the_size_of_the_file_gives_it_room(tmp_path):
    (tmp_path / "a").write_bytes(pickle.dumps(["x" * 2**20] * 2 + [b"".hex()]))
    assert convert(tmp_path / "a", tmp_path / "b", PLAIN_PICKLE, Limits(60, 0, 2**8)) == {}
    with pytest.raises(Refused, match="cannot be read"):
        convert(tmp_path / "a", tmp_path / "c", PLAIN_PICKLE, Limits(60, 0, 0))


def test_plain_containers_come_as_json(tmp_path):
    value = {"rows": [["a", 1, 2.5, True, None]]}
    (tmp_path / "a").write_bytes(pickle.dumps(value))
    convert(tmp_path / "a", tmp_path / "b", PLAIN_PICKLE, LIMITS)
    assert json.loads((tmp_path / "b").read_bytes()) == value
