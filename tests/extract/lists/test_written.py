"""A listing becomes a folder that `read_data_set` reads, whole or not at all."""

import pytest

from mambavl.cache.classes import Derived
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.annotations import VideoInfo
from mambavl.extract.class_lists import ClassList
from mambavl.extract.data_set import read_data_set
from mambavl.extract.lists.listing import Listed, Listing, Names
from mambavl.extract.lists.written import write
from mambavl.extract.tables import Tables


def listing(tmp_path):
    verb = Names(
        "single", ClassList({0: "cut", 3: "put-on"}, {0: ("cut", "chop it"), 3: ("put",)}, {0: "x", 3: ""})
    )
    noun, tags = Names(), Names("multi")
    noun.ids.update(cup=0, plate=1)
    tags.ids.update({"a, quoted": 0, "b": 1})
    rows = [
        Listed(
            "x:1",
            "v",
            1 / 3,
            1e-5 + 1,
            "train",
            {"verb": 3, "noun": 0, "tags": (1, 0)},
            "r1",
            "P1",
            'says "x", y',
        ),
        Listed("x:2", "v", 2.0, 3.5, "train", {"tags": ()}, "r2", "P1"),
        Listed("x:3", "w", 0.0, 0.1, "test", {}, "r3"),
    ]
    found = Listing(Tables(tmp_path), {"verb": verb, "noun": noun, "tags": tags}, rows)
    found.derived["action"] = ("verb", "noun")
    return found


def test_what_is_written_is_read_again(tmp_path):
    written = write(listing(tmp_path), tmp_path / "sub" / "out", {"v": 4.0})
    assert written.videos == {}  # of `w` nothing is known
    assert read_data_set(tmp_path / "sub" / "out", ("train", "test")) == written
    assert [(row.narration_id, row.video_id, row.participant_id, row.split) for row in written.segments] == [
        ("r1", "v", "P1", "train"),
        ("r2", "v", "P1", "train"),
        ("r3", "w", "unknown", "test"),
    ]
    first, second, third = written.segments
    assert (first.start, first.stop) == (1 / 3, 1e-5 + 1)  # to the last digit
    assert (third.start, third.stop) == (0.0, 0.1)
    assert first.labels == {"verb": 3, "noun": 0, "tags": (1, 0)}
    assert second.labels == {"tags": ()}  # none of the classes, which is not the same as no label
    assert third.labels == {}
    assert first.narration == 'says "x", y'
    assert written.classes.targets["verb"].classes == {0: "cut", 3: "put-on"}
    assert written.lists["verb"].instances == {0: ("cut", "chop it"), 3: ("put",)}
    assert written.lists["verb"].categories == {0: "x", 3: ""}
    assert written.classes.targets["tags"].classes == {0: "a, quoted", 1: "b"}
    assert written.classes.derived == {"action": Derived(("verb", "noun"))}


def test_the_digests_of_the_source_stand_in_the_folder(tmp_path):
    found = listing(tmp_path)
    found.tables.sha256["theirs.csv"] = "ab" * 32
    write(found, tmp_path / "out", {})
    assert f"#   theirs.csv {'ab' * 32}\n" in (tmp_path / "out" / "targets.toml").read_text()


def test_how_long_videos_last_goes_along_where_it_is_known_of_all(tmp_path):
    """Imports are held against it; the rate and the size of a picture stay open."""
    written = write(listing(tmp_path), tmp_path / "out", {"v": 1 / 3, "w": 4.5, "of no row": 9.0})
    assert written.videos == {"v": VideoInfo(1 / 3), "w": VideoInfo(4.5)}
    assert (written.videos["v"].fps, written.videos["v"].width) == (None, None)


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="is already there; choose another --out"):
        write(listing(tmp_path), tmp_path / "out", {})


def test_a_listing_that_cannot_be_read_again_leaves_nothing(tmp_path):
    found = listing(tmp_path)
    found.rows[0] = Listed("x:1", "v", 5.0, 4.0, "train", {}, "r1")
    with pytest.raises(DataError, match="not after its start"):
        write(found, tmp_path / "lists" / "out", {})
    assert list((tmp_path / "lists").iterdir()) == []
