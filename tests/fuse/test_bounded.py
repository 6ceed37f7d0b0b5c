"""A stranger's JSON: what is read of it, and what is refused before it can do harm."""

import contextlib
import io
import json
import os
import struct
import zipfile

import pytest

from helpers.submissions import zipped
from mambavl.fuse import bounded
from mambavl.fuse.bounded import Scanner, Unreadable, read_text


def refused(path, data, says):
    path.write_bytes(data)
    with pytest.raises(Unreadable, match=says):
        read_text(path, "test.json", pytest.fail)


def members(text):
    """All of an object, read member by member, as pairs."""
    scanner = Scanner(text)
    return [(key, scanner.value()) for key in scanner.members()]


def test_text_is_read_bare_and_from_a_zip(tmp_path):
    (tmp_path / "a.json").write_text("é 1")
    assert read_text(tmp_path / "a.json", "test.json", pytest.fail) == "é 1"
    (tmp_path / "a.zip").write_bytes(zipped("é 2"))
    assert read_text(tmp_path / "a.zip", "test.json", pytest.fail) == "é 2"


def test_the_member_that_is_meant_is_read_and_what_is_wrong_is_told(tmp_path):
    for names, said in (
        (("x.json",), "holds 'x.json'; it holds test.json and nothing else"),
        (("a/test.json",), "holds 'a/test.json'; "),
        (("x.json", "b/test.json"), "holds 'x.json', 'b/test.json'; "),
        (("test.json", "test.json"), "holds 'test.json', 'test.json'; "),
    ):
        with (
            pytest.warns(UserWarning, match="Duplicate")
            if len(set(names)) < len(names)
            else contextlib.nullcontext()
        ):
            (tmp_path / "a.zip").write_bytes(zipped("text", *names))
        faults = []
        assert read_text(tmp_path / "a.zip", "test.json", faults.append) == "text"
        assert len(faults) == 1
        assert said in faults[0]


def test_a_zip_without_it_is_refused_and_what_it_holds_told(tmp_path):
    faults = []
    (tmp_path / "a.zip").write_bytes(zipped("x", "one.txt", "two.txt"))
    with pytest.raises(Unreadable, match=r"no test\.json to read"):
        read_text(tmp_path / "a.zip", "test.json", faults.append)
    assert "'one.txt', 'two.txt'" in faults[0]
    (tmp_path / "a.zip").write_bytes(b"PK\5\6" + bytes(18))
    with pytest.raises(Unreadable, match="no test"):
        read_text(tmp_path / "a.zip", "test.json", faults.append)
    assert "holds nothing" in faults[1]


def test_what_is_no_file_or_no_text_is_refused(tmp_path):
    with pytest.raises(Unreadable, match="there is no such file"):
        read_text(tmp_path / "none", "test.json", pytest.fail)
    with pytest.raises(Unreadable, match="no ordinary file"):
        read_text(tmp_path, "test.json", pytest.fail)
    os.mkfifo(tmp_path / "pipe")  # reading one would wait for ever
    with pytest.raises(Unreadable, match="no ordinary file"):
        read_text(tmp_path / "pipe", "test.json", pytest.fail)
    refused(tmp_path / "a.json", b"\xff\xfe{\x00", r"is not text in UTF-8 \(byte 0\)")
    refused(tmp_path / "a.zip", b"{}", "is called .zip and is none")
    refused(tmp_path / "a.pt", b"\x80\x02}", "is a pickle")


def test_a_bomb_is_refused_by_what_it_says_and_by_what_it_does(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, "MAX_BYTES", 10_000)
    refused(tmp_path / "big.json", b" " * 10_001, "is larger than 10,000 bytes")
    bomb = zipped(b" " * 10_001)
    assert len(bomb) < 1000
    refused(tmp_path / "bomb.zip", bomb, "unpacks to 10,001 bytes, and is not read")
    # its lists say 100 bytes
    lying = bomb.replace(struct.pack("<I", 10_001), struct.pack("<I", 100))
    assert lying != bomb
    refused(tmp_path / "lying.zip", lying, "cannot be unpacked")


def test_a_zip_of_very_many_members_is_refused_before_it_is_listed(tmp_path, monkeypatch):
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as file:
        for number in range(bounded.MAX_MEMBERS + 1):
            file.writestr(str(number), "")
    monkeypatch.setattr(bounded.zipfile, "ZipFile", None)
    refused(tmp_path / "a.zip", many.getvalue(), "more than 1,000 members")


def test_a_damaged_or_locked_zip_is_refused(tmp_path):
    good = zipped(json.dumps(list(range(1000))))
    refused(tmp_path / "cut.zip", good[:-30], "cannot be unpacked")
    spoilt = bytearray(good)
    spoilt[200] ^= 255
    refused(tmp_path / "spoilt.zip", bytes(spoilt), "cannot be unpacked")
    flags = good.index(b"PK\1\2") + 8
    locked = bytearray(good)
    locked[6] |= 1
    locked[flags] |= 1
    refused(tmp_path / "locked.zip", bytes(locked), "encrypted")


@pytest.mark.parametrize("text", ['{"a": 1, "b": [1, {"c": "\\u00e9"}]}', "{}", ' {\n"a"\t:null\r\n} '])
def test_an_object_is_read_as_json_reads_it(text):
    assert dict(members(text)) == json.loads(text)


def test_members_that_stand_twice_are_given_twice():
    assert members('{"a": 1, "a": 2}') == [("a", 1), ("a", 2)]
    scanner = Scanner('{"x": {"a": 1, "b": {"c": 1, "c": 1, "c": 2}, "a": 2}, "y": {"a": 1}}')
    found = [(key, scanner.value(), sorted(scanner.twice)) for key in scanner.members()]
    assert found[0] == ("x", {"a": 2, "b": {"c": 2}}, ["a", "c"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "its end at character 0, where '{' belongs"),
        ("[]", "'\\[' at character 0, where '{'"),
        ('{"a" 1}', "'1' at character 5, where ':'"),
        ('{"a": 1 "b": 2}', "'\"' at character 8, where ','"),
        ('{"a": 1,}', "at or after character 8"),
        ("{1: 2}", "the key before character 2 is no text"),
        ('{"a": tru}', "at or after character 6"),
        ('{"a": 1', "its end at character 7, where ','"),
        ('{"a": "\n"}', "at or after character 6"),
        ('{"a": ' + "9" * 5000 + "}", "at or after character 6: .*digits"),
        ('{"a": ' + "[" * 100_000 + "}", "at or after character 6"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(text, says):
    with pytest.raises(Unreadable, match=says):
        members(text)


def test_what_is_read_at_once_has_a_limit(monkeypatch):
    monkeypatch.setattr(bounded, "MAX_VALUE", 50)
    assert members('{"a": "' + "x" * 47 + '"}') == [("a", "x" * 47)]
    with pytest.raises(Unreadable, match="begins at character 6 is longer than 50 characters"):
        members('{"a": "' + "x" * 60 + '"}')
    with pytest.raises(Unreadable, match="begins at character 6 is longer"):
        members('{"a": [' + "[]," * 60 + "[]]}")
