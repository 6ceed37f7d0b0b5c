"""Names of strangers: what may be a file below a folder on every system, and what may not."""

import pytest

from mambavl.configs.errors import DataError
from mambavl.hub.names import check_names, place_of

GOOD = [
    "spec.json",
    "frame/c.0.0.0.0",
    "verb_question/last_hidden/c.1.0",
    "rows/train.parquet",
    ".gitattributes",
    "com.txt",
    "console",
    "null",
    "été/ß",
    "x" * 255,
]


def test_names_of_stores_and_heads_pass():
    check_names(GOOD, "here")


@pytest.mark.parametrize(
    "name",
    [
        "", "/", "/etc/passwd", "//server/share", "..", ".", "../x", "x/..", "x/../y", "x/./y", "x//y", "x/",
        "..\\x", "x\\y", "C:", "C:x", "C:\\x", "x:stream", "a<b", "a>b", 'a"b', "a|b", "a?b", "a*b",
        "CON", "con", "Nul.txt", "AUX.tar.gz", "com1", "LPT9.x", "COM¹", "CONIN$", "x/prn/y",
        "x.", "x ", "x./y", "x\0y", "x\ny", "x\x7f", "x\u202ey", "x\ud800", "y" * 256, "é" * 128, None, 3,
    ],
)  # fmt: skip
def test_others_are_refused_by_name(name):
    with pytest.raises(DataError, match="here: names a file"):
        check_names(["spec.json", name], "here")


@pytest.mark.parametrize("name", ["..", "../x", "x/..", "x/../y", "/etc/passwd", "//server/share", "x/./y"])
def test_what_leads_out_is_said_to(name):
    with pytest.raises(DataError, match="which leads out of its folder; nothing of it was written"):
        check_names([name], "here")


@pytest.mark.parametrize(
    "names",
    [
        ("a", "A"),
        ("frame/c", "Frame/c"),
        ("Frame/x", "frame/y"),
        ("stra\u00dfe", "strasse"),
        ("\u00e9", "e\u0301"),
        ("a", "a/b"),
        ("A/b", "a"),
        ("x/y/z", "x/Y"),
    ],
)
def test_two_that_are_one_file_somewhere_are_refused(names):
    for order in (names, names[::-1]):
        with pytest.raises(DataError, match="here: "):
            check_names(order, "here")


def test_a_name_leads_to_its_place_and_never_over_a_link(tmp_path):
    assert place_of(tmp_path, "a/b") == tmp_path / "a" / "b"
    (tmp_path / "out").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "out")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for name in ("a", "a/b", "dangling"):
        with pytest.raises(DataError, match="is a link; delete it"):
            place_of(tmp_path, name)
