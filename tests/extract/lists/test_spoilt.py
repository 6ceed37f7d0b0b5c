"""More ways in which lists go wrong, beside those of test_layouts: bytes, and every layout's own.

Each is refused with a message that names it, or what is read is what was meant; the table says which.
"""

import json
from copy import deepcopy

import pytest

from helpers.foreign_lists import HD_EPIC_ROWS, TABLE_COLUMNS, make_hd_epic
from helpers.miniatures import MADE, ROWS_IN, request_for
from helpers.other_lists import (
    CAMERA,
    EPIC_FRAMES,
    INFO,
    KEYSTEPS,
    lerobot_tables,
    make_ego_exo,
    make_epic_pickle,
    make_lerobot,
    make_sta,
    sta_rows,
)
from mambavl.configs.errors import MambaVLError
from mambavl.extract.lists.layouts import LAYOUTS, make


def read(tmp_path, layout, fault, changes=None):
    """The rows that come of a miniature with a fault, without their places in the files."""
    build, _, durations = MADE[layout]
    source = build(tmp_path / "theirs")
    if fault:
        fault(source)
    changes = dict(changes or {})
    durations = changes.pop("durations", durations)
    request = request_for(layout, source, changes)
    written, _ = make(source, layout, request, tmp_path / "ours", durations=durations)
    return written.segments, written.classes


# --- bytes


def in_bytes(layout, change):
    def fault(source):
        path = source / ROWS_IN[layout] if ROWS_IN[layout] else source
        path.write_bytes(change(path.read_bytes()))

    return fault


READ_RIGHT = {
    "a byte order mark": lambda raw: b"\xef\xbb\xbf" + raw,
    "carriage returns": lambda raw: raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"),
    "no newline at the end": lambda raw: raw.rstrip(b"\n"),
}
NOT_TEXT = {
    "UTF-16": (lambda raw: raw.decode().encode("utf-16"), r"byte \d+ is not UTF-8; save the file as UTF-8"),
    "Latin-1": (lambda raw: raw[:40] + "é".encode("latin-1") + raw[40:], r"byte 40 is not UTF-8"),
    "a NUL": (lambda raw: raw[:40] + b"\0" + raw[40:], "holds a NUL character"),
    "nothing": (lambda raw: b"", "is empty|is not JSON|holds no label"),
    "a cut": (
        lambda raw: raw[:-13],
        "fewer fields|is not JSON|not valid CSV|is not in the class list|has no column|names have the ids",
    ),
}


@pytest.mark.parametrize("what", READ_RIGHT)
@pytest.mark.parametrize("layout", ROWS_IN)
def test_bytes_that_mean_the_same_are_read_right(tmp_path, layout, what):
    expected = read(tmp_path / "sound", layout, None)
    assert read(tmp_path / "other", layout, in_bytes(layout, READ_RIGHT[what])) == expected


@pytest.mark.parametrize("what", NOT_TEXT)
@pytest.mark.parametrize("layout", ROWS_IN)
def test_bytes_that_are_no_such_list_are_refused(tmp_path, layout, what):
    change, said = NOT_TEXT[what]
    with pytest.raises(MambaVLError, match=said):
        read(tmp_path, layout, in_bytes(layout, change))
    assert not (tmp_path / "ours").exists()


# --- each layout's own


def keysteps(change):
    def fault(folder):
        files = deepcopy(KEYSTEPS)
        change(files["keystep_train.json"]["uid-1"])
        make_ego_exo(folder, files)

    return fault


def first_step(**values):
    return keysteps(lambda take: take["segments"][0].update(values))


def scaled_steps(factor):
    def change(take):
        for segment in take["segments"]:
            segment.update({key: segment[key] * factor for key in ("start_time", "end_time")})

    return keysteps(change)


def edit(name, old, new):
    def fault(folder):
        path = folder / name if name else folder
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return fault


def vocabulary(change):
    def fault(folder):
        for name in KEYSTEPS:
            whole = json.loads((folder / name).read_text())
            change(name, whole["vocabulary"])
            (folder / name).write_text(json.dumps(whole))

    return fault


def shifted(name, words):
    """Every id one too high, in all files."""
    moved = {str(int(number) + 1): word for number, word in words.items()}
    words.clear()
    words.update(moved)


def in_sta(change, rate=30.0):
    def fault(folder):
        rows = sta_rows()
        change(rows)
        make_sta(folder, rows, rate)

    return fault


def first_frame(**values):
    return in_sta(lambda rows: rows["fho_sta_train.json"][0].update(values))


def first_object(**values):
    return in_sta(lambda rows: rows["fho_sta_train.json"][0]["objects"][0].update(values))


def transposed_boxes(rows):
    """Left, right, top, bottom in place of left, top, right, bottom."""
    for one in rows["fho_sta_train.json"] + rows["fho_sta_val.json"]:
        for thing in one["objects"]:
            left, top, right, bottom = thing["box"]
            thing["box"] = [left, right, top, bottom]


def times_1000(rows):
    for one in rows["fho_sta_train.json"]:
        for thing in one["objects"]:
            thing["time_to_contact"] *= 1000


def in_epic(**values):
    def fault(folder):
        frames = deepcopy(EPIC_FRAMES)
        frames["D1_train"][0].update(values)
        make_epic_pickle(folder, frames)

    return fault


def epic_without(column):
    def fault(folder):
        frames = deepcopy(EPIC_FRAMES)
        for row in frames["D1_train"]:
            del row[column]
        make_epic_pickle(folder, frames)

    return fault


def epic_twice(folder):
    frames = deepcopy(EPIC_FRAMES)
    frames["D2_test"].append(frames["D1_train"][1])
    make_epic_pickle(folder, frames)


EPISODES, FRAMES = "meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-000.parquet"


def in_robot(change):
    def fault(folder):
        tables, info = lerobot_tables(), deepcopy(INFO)
        change(tables, info)
        make_lerobot(folder, tables, info)

    return fault


def robot_cell(table, column, place, value):
    return in_robot(lambda tables, info: tables[table][column].__setitem__(place, value))


def robot_info(**values):
    return in_robot(lambda tables, info: info.update(values))


def robot_scaled(column, factor):
    def change(tables, info):
        tables[EPISODES][column] = [value * factor for value in tables[EPISODES][column]]

    return in_robot(change)


def robot_times_of_file(tables, info):
    """Timestamps of the shared file, where those of the episode belong."""
    tables[FRAMES]["timestamp"] = [n / 10 for n in range(100)]


def robot_frame_lost(tables, info):
    for column in tables[FRAMES].values():
        del column[50]


def robot_columns_swapped(tables, info):
    frames = tables[FRAMES]
    frames["task_index"], frames["frame_index"] = frames["frame_index"], frames["task_index"]


def robot_ends_swapped(tables, info):
    episodes = tables[EPISODES]
    begin, end = (f"videos/{CAMERA}/{what}_timestamp" for what in ("from", "to"))
    episodes[begin], episodes[end] = episodes[end], episodes[begin]


def robot_row_twice(tables, info):
    for column in tables[EPISODES].values():
        column.append(column[0])


def in_hd(place, **cells):
    def fault(folder):
        rows = deepcopy(HD_EPIC_ROWS)
        rows[place].update(cells)
        make_hd_epic(folder, rows)

    return fault


def hd_row_twice(folder):
    make_hd_epic(folder, [*HD_EPIC_ROWS, HD_EPIC_ROWS[0]])


def hd_row_renamed_twice(folder):
    again = {**HD_EPIC_ROWS[0], "unique_narration_id": "P01-20240101-101010-9"}
    make_hd_epic(folder, [*HD_EPIC_ROWS, again])


def in_clip(change, file="fho_lta_train.json"):
    def fault(folder):
        whole = json.loads((folder / file).read_text())
        change(whole["clips"])
        (folder / file).write_text(json.dumps(whole))

    return fault


def in_database(change):
    def fault(path):
        whole = json.loads(path.read_text())
        change(whole["database"])
        path.write_text(json.dumps(whole))

    return fault


def first_segment(**values):
    return in_database(lambda videos: videos["v_a"]["annotations"][0].update(values))


LABELS = "raw_annotations/action_labels.csv"
S1, S2 = "groundTruth/S1_Tea_C1.txt", "groundTruth/S2_Tea_C1.txt"

REFUSED = [
    # layout, fault, what is said otherwise in the call, what the message says
    ("ego-exo4d", first_step(step_unique_id=842), {}, r"step_unique_id: 842 is not in the class list"),
    ("ego-exo4d", first_step(step_unique_id=844), {}, "844 is not in .*; is the list counted from 1"),
    ("ego-exo4d", first_step(step_unique_id=818), {}, "'Unbox package' is 818 here, and 'Check the date'"),
    ("ego-exo4d", first_step(step_unique_id=843.0), {}, r"is 843\.0, and not a whole number"),
    ("ego-exo4d", first_step(step_name="Unboxpackage"), {}, "'Unboxpackage' is 843 here"),
    ("ego-exo4d", first_step(step_name=""), {}, "'' is 843 here"),
    ("ego-exo4d", first_step(start_time=4.0), {}, r"ends at 3\.25 s, not after its start at 4\.00"),
    ("ego-exo4d", first_step(start_time=-1.0), {}, r"starts at -1\.00 s, before its video"),
    ("ego-exo4d", first_step(start_time=None), {}, "start_time: is None, and not a number"),
    ("ego-exo4d", first_step(start_time=float("nan")), {}, "start_time: is nan, and not a number"),
    ("ego-exo4d", first_step(end_time="3.25"), {}, r"end_time: is '3\.25', and not a number"),
    ("ego-exo4d", first_step(end_time=12.0), {}, r"ends at 12\.00 s, and video lab_covid_07_6 lasts 10\.00"),
    ("ego-exo4d", first_step(step_description="nan"), {}, "the text 'nan' says nothing"),
    ("ego-exo4d", scaled_steps(1000), {}, "divided by 1000: are they milliseconds"),
    ("ego-exo4d", scaled_steps(30), {}, "divided by 30: are they frames"),
    ("ego-exo4d", keysteps(lambda take: take.update(take_uid="uid-9")), {}, "its take_uid is uid-9"),
    ("ego-exo4d", keysteps(lambda take: take.update(take_name="a/b")), {}, "video 'a/b' is not an id"),
    ("ego-exo4d", keysteps(lambda take: take.pop("segments")), {}, "has no 'segments'; there are take_uid"),
    (
        "ego-exo4d",
        keysteps(lambda take: take["segments"].append(take["segments"][0])),
        {},
        "is the same row as",
    ),
    ("ego-exo4d", vocabulary(shifted), {}, "818 is not in the class list|here, and"),
    (
        "ego-exo4d",
        vocabulary(lambda name, words: words.update({"818": f"{words['818']} {name}"})),
        {},
        r"818: is 'Check the date keystep_val\.json', and 'Check the date keystep_train\.json' in the other",
    ),
    ("ego-exo4d", vocabulary(lambda name, words: words.update({"x": "y"})), {}, "'x' is not the id"),
    ("ego-exo4d", vocabulary(lambda name, words: words.clear()), {}, "names no keystep"),
    ("ego4d-sta", first_frame(clip_frame=160), {}, "clip c1 begins at frame 3000 .*and at 2900 by"),
    ("ego4d-sta", first_frame(frame=60), {}, "clip c1 begins at frame 3000 .*and at 0 by"),
    ("ego4d-sta", first_frame(clip_frame=-60), {}, "clip_frame: is -60, and not a whole number"),
    ("ego4d-sta", first_frame(clip_frame=60.5), {}, r"clip_frame: is 60\.5, and not a whole number"),
    ("ego4d-sta", first_frame(uid="c1_240"), {}, "row c1_240 occurs twice"),
    ("ego4d-sta", first_frame(objects=[]), {}, "has no object"),
    ("ego4d-sta", first_object(noun_category_id=3), {}, "3 is not in .*counted from 1"),
    ("ego4d-sta", first_object(verb_category_id=-1), {}, "is -1, and not a whole number"),
    ("ego4d-sta", first_object(verb_category_id=None), {}, "is None, and not a whole number"),
    ("ego4d-sta", first_object(time_to_contact=0.0), {}, "time to contact is 0 s, not above 0"),
    ("ego4d-sta", first_object(time_to_contact=-0.5), {}, r"time to contact is -0\.5 s"),
    ("ego4d-sta", first_object(time_to_contact=float("nan")), {}, "time_to_contact: is nan"),
    ("ego4d-sta", in_sta(times_1000), {}, "time to contact is 500 s, not above 0 and at most 60"),
    ("ego4d-sta", first_object(box=[10, 20, 110]), {}, "is not left, top, right, bottom"),
    ("ego4d-sta", first_object(box=[110, 20, 10, 90]), {}, "is not left, top, right, bottom"),
    ("ego4d-sta", in_sta(transposed_boxes), {}, "is not left, top, right, bottom"),
    ("ego4d-sta", in_sta(lambda rows: None, rate=15.0), {}, r"c1 lasts 10\.00 s"),
    ("ego4d-sta", in_sta(lambda rows: None, rate=120.0), {}, "no row ends in the second half"),
    ("ego4d-sta", in_sta(lambda rows: None, rate=0.0), {}, "its video has 0 frames a second"),
    (
        "ego4d-sta",
        edit("fho_sta_val.json", '"name": "pan"', '"name": "pot"'),
        {},
        "1 is 'pot', and 'pan' before",
    ),
    (
        "ego4d-sta",
        edit("fho_sta_train.json", '"id": 1', '"id": 0'),
        {},
        r"0 is 'put_\(place\)', and 'take' before",
    ),
    ("ego4d-sta", edit("fho_sta_train.json", '"fps"', '"rate"'), {}, "has no 'fps'"),
    ("epic-pickle", in_epic(start_timestamp="00:00:03.00"), {}, r"ends at 2\.00 s, not after its start"),
    ("epic-pickle", in_epic(start_timestamp=0.5), {}, r"start_timestamp: is 0\.5, and not a text"),
    ("epic-pickle", in_epic(start_timestamp="500"), {}, "'500' is not a time HH:MM:SS"),
    ("epic-pickle", in_epic(start_timestamp="00:00:61.00"), {}, "is not a time HH:MM:SS"),
    ("epic-pickle", in_epic(start_timestamp=None), {}, "start_timestamp: is None, and not a text"),
    ("epic-pickle", in_epic(stop_timestamp="00:01:09.00"), {}, r"ends at 69\.00 s, and video P08_01 lasts"),
    (
        "epic-pickle",
        in_epic(verb_class=3),
        {},
        r"verb_class: 3 is not in .*\(0 to 2\); is the list counted from 1",
    ),
    ("epic-pickle", in_epic(stop_timestamp="01:00:02.00"), {}, r"ends at 3602\.00 s, and video P08_01"),
    ("epic-pickle", in_epic(verb_class=-1), {}, "is -1, and not a whole number"),
    ("epic-pickle", in_epic(verb_class=float("nan")), {}, "verb_class: is nan, and not a whole number"),
    ("epic-pickle", in_epic(verb_class="take"), {}, "is 'take', and not a whole number"),
    ("epic-pickle", in_epic(video_id="P08/01"), {}, "video 'P08/01' is not an id"),
    ("epic-pickle", in_epic(participant_id="P09"), {}, "video P08_01 belongs to P08, but to P09"),
    ("epic-pickle", in_epic(narration="nan"), {}, "the text 'nan' says nothing"),
    ("epic-pickle", in_epic(uid=5), {}, "row P08_01_5 occurs twice"),
    ("epic-pickle", epic_twice, {}, "row P08_01_5 occurs twice"),
    ("epic-pickle", epic_without("verb_class"), {}, "has no column verb_class; its columns are uid"),
    ("epic-pickle", epic_without("start_timestamp"), {}, "has no column start_timestamp"),
    ("epic-pickle", None, {"splits": {"D1_train": "train", "D3_train": "test"}}, "'not read' is not a time"),
    ("lerobot", robot_info(codebase_version="v2.1"), {}, "codebase_version is v2.1, and v3.0 is read"),
    ("lerobot", robot_info(fps=20), {}, r"has 40 frames, and from 0\.00 to 4\.00 s are 80 at 20"),
    ("lerobot", robot_info(fps=0), {}, "fps is 0"),
    ("lerobot", robot_info(splits={"train": "0:2"}), {}, "episode 2 is in no split"),
    ("lerobot", robot_info(splits={"train": "0:2", "val": "1:3"}), {}, "episode 1 is in two splits"),
    ("lerobot", robot_info(splits={"train": "1:3"}), {}, "episode 0 is in no split"),
    ("lerobot", robot_info(splits={"train": "all"}), {}, "'all' is not a range of episodes"),
    ("lerobot", robot_info(features={}), {}, "none of its features is a video"),
    ("lerobot", robot_cell(FRAMES, "task_index", 0, 2), {}, "task_index: 2 is not in .*counted from 1"),
    ("lerobot", robot_cell(FRAMES, "task_index", 0, None), {}, "task_index: is None"),
    (
        "lerobot",
        robot_cell(FRAMES, "frame_index", 5, 6),
        {},
        "frame_index: is 6, where episode 0 has frame 5",
    ),
    ("lerobot", robot_cell(FRAMES, "timestamp", 5, 50.0), {}, r"50\.000 s is not frame 5 at 10 a second"),
    ("lerobot", robot_cell(FRAMES, "timestamp", 5, float("nan")), {}, "timestamp: is nan"),
    ("lerobot", robot_cell(FRAMES, "episode_index", 0, 9), {}, "has 40 frames, data 39|frames of episode 9"),
    ("lerobot", robot_cell(EPISODES, "length", 0, 37), {}, "episode 0 has 37 frames, and from 0"),
    ("lerobot", robot_cell(EPISODES, "episode_index", 0, 1), {}, "episode 1 occurs twice"),
    ("lerobot", robot_cell("meta/tasks.parquet", "task_index", 0, 1), {}, "is not a task of its own"),
    ("lerobot", robot_cell("meta/tasks.parquet", "task", 1, "pick the cube"), {}, "is not a task of its own"),
    ("lerobot", robot_cell("meta/tasks.parquet", "task", 1, ""), {}, "is not a task of its own"),
    ("lerobot", robot_scaled(f"videos/{CAMERA}/to_timestamp", 1000), {}, "has 40 frames, and from"),
    ("lerobot", robot_scaled(f"videos/{CAMERA}/from_timestamp", 0), {}, "episode 1 has 30 frames, and from"),
    ("lerobot", in_robot(robot_times_of_file), {}, "is not frame 0 at 10 a second"),
    ("lerobot", in_robot(robot_frame_lost), {}, "episode 1 has 30 frames, data 29"),
    ("lerobot", in_robot(robot_columns_swapped), {}, "where episode 0 has frame 1"),
    ("lerobot", in_robot(robot_ends_swapped), {}, "has 40 frames, and from 4"),
    ("lerobot", in_robot(robot_row_twice), {}, "episode 0 occurs twice, first in"),
    ("lerobot", None, {"durations": {"file-000": 5.0}}, r"ends at 10\.00 s, and video file-000 lasts 5\.00"),
    ("hd-epic", hd_row_twice, {}, "row P01-20240101-101010-1 occurs twice"),
    ("hd-epic", hd_row_renamed_twice, {}, "is the same row as"),
    ("hd-epic", in_hd(0, verb_classes=[1, 2.0]), {}, r"verb_classes\[1\]: is 2\.0, and not a whole number"),
    ("hd-epic", in_hd(0, noun_classes=[0, None]), {}, r"noun_classes\[1\]: is None"),
    ("hd-epic", in_hd(0, main_action_classes=[(0, 1, 2)]), {}, "has 3 classes, not a verb and a noun"),
    ("hd-epic", in_hd(0, end_timestamp=30.0), {}, r"ends at 30\.00 s, and video P01-20240101-101010 lasts"),
    ("ego4d-lta", in_clip(lambda clips: clips.append(dict(clips[0]))), {}, "row c1_0 occurs twice"),
    ("ego4d-lta", in_clip(lambda clips: clips[0].update(clip_uid="c 1")), {}, "video 'c 1' is not an id"),
    ("ego4d-lta", in_clip(lambda clips: clips[0].pop("noun")), {}, "has no 'noun'"),
    (
        "ego4d-lta",
        in_clip(lambda clips: clips[0].update(action_clip_start_sec=2.5, action_clip_start_frame=75)),
        {},
        r"ends at 2\.00 s, not after its start at 2\.50",
    ),
    ("ego4d-lta", edit("fho_lta_taxonomy.json", '"verbs"', '"nouns2"'), {}, "has no 'verbs'"),
    ("actionformer", first_segment(label="stri"), {}, "label_id 1 is 'stri'|is 'pour', but 'stri'"),
    ("actionformer", first_segment(label=""), {}, "'' "),
    ("actionformer", first_segment(label_id=True), {}, "label_id: is True, and not a whole number"),
    ("actionformer", first_segment(segment=[0.5, float("inf")]), {}, "is inf, and not a number"),
    (
        "actionformer",
        in_database(lambda videos: videos["v_a"].pop("annotations")),
        {},
        "has no 'annotations'",
    ),
    (
        "actionformer",
        in_database(lambda videos: videos["v_a"].update(duration="10")),
        {},
        "is '10', and not a number",
    ),
    (
        "assembly101",
        edit("train.csv", "s-1_01/C1_rgb.mp4,15", "s-1_01/C1_rgb.mp4,"),
        {},
        "start_frame '' is not a whole",
    ),
    ("assembly101", edit("train.csv", ",15,60,", ",450,1800,"), {}, "divided by|lasts 10.00 s"),
    (
        "assembly101",
        edit("actions.csv", "screw wheel,screw,wheel", "screw wheel,pick up,wheel"),
        {},
        r"actions\.csv:3: 'pick up' is verb_id 0, and 1 before",
    ),
    ("mstcn", edit(S1, "background\n", ""), {}, r"its labels last 8\.00 s"),
    ("mstcn", edit(S2, "pour", "0"), {}, "'0' is not in the class list"),
    ("mstcn", None, {"fold": 2}, r"has no splits/train\.split2\.bundle"),
    ("mstcn", edit("mapping.txt", "0 pour\n1 stir", "0 stir\n0 pour"), {}, "is not an id of its own"),
    (
        "mstcn",
        edit("mapping.txt", "2 background", "2 Background,"),
        {},
        "'background' is not in the class list",
    ),
    ("egtea", edit(LABELS, "; 500; 2000;", "; 500; ;"), {}, "Ending Time '' is not a whole number"),
    ("egtea", edit("noun_idx.txt", "leek 2", "leak 2"), {}, "'leek' is not in the class list"),
    ("egtea", edit(LABELS, "Clip Prefix", "Prefix"), {}, "has no column Clip Prefix"),
    ("columns", edit("", "0.5;2.25", "0.5;nan"), {}, "to 'nan' is not a number of seconds"),
    ("columns", edit("", "0.5;2.25", "0.5;2,25"), {}, "to '2,25' is not a number of seconds"),
    ("columns", edit("", "0.5;2.25", "0.5;12.25"), {}, r"ends at 12\.25 s, and video a lasts 10\.00"),
    ("columns", edit("", "train;knife", ";knife"), {}, "split '' is unknown"),
    ("columns", edit("", "cup|plate", "cup|nan"), {}, "'nan' is not the name of a class"),
    ("columns", edit("", "clip;", ";"), {}, "has no such column|names"),
    ("columns", None, {"columns": {**TABLE_COLUMNS, "id": "tool"}}, "row knife occurs twice"),
    ("columns", None, {"columns": {**TABLE_COLUMNS, "id": "who"}}, "who is said to hold two things"),
]


@pytest.mark.parametrize(("layout", "fault", "changes", "said"), REFUSED)
def test_a_fault_of_a_list_is_refused_by_name(tmp_path, layout, fault, changes, said):
    with pytest.raises(MambaVLError, match=said):
        read(tmp_path, layout, fault, changes)
    assert not (tmp_path / "ours").exists()


# --- what a list may say without a fault, and what is read then


def test_an_empty_narration_is_no_text(tmp_path):
    rows, _ = read(tmp_path, "hd-epic", in_hd(0, narration=""))
    assert [row.narration for row in rows].count("") == 1


def test_a_list_of_a_fold_without_ids_is_taken_by_its_names(tmp_path):
    assert read(tmp_path / "a", "egtea", edit("train_split1.txt", " 2 2 2\n", "\n")) == read(
        tmp_path / "b", "egtea", None
    )


def test_a_separator_that_no_cell_has_makes_one_label_of_all(tmp_path):
    _, classes = read(tmp_path, "columns", None, {"separator": ","})
    assert classes.targets["thing"].classes == {0: "cup|plate", 1: "plate"}


def test_overlapping_rows_are_rows(tmp_path):
    """EPIC's overlap, too; only a LeRobot episode cannot begin before the last has ended."""
    rows, _ = read(tmp_path, "columns", edit("", "3.0;9.5", "1.0;9.5"))
    assert [(row.start, row.stop) for row in rows if row.video_id == "a"] == [(0.5, 2.25), (1.0, 9.5)]


def test_two_hundred_faults_are_tried(count):
    tried = len(ROWS_IN) * len(NOT_TEXT) + len(REFUSED) + 98  # 98: test_layouts
    assert {one[0] for one in REFUSED} == LAYOUTS.keys()
    assert tried >= 200
    count("spoilt lists", tried)
