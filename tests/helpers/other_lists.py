"""More of other people's lists in miniature: Ego-Exo4D, Ego4D's short-term anticipation, EPIC, LeRobot."""

import json
from copy import deepcopy
from pathlib import Path

# --- Ego-Exo4D: 3 keysteps of 2 takes

VOCABULARY = {"818": "Check the date", "819": "Locate the tube", "843": "Unbox package"}


def keystep(start: float, end: float, step: int) -> dict:
    return {
        "start_time": start,
        "end_time": end,
        "step_id": step - 800,  # within the scenario
        "step_unique_id": step,
        "step_name": VOCABULARY[str(step)],
        "step_description": f"does {step}",
        "is_essential": True,
    }


KEYSTEPS = {
    "keystep_train.json": {
        "uid-1": {
            "take_uid": "uid-1",
            "take_name": "lab_covid_07_6",
            "scenario": "Covid-19 Rapid Antigen Test",
            "segments": [keystep(0.5, 3.25, 843), keystep(3.25, 9.0, 818)],
        }
    },
    "keystep_val.json": {
        "uid-2": {
            "take_uid": "uid-2",
            "take_name": "lab_covid_08_2",
            "scenario": "Covid-19 Rapid Antigen Test",
            "segments": [keystep(1.0, 7.5, 818)],
        }
    },
}
TAKES = {"lab_covid_07_6": 10.0, "lab_covid_08_2": 8.0}


def make_ego_exo(folder: Path, files: dict[str, dict] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, takes in (files or KEYSTEPS).items():
        whole = {"annotations": takes, "taxonomy": {}, "vocabulary": VOCABULARY}
        (folder / name).write_text(json.dumps(whole))
    return folder


# --- Ego4D's short-term anticipation: 3 frames of 2 clips, and one without labels

NOUNS = ["cup", "pan", "lid"]
VERBS = ["take", "put_(place)"]


def sta_object(noun: int, verb: int, seconds: float) -> dict:
    box = [10.0, 20.0, 110.5, 90.0]
    return {"box": box, "noun_category_id": noun, "verb_category_id": verb, "time_to_contact": seconds}


def sta_row(clip: str, frame: int, objects: list[dict] | None) -> dict:
    row = {
        "uid": f"{clip}_{frame}",
        "video_id": f"whole-{clip}",
        "frame": 3000 + frame,
        "clip_uid": clip,
        "clip_frame": frame,
    }
    return row if objects is None else {**row, "objects": objects}


def sta_rows() -> dict[str, list[dict]]:
    return {
        "fho_sta_train.json": [
            sta_row("c1", 60, [sta_object(0, 0, 0.5)]),
            sta_row("c1", 240, [sta_object(2, 1, 1.5), sta_object(1, 0, 0.75)]),
        ],
        "fho_sta_val.json": [sta_row("c2", 180, [sta_object(1, 0, 1.0), sta_object(2, 0, 1.0)])],
        "fho_sta_test_unannotated.json": [sta_row("c3", 90, None)],
    }


STA_CLIPS = {"c1": 10.0, "c2": 8.0, "c3": 5.0}


def make_sta(folder: Path, rows: dict[str, list[dict]] | None = None, rate: float = 30.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, annotations in (rows or sta_rows()).items():
        videos = {row["video_id"]: {"fps": rate, "frame_width": 640} for row in annotations}
        whole = {
            "info": {"video_metadata": videos},
            "noun_categories": [{"id": n, "name": name} for n, name in enumerate(NOUNS)],
            "verb_categories": [{"id": n, "name": name} for n, name in enumerate(VERBS)],
            "annotations": annotations,
        }
        (folder / name).write_text(json.dumps(whole))
    return folder


# --- EPIC's rows as pickled frames: 2 of a file, 1 of another


def epic_row(uid: int, video: str, start: str, stop: str, verb: int, words: str) -> dict:
    return {
        "uid": uid,
        "participant_id": video[:3],
        "video_id": video,
        "narration": words,
        "start_timestamp": start,
        "stop_timestamp": stop,
        "start_frame": 30,
        "stop_frame": 120,
        "verb": words.split()[0],
        "verb_class": verb,
    }


EPIC_FRAMES = {
    "D1_train": [
        epic_row(4, "P08_01", "00:00:00.50", "00:00:02.00", 0, "take cup"),
        epic_row(5, "P08_01", "00:00:02.00", "00:00:09.00", 1, "place lid"),
    ],
    "D2_test": [epic_row(90, "P01_11", "00:00:01.00", "00:00:07.50", 0, "get pan")],
    "D3_train": [epic_row(91, "P22_01", "not read", "", 9, "no")],
}
EPIC_VIDEOS = {"P08_01": 10.0, "P01_11": 8.0}
EPIC_SPLITS = {"D1_train": "train", "D2_test": "validation"}


def make_epic_pickle(folder: Path, frames: dict[str, list[dict]] | None = None) -> Path:
    import pandas

    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (frames or EPIC_FRAMES).items():
        pandas.DataFrame(rows).to_pickle(folder / f"{name}.pkl")
    (folder / "verbs.txt").write_text("take\nput\nopen\n")
    return folder


# --- LeRobot v3: 3 episodes of 40, 30 and 30 frames at 10 a second in one file; the second has two tasks

CAMERA = "observation.images.top"
TASKS = {0: "pick the cube", 1: "open the drawer"}
LENGTHS = (40, 30, 30)


def lerobot_tables() -> dict[str, dict[str, list]]:
    """File -> column -> values."""
    begins = [sum(LENGTHS[:n]) / 10 for n in range(3)]
    task_of = {0: [0] * 40, 1: [0] * 20 + [1] * 10, 2: [1] * 30}
    place = f"videos/{CAMERA}/"
    return {
        "meta/tasks.parquet": {"task_index": list(TASKS), "task": list(TASKS.values())},
        "meta/episodes/chunk-000/file-000.parquet": {
            "episode_index": [0, 1, 2],
            "length": list(LENGTHS),
            "tasks": [["pick the cube"], list(TASKS.values()), ["open the drawer"]],
            f"{place}chunk_index": [0, 0, 0],
            f"{place}file_index": [0, 0, 0],
            f"{place}from_timestamp": begins,
            f"{place}to_timestamp": [
                begin + length / 10 for begin, length in zip(begins, LENGTHS, strict=True)
            ],
        },
        "data/chunk-000/file-000.parquet": {
            "episode_index": [n for n, length in enumerate(LENGTHS) for _ in range(length)],
            "frame_index": [frame for length in LENGTHS for frame in range(length)],
            "timestamp": [frame / 10 for length in LENGTHS for frame in range(length)],
            "task_index": [task for n in range(3) for task in task_of[n]],
        },
    }


INFO = {
    "codebase_version": "v3.0",
    "fps": 10,
    "splits": {"train": "0:2", "val": "2:3"},
    "features": {CAMERA: {"dtype": "video"}, "action": {"dtype": "float32"}},
}


def make_lerobot(folder: Path, tables: dict | None = None, info: dict | None = None) -> Path:
    import pyarrow
    import pyarrow.parquet

    for name, columns in (tables or lerobot_tables()).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / name)
    (folder / "meta" / "info.json").write_text(json.dumps(info or deepcopy(INFO)))
    return folder
