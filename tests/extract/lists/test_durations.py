"""What the length of videos says of a list's times."""

import pytest

from helpers.clips import write_video
from mambavl.configs.errors import DataError
from mambavl.extract.lists.durations import check_extent, check_whole, probed, read_durations
from mambavl.extract.lists.listing import Listed, Listing, Names
from mambavl.extract.tables import Tables


def listing(tmp_path, *ends, scale=1.0):
    rows = [
        Listed(f"x:{n}", video, 0.0, stop * scale, "train", {}, f"{video}_{n}")
        for n, (video, stop) in enumerate(ends)
    ]
    return Listing(Tables(tmp_path), {"tool": Names()}, rows)


ENDS = (("a", 4.0), ("a", 9.5), ("b", 5.0))
LONG = {"a": 10.0, "b": 8.0}


def test_rows_that_fit_are_taken(tmp_path):
    found = listing(tmp_path, *ENDS)
    check_extent(found, LONG, sparse=False)
    assert found.notes == []


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (1000.0, r"divided by 1000: are they milliseconds"),
        (
            30.0,
            r"3 of 3 rows end after their video; all would fit if times were divided by 30: are they frames",
        ),
        (2.0, r"divided by 2: are they frames, or at 2 times the rate"),
        (0.5, r"x:1: no row ends in the second half of its video; the last is a_1, at 4\.75 of 10\.00 s"),
        (0.001, "no row ends in the second half"),
    ],
)
def test_a_wrong_unit_or_rate_is_seen(tmp_path, scale, said):
    with pytest.raises(DataError, match=said):
        check_extent(listing(tmp_path, *ENDS, scale=scale), LONG, sparse=False)


def test_videos_may_be_sparse_where_it_is_said(tmp_path):
    check_extent(listing(tmp_path, *ENDS, scale=0.5), LONG, sparse=True)


def test_a_single_late_row_can_be_left_out(tmp_path):
    with pytest.raises(
        DataError, match=r"(?s)x:2: ends at 8\.51 s, and video b lasts 8\.00 s.*--without ROW"
    ):
        check_extent(listing(tmp_path, ("a", 9.0), ("a", 9.5), ("b", 8.51)), LONG, sparse=False)
    check_extent(listing(tmp_path, ("a", 9.0), ("b", 8.49)), LONG, sparse=False)  # copies differ by less


def test_what_was_not_checked_is_said(tmp_path):
    found = listing(tmp_path, *ENDS)
    check_extent(found, {}, sparse=False)
    assert "the length of no video is known" in found.notes[0]
    found = listing(tmp_path, *ENDS)
    check_extent(found, {"a": 10.0}, sparse=False)
    assert found.notes == ["the length of 1 video is not known (b)"]


def test_labels_of_whole_videos_end_where_these_do(tmp_path):
    check_whole(listing(tmp_path, ("a", 9.5), ("b", 8.9)), LONG)
    with pytest.raises(
        DataError, match=r"x:0: its labels last 5\.00 s, and video a 10\.00 s; is --fps the rate"
    ):
        check_whole(listing(tmp_path, ("a", 5.0), ("b", 8.0)), LONG)
    long = {"a": 1000.0}
    check_whole(listing(tmp_path, ("a", 981.0)), long)  # 2 %
    with pytest.raises(DataError, match="is --fps the rate"):
        check_whole(listing(tmp_path, ("a", 979.0)), long)


def test_durations_are_read_from_a_list(tmp_path):
    (tmp_path / "d.csv").write_text("video_id,duration,fps\na,10.5,30\nb,00:00:08.00,30\n")
    assert read_durations(tmp_path / "d.csv") == {"a": 10.5, "b": 8.0}
    (tmp_path / "d.csv").write_text("video_id,duration\na,10.5\na,long\n")
    with pytest.raises(
        DataError, match=r"(?s)d\.csv:3: duration 'long' is not a time.*d\.csv:3: video a occurs twice"
    ):
        read_durations(tmp_path / "d.csv")


def test_durations_are_read_from_the_files_that_are_there(tmp_path):
    write_video(tmp_path / "a.mp4", frames=20, fps=10)
    (tmp_path / "c.mp4").write_bytes(b"no video")
    rows = listing(tmp_path, ("a", 1.0), ("b", 1.0), ("c", 1.0)).rows
    assert probed(rows, tmp_path) == {"a": pytest.approx(2.0)}
