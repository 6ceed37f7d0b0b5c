"""Other people's lists in miniature, each layout as its publishers describe it, with made-up content."""

import json
from pathlib import Path

from mambavl.extract.lists.listing import Request

# --- one table of any columns: 3 rows of 2 videos

TABLE = """clip;who;from;to;phase;tool;seen;said
a;P1;0.5;2.25;train;knife;cup|plate;cuts bread
a;P1;3.0;9.5;train;fork;;
b;P2;1.0;8.0;val;knife;plate;"cuts, then waits"
"""
TABLE_COLUMNS = {
    "video": "clip",
    "participant": "who",
    "start": "from",
    "stop": "to",
    "split": "phase",
    "text": "said",
}


def make_table(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.csv").write_text(TABLE)
    return folder / "rows.csv"


def table_request(**changes: object) -> Request:
    """What has to be said of the table."""
    said = {
        "columns": TABLE_COLUMNS,
        "single": {"tool": "tool"},
        "multi": {"thing": "seen"},
        "separator": "|",
        "delimiter": ";",
        "unit": "seconds",
        "splits": {"val": "validation"},
    }
    return Request(**{**said, **changes})


# --- EGTEA: 3 clips of 2 sessions

EGTEA_HEADER = (
    "# Clip ID (Unique, used only internally); Clip Prefix (Unique); Video Session; Starting Time (ms);  "
    "Ending Time (ms); Action Label; Verb Label; Noun Label(s)"
)
EGTEA_ROWS = [
    "1; P01-R01-Soup-500-2000; P01-R01-Soup; 500; 2000; Cut leek; Cut; leek",
    "2; P01-R01-Soup-2500-9000; P01-R01-Soup; 2500; 9000; Put leek,pot; Put; leek,pot",
    "3; P02-R01-Tea-1000-7500; P02-R01-Tea; 1000; 7500; Cut leek; Cut; leek",
]


def make_egtea(folder: Path) -> Path:
    (folder / "raw_annotations").mkdir(parents=True)
    (folder / "raw_annotations" / "action_labels.csv").write_text(
        "\n".join([EGTEA_HEADER, *EGTEA_ROWS]) + "\n"
    )
    (folder / "action_idx.txt").write_text("Put leek,pot 1\nCut leek 2\n")
    (folder / "verb_idx.txt").write_text("Put 1\nCut 2\n")
    (folder / "noun_idx.txt").write_text("pot 1\nleek 2\n")
    (folder / "train_split1.txt").write_text(
        "P01-R01-Soup-500-2000-F000012-F000048 2 2 2\nP01-R01-Soup-2500-9000-F000060-F000216 1 1 2 1\n"
    )
    (folder / "test_split1.txt").write_text("P02-R01-Tea-1000-7500-F000024-F000180 2 2 2\n")
    return folder


# --- ActionFormer, OpenTAD: 3 segments of 2 videos


def detection_entries() -> dict[str, dict]:
    return {
        "v_a": {
            "subset": "training",
            "duration": 10.0,
            "fps": 30.0,
            "annotations": [
                {"segment": [0.5, 2.0], "segment(frames)": [15.0, 60.0], "label": "pour", "label_id": 1},
                {"segment": [2.0, 9.0], "segment(frames)": [60.0, 270.0], "label": "stir", "label_id": 0},
            ],
        },
        "v_b": {
            "subset": "validation",
            "duration": 8.0,
            "fps": 30.0,
            "annotations": [
                {"segment": [1.0, 7.5], "segment(frames)": [30.0, 225.0], "label": "pour", "label_id": 1}
            ],
        },
        "v_c": {"subset": "testing", "duration": 5.0, "fps": 30.0, "annotations": []},
    }


def make_detection(folder: Path, entries: dict[str, dict] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    database = detection_entries() if entries is None else entries
    (folder / "rows.json").write_text(json.dumps({"version": "any", "database": database}))
    return folder / "rows.json"


# --- MS-TCN: 2 videos of 10 s and 8 s, labels at 15 a second

FRAME_LABELS = {
    "S1_Tea_C1": ["background"] * 30 + ["pour"] * 75 + ["stir"] * 45,
    "S2_Tea_C1": ["pour"] * 60 + ["background"] * 60,
}
FRAME_DURATIONS = {"S1_Tea_C1": 10.0, "S2_Tea_C1": 8.0}


def make_frame_labels(folder: Path) -> Path:
    (folder / "groundTruth").mkdir(parents=True)
    (folder / "splits").mkdir()
    (folder / "mapping.txt").write_text("0 pour\n1 stir\n2 background\n")
    for video, labels in FRAME_LABELS.items():
        (folder / "groundTruth" / f"{video}.txt").write_text("\n".join(labels) + "\n")
    (folder / "splits" / "train.split1.bundle").write_text("S1_Tea_C1.txt\n")
    (folder / "splits" / "test.split1.bundle").write_text("S2_Tea_C1.txt\n")
    return folder
