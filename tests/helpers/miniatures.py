"""Each layout of other people's lists: its miniature, what has to be said of it, the length of its videos."""

from collections.abc import Callable, Mapping
from pathlib import Path

from helpers.foreign_lists import (
    FRAME_DURATIONS,
    make_assembly101,
    make_detection,
    make_ego4d,
    make_egtea,
    make_frame_labels,
    make_hd_epic,
    make_table,
    table_request,
)
from helpers.other_lists import (
    EPIC_SPLITS,
    EPIC_VIDEOS,
    STA_CLIPS,
    TAKES,
    make_ego_exo,
    make_epic_pickle,
    make_lerobot,
    make_sta,
)
from mambavl.extract.lists.listing import Request

MADE: dict[str, tuple[Callable[[Path], Path], Request, dict[str, float]]] = {
    "columns": (make_table, table_request(), {"a": 10.0, "b": 9.0}),
    "egtea": (make_egtea, Request(fold=1), {"P01-R01-Soup": 10.0, "P02-R01-Tea": 8.0}),
    "actionformer": (make_detection, Request(), {}),
    "mstcn": (make_frame_labels, Request(fps=15.0, fold=1), FRAME_DURATIONS),
    "ego4d-lta": (make_ego4d, Request(), {}),
    "ego4d-sta": (make_sta, Request(), STA_CLIPS),
    "ego-exo4d": (make_ego_exo, Request(), TAKES),
    "assembly101": (make_assembly101, Request(), {"s-1_01_C1_rgb": 10.0, "s-2_02_C1_rgb": 9.0}),
    "hd-epic": (
        make_hd_epic,
        Request(split="train"),
        {"P01-20240101-101010": 10.0, "P02-20240202-090909": 8.0},
    ),
    "epic-pickle": (make_epic_pickle, Request(splits=EPIC_SPLITS), EPIC_VIDEOS),
    "lerobot": (make_lerobot, Request(), {"file-000": 10.0}),
}
# of those whose lists are text, the file with rows
ROWS_IN = {
    "columns": "",
    "egtea": "raw_annotations/action_labels.csv",
    "actionformer": "",
    "mstcn": "groundTruth/S1_Tea_C1.txt",
    "ego4d-lta": "fho_lta_train.json",
    "ego4d-sta": "fho_sta_train.json",
    "ego-exo4d": "keystep_train.json",
    "assembly101": "train.csv",
}


def request_for(layout: str, source: Path, changes: Mapping[str, object]) -> Request:
    """What is said of a miniature in `source`, changed."""
    said = dict(MADE[layout][1].__dict__)
    if layout == "epic-pickle":
        said["classes"] = {"verb": source / "verbs.txt"}
    return Request(**{**said, **changes})
