"""The layouts that are read, and the whole way from other people's lists to a folder of own ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mambavl.configs.errors import UsageError, did_you_mean
from mambavl.extract.annotations import Annotations
from mambavl.extract.lists.assembly101 import read_assembly101
from mambavl.extract.lists.columns import read_columns
from mambavl.extract.lists.detection import read_detection
from mambavl.extract.lists.durations import check_extent, check_whole, probed
from mambavl.extract.lists.ego4d import read_ego4d
from mambavl.extract.lists.ego4d_sta import read_sta
from mambavl.extract.lists.ego_exo import read_ego_exo
from mambavl.extract.lists.egtea import read_egtea
from mambavl.extract.lists.epic_pickle import read_epic_pickle
from mambavl.extract.lists.frame_labels import read_frame_labels
from mambavl.extract.lists.hd_epic import read_hd_epic
from mambavl.extract.lists.lerobot import read_lerobot
from mambavl.extract.lists.listing import Listing, Request, checked
from mambavl.extract.lists.written import write
from mambavl.extract.video_folder import Roots

# option -> the field of a request that it fills; those that any layout takes are left out
OPTIONS = {
    "--column": "columns",
    "--target": "single",
    "--multi": "multi",
    "--separator": "separator",
    "--delimiter": "delimiter",
    "--unit": "unit",
    "--fps": "fps",
    "--classes": "classes",
    "--names": "names",
    "--split": "split",
    "--split-as": "splits",
    "--fold": "fold",
}
COLUMNS = "columns"  # the layout of a file whose columns are named in the call


@dataclass(frozen=True)
class Layout:
    """How some lists are written."""

    read: Callable[[Path, Request], Listing]
    takes: tuple[str, ...]  # options, of OPTIONS
    source: str  # what SOURCE is


LAYOUTS = {
    COLUMNS: Layout(
        read_columns,
        tuple(name for name in OPTIONS if name != "--fold"),
        "a CSV or TSV file, or a folder of them",
    ),
    "egtea": Layout(read_egtea, ("--fold", "--split"), "the folder action_annotation of EGTEA Gaze+"),
    "actionformer": Layout(read_detection, ("--split-as",), "the JSON of ActionFormer, OpenTAD, ActivityNet"),
    "hd-epic": Layout(read_hd_epic, ("--split", "--classes"), "the folder narrations-and-action-segments"),
    "ego4d-sta": Layout(read_sta, ("--column",), "the folder of Ego4D's fho_sta_*.json"),
    "ego-exo4d": Layout(read_ego_exo, (), "the folder of Ego-Exo4D's keystep_*.json"),
    "epic-pickle": Layout(
        read_epic_pickle, ("--split-as", "--classes"), "a folder of EPIC's rows as pickled frames"
    ),
    "lerobot": Layout(
        read_lerobot, ("--column", "--split", "--split-as"), "a data set of LeRobot v3, the folder with meta/"
    ),
    "ego4d-lta": Layout(read_ego4d, ("--column",), "the folder of Ego4D's fho_lta_*.json"),
    "assembly101": Layout(read_assembly101, (), "the folder fine-grained-annotations of Assembly101"),
    "mstcn": Layout(read_frame_labels, ("--fps", "--fold"), "a folder as MS-TCN's"),
}


def make(
    source: Path,
    layout: str,
    request: Request,
    out: Path,
    *,
    durations: Mapping[str, float] | None = None,
    videos: Roots | None = None,
    sparse: bool = False,
) -> tuple[Annotations, list[str]]:
    """Read `source`, hold its times against what is known of the videos, and write `out`.

    durations: seconds by video; what `videos` show goes before them, and both before what the source says.
    Returns what `out` holds, and notes on what was not checked. Raises UsageError for what the call leaves
    open and DataError with all problems of the source; nothing is then written.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"--layout {layout}: there is no such layout{did_you_mean(layout, list(LAYOUTS))}")
    chosen = LAYOUTS[layout]
    for option, field in OPTIONS.items():
        if option not in chosen.takes and getattr(request, field):
            raise UsageError(
                f"--layout {layout} takes no {option}; it takes {', '.join(chosen.takes) or 'none'}"
            )
    listing = checked(chosen.read(Path(source), request), request)
    known = {**listing.durations, **(durations or {})}
    if videos is not None:
        known |= probed(listing.rows, videos)
    if listing.is_whole:
        check_whole(listing, known)
    check_extent(listing, known, sparse)
    return write(listing, out, known), listing.notes
