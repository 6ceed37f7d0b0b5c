"""One table of any columns: read as the call says, and asked about where it does not say."""

import pytest

from helpers.foreign_lists import TABLE, TABLE_COLUMNS, make_table, table_request
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.lists.columns import read_columns
from mambavl.extract.lists.listing import Request, checked


def read(folder, text=TABLE, name="rows.csv", **changes):
    make_table(folder)
    (folder / name).write_text(text)
    request = table_request(**changes)
    return checked(read_columns(folder / name, request), request)


def rows_of(listing):
    return [(row.video, row.start, row.stop, row.split, row.labels) for row in listing.rows]


def test_rows_and_classes_are_what_the_file_says(tmp_path):
    found = read(tmp_path)
    assert rows_of(found) == [
        ("a", 0.5, 2.25, "train", {"tool": 0, "thing": (0, 1)}),
        ("a", 3.0, 9.5, "train", {"tool": 1}),  # a blank cell is no label
        ("b", 1.0, 8.0, "validation", {"tool": 0, "thing": (1,)}),
    ]
    assert {name: names.ids for name, names in found.classes.items()} == {
        "tool": {"knife": 0, "fork": 1},
        "thing": {"cup": 0, "plate": 1},
    }
    assert [row.name for row in found.rows] == ["a_0", "a_1", "b_0"]
    assert [row.participant for row in found.rows] == ["P1", "P1", "P2"]
    assert [row.text for row in found.rows] == ["cuts bread", "", "cuts, then waits"]


def test_what_is_not_said_is_asked_for_all_at_once(tmp_path):
    with pytest.raises(UsageError) as caught:
        read_columns(make_table(tmp_path), Request(delimiter=";"))
    said = str(caught.value)
    for asked in (
        "--column video=COLUMN",
        "--column start=COLUMN --column stop=COLUMN",
        "--column split=COLUMN, or --split NAME",
        "--target NAME=COLUMN",
        "its columns are clip, who, from, to, phase, tool, seen, said",
    ):
        assert asked in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"unit": None}, r"--unit seconds\|milliseconds\|clock"),
        ({"separator": None}, "--separator TEXT"),
        ({"delimiter": None}, r"its header is one cell; try --delimiter ';'"),
        ({"single": {"tool": "tol"}}, r"--target tool=tol: .* no such column; did you mean `tool`"),
        ({"single": {"Tool": "tool"}}, "'Tool' cannot name a target"),
        ({"columns": {**TABLE_COLUMNS, "film": "clip"}}, "--column film=...: a column holds one of video"),
        ({"columns": {**TABLE_COLUMNS, "stop": "from"}}, "from is said to hold two things"),
        ({"columns": {k: v for k, v in TABLE_COLUMNS.items() if k != "stop"}}, "--column stop=COLUMN"),
        ({"columns": {k: v for k, v in TABLE_COLUMNS.items() if k != "split"}}, "or --split NAME"),
        ({"multi": {"tool": "seen"}}, "--target tool and --multi tool: a target has one column"),
        ({"fps": 30.0}, "--fps is of frames, and no column is said to hold any"),
    ],
)
def test_a_call_that_leaves_something_open_is_told_what_to_type(tmp_path, changes, said):
    with pytest.raises(UsageError, match=said):
        read(tmp_path, **changes)


@pytest.mark.parametrize(
    ("unit", "start", "stop"),
    [("seconds", "0.5", "61.5"), ("milliseconds", "500", "61500"), ("clock", "00:00:00.50", "00:01:01.5")],
)
def test_units_are_those_that_are_said(tmp_path, unit, start, stop):
    found = read(tmp_path, TABLE.replace("0.5;2.25", f"{start};{stop}").partition("a;P1;3.0")[0], unit=unit)
    assert rows_of(found)[0][1:3] == (0.5, 61.5)


def test_frames_are_times_at_the_rate_that_is_said(tmp_path):
    columns = {"video": "v", "start_frame": "f", "stop_frame": "t", "split": "s"}
    changes = {"columns": columns, "multi": {}, "unit": None, "fps": 25.0, "delimiter": ",", "splits": {}}
    found = read(tmp_path, "v,f,t,s,tool\nx,25,100,train,cup\n", **changes)
    assert rows_of(found) == [("x", 1.0, 4.0, "train", {"tool": 0})]


def test_times_and_frames_that_say_different_things_are_refused(tmp_path):
    columns = {"video": "v", "start": "b", "stop": "e", "start_frame": "f", "stop_frame": "t", "split": "s"}
    changes = {"columns": columns, "multi": {}, "delimiter": ",", "splits": {}}
    text = "v,b,e,f,t,s,tool\nx,1.0,4.0,30,120,train,cup\n"
    assert rows_of(read(tmp_path, text, fps=30.0, **changes))[0][1:3] == (1.0, 4.0)
    with pytest.raises(DataError, match=r"its start is 1\.00 s, and 2\.00 s by its frame at 15 a second"):
        read(tmp_path, text, fps=15.0, **changes)


RATES = {"video": "v", "start_frame": "f", "stop_frame": "t", "split": "s", "fps": "rate"}
BY_RATE = {"columns": RATES, "multi": {}, "unit": None, "delimiter": ",", "splits": {}}


def test_each_video_may_have_frames_of_its_own_rate(tmp_path):
    found = read(tmp_path, "v,f,t,s,tool,rate\nx,30,60,train,cup,30\ny,30,60,train,cup,59.94\n", **BY_RATE)
    assert [(row.start, row.stop) for row in found.rows] == [(1.0, 2.0), (30 / 59.94, 60 / 59.94)]


@pytest.mark.parametrize(
    ("rows", "changes", "error", "said"),
    [
        (
            "x,1,60,train,cup,30\nx,60,90,train,cup,25\n",
            {},
            DataError,
            "video x has 25 frames a second, and 30 in",
        ),
        ("x,1,60,train,cup,0\n", {}, DataError, "rate 0 is no rate"),
        ("x,1,60,train,cup,\n", {}, DataError, "rate '' is not a number of frames a second"),
        ("x,1,60,train,cup,30\n", {"fps": 30.0}, UsageError, "--fps and --column fps=...: give one"),
    ],
)
def test_a_rate_that_cannot_be_is_refused(tmp_path, rows, changes, error, said):
    with pytest.raises(error, match=said):
        read(tmp_path, f"v,f,t,s,tool,rate\n{rows}", **{**BY_RATE, **changes})


def test_a_rate_without_frames_says_nothing(tmp_path):
    with pytest.raises(UsageError, match="--fps is of frames, and no column is said to hold any"):
        read(tmp_path, columns={**TABLE_COLUMNS, "fps": "seen"}, multi={})


def test_a_tab_separates_the_cells_of_a_tsv(tmp_path):
    found = read(tmp_path, TABLE.replace(";", "\t"), name="rows.tsv", delimiter=None)
    assert len(found.rows) == 3


def test_cells_like_python_lists_are_lists(tmp_path):
    text = TABLE.replace("cup|plate", "\"['cup', 'plate']\"").replace(";plate;", ";['plate'];")
    assert rows_of(read(tmp_path, text, separator="[]"))[0][4]["thing"] == (0, 1)


def test_a_video_is_named_without_the_ending_of_its_file(tmp_path):
    found = read(tmp_path, TABLE.replace("\na;", "\na.MP4;"))
    assert [row.video for row in found.rows] == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("0.5;2.25", "soon;2.25", r"rows\.csv:2: from 'soon' is not a number of seconds"),
        ("0.5;2.25", "00:00:00.5;2.25", r"looks like a time of day: --unit clock"),
        ("0.5;2.25", "nan;2.25", "from 'nan' is not a number of seconds"),
        ("0.5;2.25", "-1;2.25", r"starts at -1\.00 s, before its video"),
        ("cup|plate", "cup|cup", "seen names a class twice"),
        ("cup|plate", "cup||plate", "seen '' is not the name of a class"),
        ("knife", "nan", "tool 'nan' is not the name of a class"),
        ("\na;P1;0.5", "\na/b;P1;0.5", "video 'a/b' is not an id"),
        ("\na;P1;0.5", "\na;P9;0.5", r"video a belongs to P1, but to P9 in .*rows\.csv:2"),
        ("cuts bread", "nan", "the text 'nan' says nothing"),
        ("train;fork", "dev;fork", r"split 'dev' is unknown; .* --split-as 'dev=train'"),
    ],
)
def test_what_a_cell_does_not_hold_is_named_by_line(tmp_path, old, new, said):
    with pytest.raises(DataError, match=said):
        read(tmp_path, TABLE.replace(old, new))


def test_numbers_where_times_of_day_are_said_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"from '0\.5' is a number, not HH:MM:SS; --unit seconds"):
        read(tmp_path, unit="clock")


SOUNDS = {  # as EPIC-SOUNDS': a file a split, a class and its id in each row; test without
    "S_train.csv": "id,v,who,b,e,said,class,class_id\nx_1,x,P1,00:00:00.476,00:00:02.5,rustles,rustle,4\n"
    "x_2,x,P1,00:00:03.000,00:00:09.5,,metal only,0\n",
    "S_validation.csv": "id,v,who,b,e,said,class,class_id\ny_1,y,P2,00:00:01.0,00:00:07.5,,rustle,4\n",
    "S_test.csv": "id,v,who,b,e,said\nz_1,z,P3,00:00:01.0,00:00:02.0,\n",
    "other.txt": "not a table",
}
SOUND_COLUMNS = {"id": "id", "video": "v", "participant": "who", "start": "b", "stop": "e", "text": "said"}
SPLIT_AS = {"S_train": "train", "S_validation": "validation", "S_test": "test"}


def read_folder(folder, files=SOUNDS, **changes):
    for name, text in files.items():
        (folder / name).write_text(text)
    said = {
        "columns": SOUND_COLUMNS,
        "unit": "clock",
        "single": {"sound": "class_id"},
        "names": {"sound": "class"},
        "splits": SPLIT_AS,
    }
    request = Request(**{**said, **changes})
    return checked(read_columns(folder, request), request)


def test_each_split_may_have_a_file_of_its_own(tmp_path):
    found = read_folder(tmp_path)
    assert rows_of(found) == [
        ("x", 0.476, 2.5, "train", {"sound": 4}),
        ("x", 3.0, 9.5, "train", {"sound": 0}),
        ("y", 1.0, 7.5, "validation", {"sound": 4}),
        ("z", 1.0, 2.0, "test", {}),
    ]
    assert found.classes["sound"].ids == {"metal only": 0, "rustle": 4}
    assert set(found.tables.sha256) == {"S_train.csv", "S_validation.csv", "S_test.csv"}
    only = read_folder(tmp_path, splits={"S_validation": "train"})
    assert [row.split for row in only.rows] == ["train"]


@pytest.mark.parametrize(
    ("files", "changes", "error", "said"),
    [
        (
            {},
            {"splits": {}},
            UsageError,
            r"say which of its files \(S_test, S_train, S_validation\) is which",
        ),
        (
            {},
            {"splits": {"S_trian": "train"}},
            DataError,
            r"has 0 files S_trian\.csv or S_trian\.tsv; there are",
        ),
        ({"S_train.tsv": "a\tb\n"}, {}, DataError, r"has 2 files S_train\.csv or S_train\.tsv"),
        ({}, {"split": "train"}, UsageError, "of a folder --split-as says the split of each file"),
        (
            {"S_validation.csv": "id,v,b,e\n"},
            {},
            DataError,
            r"S_validation\.csv: has no column class_id, class; its columns are id",
        ),
        (
            {"S_validation.csv": SOUNDS["S_validation.csv"].replace("rustle,4", "rustle,5")},
            {},
            DataError,
            r"S_validation\.csv:2: 'rustle' is class_id 5, and 4 before",
        ),
        (
            {"S_validation.csv": SOUNDS["S_train.csv"].partition("x_2")[0]},
            {},
            DataError,
            r"S_validation\.csv:2: row x_1 occurs twice, first in .*S_train\.csv:2",
        ),
        ({"S_train.csv": ""}, {}, DataError, r"S_train\.csv: is empty"),
    ],
)
def test_files_that_do_not_go_together_are_named(tmp_path, files, changes, error, said):
    with pytest.raises(error, match=said):
        read_folder(tmp_path, {**SOUNDS, **files}, **changes)
