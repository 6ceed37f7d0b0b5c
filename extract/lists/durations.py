"""How long videos last, and what that says of a list's times: a wrong unit or a wrong rate shows there."""

from collections.abc import Mapping
from pathlib import Path

from mambavl.configs.errors import DataError, counted, some
from mambavl.extract.lists.listing import Listed, Listing
from mambavl.extract.tables import Tables
from mambavl.extract.timeline import VideoError
from mambavl.extract.video import open_video
from mambavl.extract.video_folder import Roots, VideoFolder

SLACK = 0.5  # seconds by which a row may end after its video; copies in another container differ by less
WHOLE_SLACK = 1.0  # seconds by which labels of a whole video may end early or late, or 2 % of it
RATIOS = (1000, 60, 50, 30, 25, 24, 15, 10, 4, 2.5, 2, 1.2)  # milliseconds, frames, and one rate for another


def read_durations(path: Path) -> dict[str, float]:
    """Seconds by video, of a CSV file with the columns video_id and duration. Raises DataError."""
    tables = Tables(path.parent)
    found: dict[str, float] = {}
    for row in tables.rows(path.name, ("video_id", "duration")):
        seconds = row.time("duration")
        if row["video_id"] in found:
            row.problem(f"video {row['video_id']} occurs twice")
        if seconds is not None:
            found[row["video_id"]] = seconds
    tables.finish()
    return found


def probed(rows: list[Listed], videos: Roots) -> dict[str, float]:
    """Seconds by video, of the files that are there and can be opened; `data check` names the others."""
    folder = VideoFolder(videos)
    found: dict[str, float] = {}
    for video, participant in {row.video: row.participant for row in rows}.items():
        if (path := folder.find(participant, video)) is None:
            continue
        try:
            reader = open_video(path)
        except VideoError:
            continue
        found[video] = reader.timeline.end
        reader.close()
    return found


def check_whole(listing: Listing, durations: Mapping[str, float]) -> None:
    """Rows that cover their whole videos end where these do. Raises DataError with all that do not."""
    ends: dict[str, Listed] = {}
    for row in listing.rows:
        if row.video not in ends or row.stop > ends[row.video].stop:
            ends[row.video] = row
    for video, row in ends.items():
        if video in durations and abs(row.stop - durations[video]) > max(
            WHOLE_SLACK, 0.02 * durations[video]
        ):
            listing.tables.problem(
                f"{row.where}: its labels last {row.stop:.2f} s, and video {video} {durations[video]:.2f} s; "
                "is --fps the rate of the labels?"
            )
    listing.tables.finish()


def check_extent(listing: Listing, durations: Mapping[str, float], sparse: bool) -> None:
    """Rows end within their videos, and some row in the second half of some video.

    The second: all times of a list that is read at a multiple of its rate, or in smaller units, lie in the
    first part of their videos. sparse: rows may lie so. Raises DataError with all problems.
    """
    rows = [row for row in listing.rows if row.video in durations]
    if not rows:
        listing.notes.append(
            "the length of no video is known, so that nothing was held against the times; give --videos or "
            "--durations, or see `mambavl data check`"
        )
        return
    late = [row for row in rows if row.stop > durations[row.video] + SLACK]
    for row in late:
        listing.tables.problem(
            f"{row.where}: ends at {row.stop:.2f} s, and video {row.video} lasts {durations[row.video]:.2f} s"
        )
    if late:
        listing.tables.problems.append(f"{_counts(late, rows)}; {_likely(rows, durations)}")
    listing.tables.finish()
    if not sparse and all(row.stop <= durations[row.video] / 2 + SLACK / 2 for row in rows):
        last = max(rows, key=lambda row: row.stop / durations[row.video])
        raise DataError(
            f"{last.where}: no row ends in the second half of its video; the last is {last.name}, at "
            f"{last.stop:.2f} of {durations[last.video]:.2f} s. Is the unit or the rate right? If it is, and "
            "the rest of every video is without rows, add --sparse"
        )
    unknown = sorted({row.video for row in listing.rows} - durations.keys())
    if unknown:
        listing.notes.append(f"the length of {counted(len(unknown), 'video')} is not known ({some(unknown)})")


def _counts(late: list[Listed], rows: list[Listed]) -> str:
    return f"{len(late):,} of {counted(len(rows), 'row')} end after their video"


def _likely(rows: list[Listed], durations: Mapping[str, float]) -> str:
    """The smallest usual ratio that would put every row into its video."""
    needed = max(row.stop / (durations[row.video] + SLACK) for row in rows)
    for ratio in reversed(RATIOS):
        if needed <= ratio and needed > 1.05:
            what = "milliseconds" if ratio == 1000 else f"frames, or at {ratio:g} times the rate"
            return f"all would fit if times were divided by {ratio:g}: are they {what}?"
    return "leave single ones out with --without ROW, or a video's with --without VIDEO"
