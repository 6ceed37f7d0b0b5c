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


# --- HD-EPIC: 3 narrations of 2 videos

HD_EPIC_ROWS = [
    {
        "unique_narration_id": "P01-20240101-101010-1",
        "participant_id": "P01",
        "video_id": "P01-20240101-101010",
        "narration": "Open the tin, holding its lid",
        "start_timestamp": 0.5,
        "end_timestamp": 2.0,
        "nouns": ["tin", "lid"],
        "verbs": ["open", "hold"],
        "pairs": [("open", "tin"), ("hold", "lid")],
        "main_actions": [("open", "tin")],
        "verb_classes": [1, 2],
        "noun_classes": [0, 1],
        "pair_classes": [(1, 0), (2, 1)],
        "main_action_classes": [(1, 0)],
        "hands": [],
        "narration_timestamp": 1.0,
    },
    {
        "unique_narration_id": "P01-20240101-101010-2",
        "participant_id": "P01",
        "video_id": "P01-20240101-101010",
        "narration": "Take the lid and the tin",
        "start_timestamp": 2.5,
        "end_timestamp": 9.0,
        "nouns": ["lid", "tin"],
        "verbs": ["take", "take"],
        "pairs": [("take", "lid"), ("take", "tin")],
        "main_actions": [("take", "lid"), ("take", "tin")],
        "verb_classes": [0, 0],
        "noun_classes": [1, 0],
        "pair_classes": [(0, 1), (0, 0)],
        "main_action_classes": [(0, 1), (0, 0)],
        "hands": ["left hand"],
        "narration_timestamp": 3.0,
    },
    {
        "unique_narration_id": "P02-20240202-090909-1",
        "participant_id": "P02",
        "video_id": "P02-20240202-090909",
        "narration": "Pick up the tin",
        "start_timestamp": 1.0,
        "end_timestamp": 7.25,
        "nouns": ["tin can"],
        "verbs": ["pick up"],
        "pairs": [("pick up", "tin can")],
        "main_actions": [("pick up", "tin can")],
        "verb_classes": [0],
        "noun_classes": [0],
        "pair_classes": [(0, 0)],
        "main_action_classes": [(0, 0)],
        "hands": [],
        "narration_timestamp": 1.5,
    },
]


def make_hd_epic(folder: Path, rows: list[dict] | None = None) -> Path:
    import pandas

    folder.mkdir(parents=True, exist_ok=True)
    frame = pandas.DataFrame(HD_EPIC_ROWS if rows is None else rows)
    frame.to_pickle(folder / "HD_EPIC_Narrations.pkl")
    (folder / "HD_EPIC_verb_classes.csv").write_text(
        "id,key,instances,category\n0,take,\"['take', 'pick-up']\",get\n1,open,\"['open']\",access\n"
        "2,hold,\"['hold']\",keep\n"
    )
    (folder / "HD_EPIC_noun_classes.csv").write_text(
        "id,key,instances,category\n0,tin,\"['tin', 'tin can']\",box\n1,lid,\"['lid']\",cover\n"
    )
    return folder


# --- Ego4D's long-term anticipation: 3 actions of 2 clips


def ego4d_row(clip: str, place: int, start: float, end: float, verb: int, noun: int) -> dict:
    return {
        "clip_uid": clip,
        "video_uid": f"whole-{clip}",
        "action_idx": place,
        "clip_parent_start_sec": 100.0,
        "clip_parent_end_sec": 110.0,
        "action_clip_start_sec": start,
        "action_clip_end_sec": end,
        "action_clip_start_frame": int(start * 30),
        "action_clip_end_frame": int(end * 30),
        "verb": ["take", "put_(place)"][verb],
        "verb_label": verb,
        "noun": ["cup", "pan", "lid"][noun],
        "noun_label": noun,
    }


def ego4d_rows() -> dict[str, list[dict]]:
    return {
        "fho_lta_train.json": [ego4d_row("c1", 0, 0.5, 2.0, 0, 2), ego4d_row("c1", 1, 2.0, 9.0, 1, 0)],
        "fho_lta_val.json": [ego4d_row("c2", 0, 1.0, 8.5, 0, 1)],
    }


def make_ego4d(folder: Path, rows: dict[str, list[dict]] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, clips in (rows or ego4d_rows()).items():
        (folder / name).write_text(json.dumps({"version": "v2", "clips": clips}))
    names = {"verbs": ["take", "put_(place)"], "nouns": ["cup", "pan", "lid"]}
    (folder / "fho_lta_taxonomy.json").write_text(json.dumps(names))
    return folder


# --- Assembly101: 3 actions of 2 views

ASSEMBLY_ACTIONS = """id,action_id,verb_id,noun_id,action_cls,verb_cls,noun_cls
0,0,1,0,screw wheel,screw,wheel
1,1,0,1,pick up cabin,pick up,cabin
2,2,0,0,pick up wheel,pick up,wheel
"""
ASSEMBLY_HEADER = (
    "id,video,start_frame,end_frame,action_id,verb_id,noun_id,action_cls,verb_cls,noun_cls,toy_id,toy_name,"
    "is_shared,is_RGB\n"
)
ASSEMBLY_TRAIN = """0,s-1_01/C1_rgb.mp4,15,60,1,0,1,pick up cabin,pick up,cabin,a1,suv,0,1
1,s-1_01/C1_rgb.mp4,60,270,0,1,0,screw wheel,screw,wheel,a1,suv,0,1
"""
ASSEMBLY_VALIDATION = "0,s-2_02/C1_rgb.mp4,30,240,2,0,0,pick up wheel,pick up,wheel,a2,truck,1,1\n"


def make_assembly101(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "actions.csv").write_text(ASSEMBLY_ACTIONS)
    (folder / "train.csv").write_text(ASSEMBLY_HEADER + ASSEMBLY_TRAIN)
    (folder / "validation.csv").write_text(ASSEMBLY_HEADER + ASSEMBLY_VALIDATION)
    return folder
