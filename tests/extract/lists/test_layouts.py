"""From other people's lists to rows, in every layout; and forty ways in which lists go wrong.

Each fault is refused with a message that names it, or what is read is what was meant.
"""

import json

import pytest

from helpers.foreign_lists import (
    EGTEA_ROWS,
    HD_EPIC_ROWS,
    TABLE,
    TABLE_COLUMNS,
    detection_entries,
    ego4d_rows,
    make_ego4d,
    make_hd_epic,
    make_table,
    table_request,
)
from helpers.miniatures import MADE, request_for
from mambavl.configs.errors import MambaVLError, UsageError
from mambavl.extract.annotations import SPLITS
from mambavl.extract.data_set import read_data_set
from mambavl.extract.lists.layouts import LAYOUTS, OPTIONS, make
from mambavl.extract.lists.listing import Request


def test_every_layout_has_its_miniature():
    assert MADE.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("layout", MADE)
def test_a_layout_becomes_rows_that_every_command_reads(tmp_path, layout):
    build, _, durations = MADE[layout]
    source = build(tmp_path / "theirs")
    request = request_for(layout, source, {})
    written, notes = make(source, layout, request, tmp_path / "ours", durations=durations)
    splits = tuple(split for split in SPLITS if (tmp_path / "ours" / f"{split}.csv").is_file())
    assert read_data_set(tmp_path / "ours", splits) == written
    assert len(written.segments) >= 3
    assert [note for note in notes if "boxes are not kept" not in note] == []
    if durations:
        assert {video: info.duration for video, info in written.videos.items()} == durations


def test_a_layout_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"--layout egta: there is no such layout; did you mean `egtea`"):
        make(tmp_path, "egta", Request(), tmp_path / "ours")


def test_options_that_a_layout_does_not_take_are_refused(tmp_path):
    """Rather than passed over: somebody thinks that they matter."""
    values = {
        "columns": {"video": "v"},
        "single": {"t": "c"},
        "multi": {"t": "c"},
        "unit": "seconds",
        "fps": 1.0,
    }
    for layout, chosen in LAYOUTS.items():
        for option, field in OPTIONS.items():
            if option in chosen.takes:
                continue
            request = Request(**{field: values.get(field, {"x": "train"} if "s" in field else 1)})
            with pytest.raises(UsageError, match=f"--layout {layout} takes no {option}; it takes"):
                make(tmp_path, layout, request, tmp_path / "ours")


# --- faults


def edit(file, old, new):
    def fault(folder):
        path = folder / file if folder.is_dir() else folder
        text = path.read_text()
        assert old in text, (file, old)
        path.write_text(text.replace(old, new))

    return fault


def in_json(change):
    def fault(path):
        entries = detection_entries()
        change(entries)
        path.write_text(json.dumps({"database": entries}))

    return fault


def segment(entries):
    return entries["v_a"]["annotations"][0]


def swapped_ends(entries):
    for entry in entries.values():
        for one in entry["annotations"]:
            one["segment"].reverse()
            one["segment(frames)"].reverse()


def scaled(factor, keys=("segment",)):
    def change(entries):
        for entry in entries.values():
            for one in entry["annotations"]:
                for key in keys:
                    one[key] = [end * factor for end in one[key]]

    return change


def numbered_from_1(file, count):
    """Each id of a `name id` or `id name` file, one higher."""

    def fault(folder):
        path = folder / file
        lines = path.read_text().splitlines()
        path.write_text("".join(f"{plus_one(line)}\n" for line in lines))

    def plus_one(line):
        return " ".join(str(int(word) + count) if word.isdigit() else word for word in line.split(" "))

    return fault


def table_in(factor):
    """The times of the table in other units."""
    lines = [line.split(";") for line in TABLE.splitlines()]
    for line in lines[1:]:
        line[2:4] = [f"{float(cell) * factor:g}" for cell in line[2:4]]
    return lambda path: path.write_text("".join(";".join(line) + "\n" for line in lines))


def with_tools(folder):
    (folder.parent / "tools.csv").write_text("id,key\n0,knife\n1,fork\n")


def columns_swapped(one, other):
    changed = {**TABLE_COLUMNS, one: TABLE_COLUMNS[other], other: TABLE_COLUMNS[one]}
    return {"columns": changed}


def egtea_swapped(folder):
    """Start and end in each other's place, in every row."""
    path = folder / "raw_annotations" / "action_labels.csv"
    for row in EGTEA_ROWS:
        cells = row.split("; ")
        cells[3], cells[4] = cells[4], cells[3]
        path.write_text(path.read_text().replace(row, "; ".join(cells)))


def egtea_in_seconds(folder):
    path = folder / "raw_annotations" / "action_labels.csv"
    path.write_text(path.read_text().replace("; 500; 2000;", "; 0.5; 2.0;"))


def in_frame(place, **cells):
    """The row at `place` with other cells."""

    def fault(folder):
        rows = [dict(row) for row in HD_EPIC_ROWS]
        rows[place].update(cells)
        make_hd_epic(folder, rows)

    return fault


def in_clips(**values):
    """The first row of Ego4D's training list with other values."""

    def fault(folder):
        rows = ego4d_rows()
        rows["fho_lta_train.json"][0].update(values)
        make_ego4d(folder, rows)

    return fault


def scaled_frame(factor):
    def fault(folder):
        times = ("start_timestamp", "end_timestamp")
        make_hd_epic(folder, [{**row, **{key: row[key] * factor for key in times}} for row in HD_EPIC_ROWS])

    return fault


def frame_with_shifted_verbs(folder):
    """Verbs counted on by one, all of them: each id is still one of the list."""
    make_hd_epic(
        folder,
        [{**row, "verb_classes": [(one + 1) % 3 for one in row["verb_classes"]]} for row in HD_EPIC_ROWS],
    )


LABELS = "raw_annotations/action_labels.csv"
MAPPING = "mapping.txt"
S1 = "groundTruth/S1_Tea_C1.txt"
TRAIN, TEST = "splits/train.split1.bundle", "splits/test.split1.bundle"

FAULTS = [
    # layout, fault, what is said otherwise in the call, what the message says
    ("ego4d-lta", in_clips(verb_label=1), {}, "verb_label: 'take' is 0 in the taxonomy, and 1 here"),
    ("ego4d-lta", in_clips(noun_label=3), {}, r"noun_label: 3 is not in .* counted from 1"),
    ("ego4d-lta", in_clips(noun_label=-1), {}, "is -1, and not a whole number"),
    ("ego4d-lta", in_clips(verb="tak"), {}, "'tak' is not in the class list"),
    ("ego4d-lta", in_clips(action_clip_start_sec=500.0), {}, "action_clip_start_frame says 15"),
    ("ego4d-lta", in_clips(action_clip_end_frame=30), {}, r"frame 60 at 30 a second.* says 30"),
    (
        "ego4d-lta",
        in_clips(action_clip_end_sec=12.0, action_clip_end_frame=360),
        {},
        r"video c1 lasts 10\.00 s",
    ),
    ("ego4d-lta", in_clips(action_idx=1), {}, "row c1_1 occurs twice"),
    ("ego4d-lta", in_clips(action_clip_end_sec=None), {}, "action_clip_end_sec: is None, and not a number"),
    ("ego4d-lta", edit("fho_lta_taxonomy.json", '"take", ', ""), {}, "'take' is not in the class list"),
    ("assembly101", edit("train.csv", ",15,60,", ",60,15,"), {}, r"train\.csv:2: ends at 0\.50 s"),
    (
        "assembly101",
        edit("train.csv", ",15,60,", ",0.5,2.0,"),
        {},
        r"start_frame '0\.5' is not a whole number",
    ),
    ("assembly101", edit("train.csv", ",60,270,", ",120,540,"), {}, "at 2 times the rate"),
    (
        "assembly101",
        edit("train.csv", ",1,0,1,pick", ",1,1,0,pick"),
        {},
        "verb_id 1: 'pick up' is 0 in actions",
    ),
    ("assembly101", edit("train.csv", ",1,0,1,pick", ",2,1,2,pick"), {}, "action_id 2: 'pick up cabin' is 1"),
    (
        "assembly101",
        edit("train.csv", ",1,0,1,pick", ",3,0,1,pick"),
        {},
        r"3 is not in the class list \(0 to 2\)",
    ),
    (
        "assembly101",
        edit("train.csv", ",1,pick up cabin,pick up,cabin", ",0,pick up cabin,pick up,wheel"),
        {},
        "of verb 0 and noun 1 in",
    ),
    ("assembly101", edit("train.csv", "\n1,s-1", "\n0,s-1"), {}, "occurs twice, first in"),
    (
        "assembly101",
        edit("actions.csv", "2,2,0,0,pick up wheel", "2,1,0,0,pick up wheel"),
        {},
        "action_id 1 is",
    ),
    (
        "assembly101",
        edit("actions.csv", ",1,0,1,pick up cabin", ",1,0,0,pick up cabin"),
        {},
        "noun_id 0 is 'cabin'",
    ),
    ("assembly101", edit("train.csv", "verb_id", "verb"), {}, "has no column verb_id"),
    ("columns", None, columns_swapped("start", "stop"), "are start and stop swapped"),
    ("columns", None, columns_swapped("video", "text"), r"is not an id"),
    ("columns", None, columns_swapped("split", "participant"), "split 'P1' is unknown"),
    ("columns", table_in(1000), {}, "divided by 1000: are they milliseconds"),
    ("columns", table_in(0.001), {}, "no row ends in the second half of its video"),
    ("columns", None, {"unit": "milliseconds"}, "no row ends in the second half of its video"),
    ("columns", table_in(30), {}, "divided by 30: are they frames"),
    ("columns", table_in(2), {}, "at 2 times the rate"),
    ("columns", table_in(0.5), {}, "no row ends in the second half of its video"),
    ("columns", None, {"unit": "clock"}, "is a number, not HH:MM:SS"),
    ("columns", edit("", "0.5;2.25", "2.25;0.5"), {}, r"ends at 0\.50 s, not after its start"),
    ("columns", edit("", "a;P1;0.5;", "a;P1;;"), {}, "from '' is not a number of seconds"),
    ("columns", edit("", "b;P2;1.0;8.0;val", "b;P2;1.0;8.0;dev"), {}, "--split-as 'dev=train'"),
    ("columns", edit("", "\nb;", "\na;P1;3.0;9.5;train;fork;;\nb;"), {}, "is the same row as .*:3"),
    ("columns", edit("", "\nb;", "\na;P1;3.0;9.5;val;fork;;\nb;"), {}, "there as train, here as validation"),
    ("columns", edit("", "seen;said", "seen;said;tool"), {}, "names the column tool twice"),
    ("columns", edit("", ";cup|plate", ""), {}, r"rows\.csv:2: has fewer fields than the header"),
    (
        "columns",
        edit("", "fork", "frok"),
        {"tools": True},
        "'frok' is not in the class list; did you mean `fork`",
    ),
    (
        "columns",
        edit("", "fork", "2"),
        {"tools": True},
        r"tool 2 is not in the class list \(0 to 1\).* from 1",
    ),
    ("columns", edit("", "fork", "1.0"), {"tools": True}, r"'1\.0' is not in the class list"),
    ("columns", edit("", "\nb;P2", "\na;P2"), {}, "video a belongs to P2, but to P1"),
    (
        "columns",
        edit("", "cup|plate", "cup,plate"),
        {"single": {"tool": "seen"}, "tools": True},
        "'cup,plate' is not",
    ),
    ("egtea", egtea_swapped, {}, "is said to be P01-R01-Soup, from 2000 to 500 ms"),
    ("egtea", egtea_in_seconds, {}, r"Starting Time '0\.5' is not a whole number"),
    ("egtea", edit(LABELS, "; 2500; 9000;", "; 2.5; 9;"), {}, "Starting Time '2.5' is not a whole number"),
    ("egtea", edit(LABELS, "; 2500; 9000;", "; 60; 216;"), {}, "said to be P01-R01-Soup, from 60 to 216 ms"),
    ("egtea", edit(LABELS, "; Put; leek,pot", "; leek,pot; Put"), {}, "'leek,pot' is not in the class list"),
    (
        "egtea",
        edit(LABELS, "; Cut; leek", "; Cut; leak"),
        {},
        "'leak' is not in the class list; did you mean `leek`",
    ),
    (
        "egtea",
        edit(LABELS, EGTEA_ROWS[0], f"{EGTEA_ROWS[0]}\n{EGTEA_ROWS[0]}"),
        {"split": "train"},
        "occurs twice",
    ),
    ("egtea", numbered_from_1("verb_idx.txt", 1), {}, r"verb_idx\.txt: its ids are not 1 to 2"),
    ("egtea", numbered_from_1("action_idx.txt", -1), {}, r"action_idx\.txt"),
    ("egtea", edit("verb_idx.txt", "Put 1\nCut 2", "Cut 1\nPut 2"), {}, "the list of the fold says"),
    (
        "egtea",
        edit("train_split1.txt", "F000048 2 2 2", "F000048 1 1 1"),
        {},
        r"names have the ids \[2, 2, 2\]",
    ),
    (
        "egtea",
        edit("test_split1.txt", "P02-R01-Tea-1000", "P01-R01-Soup-500-2000-F 2 2 2\nP02-R01-Tea-1000"),
        {},
        "twice",
    ),
    ("egtea", edit("noun_idx.txt", "pot 1\n", ""), {}, r"noun_idx\.txt: its ids are not 1 to 1"),
    ("actionformer", in_json(swapped_ends), {}, "are start and stop swapped"),
    (
        "actionformer",
        in_json(scaled(1000)),
        {},
        r"at the fps of 30 is frame 15000, and segment\(frames\) says 15",
    ),
    (
        "actionformer",
        in_json(scaled(30, ("segment", "segment(frames)"))),
        {},
        "divided by 30: are they frames",
    ),
    ("actionformer", in_json(scaled(0.5, ("segment(frames)",))), {}, "is frame 15, and .* says 8"),
    ("actionformer", in_json(lambda e: e["v_a"].update(fps=15.0)), {}, r"at the fps of 15 is frame 8"),
    ("actionformer", in_json(lambda e: e["v_a"].update(duration=5.0)), {}, r"v_a lasts 5\.00 s"),
    ("actionformer", in_json(lambda e: e["v_b"].update(subset="Val2")), {}, "split 'Val2' is unknown"),
    (
        "actionformer",
        in_json(lambda e: segment(e).update(label_id=0)),
        {},
        "label_id 0 is 'stir', but 'pour' in",
    ),
    (
        "actionformer",
        in_json(lambda e: segment(e).update(label_id=2)),
        {},
        "'pour' has the label_id 1, but 2",
    ),
    ("actionformer", in_json(lambda e: segment(e).pop("label_id")), {}, "has no label_id, and"),
    (
        "actionformer",
        in_json(lambda e: segment(e).update(segment=[0.5])),
        {},
        "has 1 ends, not start and stop",
    ),
    (
        "actionformer",
        in_json(lambda e: segment(e).update(segment=["0.5", 2])),
        {},
        "is '0.5', and not a number",
    ),
    (
        "actionformer",
        in_json(lambda e: e["v_a"]["annotations"].append(dict(segment(e)))),
        {},
        "is the same row as",
    ),
    (
        "mstcn",
        None,
        {"fps": 30.0},
        r"its labels last 5\.00 s, and video S1_Tea_C1 10\.00 s; is --fps the rate",
    ),
    ("mstcn", None, {"fps": 7.5}, r"its labels last 20\.00 s"),
    (
        "mstcn",
        edit(S1, "stir", "sitr"),
        {},
        r"S1_Tea_C1\.txt:106: 'sitr' is not in the class list; did you mean `stir`",
    ),
    ("mstcn", edit(S1, "pour\n", ""), {}, r"its labels last 5\.00 s"),
    ("mstcn", numbered_from_1(MAPPING, 1), {}, r"mapping\.txt: its ids are not 0 to 2"),
    ("mstcn", edit(MAPPING, "1 stir", "1 pour"), {}, "names pour twice"),
    ("mstcn", edit(MAPPING, "1 stir", "0 stir"), {}, r"mapping\.txt:2: '0 stir' is not an id of its own"),
    (
        "mstcn",
        edit(TRAIN, "S1_Tea_C1.txt", "S1_Tea_C1.txt\nS1_Tea_C1.txt"),
        {},
        "is in the bundles of fold 1 twice",
    ),
    (
        "mstcn",
        edit(TEST, "S2_Tea_C1.txt", "S2_Tea_C1.txt\nS1_Tea_C1.txt"),
        {},
        "is in the bundles of fold 1 twice",
    ),
    ("mstcn", edit(TEST, "S2", "S3"), {}, r"there is no .*S3_Tea_C1\.txt"),
    (
        "hd-epic",
        in_frame(0, start_timestamp=2.0, end_timestamp=0.5),
        {},
        r"row 0: ends at 0\.50 s, not after",
    ),
    ("hd-epic", scaled_frame(1000.0), {}, "divided by 1000: are they milliseconds"),
    ("hd-epic", scaled_frame(0.001), {}, "no row ends in the second half"),
    (
        "hd-epic",
        in_frame(0, start_timestamp="00:00:00.5"),
        {},
        r"start_timestamp: is '00:00:00\.5', and not a number",
    ),
    ("hd-epic", in_frame(0, start_timestamp=float("nan")), {}, "start_timestamp: is nan, and not a number"),
    ("hd-epic", in_frame(0, video_id="P02-20240202-090909"), {}, "is not of its video, P02-20240202-090909"),
    ("hd-epic", in_frame(2, participant_id="P01"), {}, "is not of its participant, P01"),
    (
        "hd-epic",
        in_frame(0, verb_classes=[1, 3]),
        {},
        r"verb_classes\[1\]: 3 is not in the class list \(0 to 2\)",
    ),
    ("hd-epic", in_frame(0, verb_classes=[1]), {}, "has 2 verbs and 1 verb_classes"),
    ("hd-epic", in_frame(0, main_action_classes=[(1, 0, 0)]), {}, "has 3 classes, not a verb and a noun"),
    ("hd-epic", in_frame(0, main_action_classes=[(0, 7)]), {}, r"main_action_classes\[0\]\[1\]: 7 is not in"),
    ("hd-epic", in_frame(0, noun_classes="[0, 1]"), {}, r"noun_classes: is '\[0, 1\]', and not a list"),
    (
        "hd-epic",
        in_frame(1, unique_narration_id="P01-20240101-101010-1"),
        {},
        "occurs twice, first in .*row 0",
    ),
    ("hd-epic", frame_with_shifted_verbs, {}, "verbs: of 5 labels only 0 name the class that their id has"),
    ("hd-epic", edit("HD_EPIC_verb_classes.csv", "\n1,open", "\n0,open"), {}, "class 0 occurs twice"),
]


@pytest.mark.parametrize(("layout", "fault", "changes", "said"), FAULTS)
def test_a_fault_of_a_list_is_refused_by_name(tmp_path, layout, fault, changes, said):
    build, request, durations = MADE[layout]
    source = build(tmp_path / "theirs")
    if fault:
        fault(source)
    changes = dict(changes)
    if changes.pop("tools", False):
        with_tools(source)
        changes["classes"] = {"tool": source.parent / "tools.csv"}
    if "split" in changes:
        changes["fold"] = None
    changed = Request(**{**request.__dict__, **changes})
    with pytest.raises(MambaVLError, match=said):
        make(source, layout, changed, tmp_path / "ours", durations=durations)
    assert not (tmp_path / "ours").exists()


def test_a_table_is_read_right_in_any_order_of_rows_and_columns(tmp_path):
    first, _ = make(make_table(tmp_path / "a"), "columns", table_request(), tmp_path / "one")
    lines = [line.split(";") for line in TABLE.splitlines()]
    (tmp_path / "b").mkdir()
    turned = [lines[0], *reversed(lines[1:])]
    text = "".join(";".join(reversed(line)) + "\n" for line in turned)
    (tmp_path / "b" / "rows.csv").write_text(text)
    second, _ = make(tmp_path / "b" / "rows.csv", "columns", table_request(), tmp_path / "two")
    seen = [
        [(row.video_id, row.start, row.stop, row.split, row.narration) for row in found.segments]
        for found in (first, second)
    ]
    assert seen[0] == seen[1]
