"""Reading EK100's files: every trap of the real lists, every broken list in one clear report."""

import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.annotations import nominal_rate, read_annotations

HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)
ROW = (
    "P01_101_0,P01,P01_101,00:00:01.000,00:00:01.00,00:00:02.50,50,125,cut onion,cut,0,onion,1,['onion'],[1]"
)
FILES = {
    "EPIC_100_verb_classes.csv": (
        "id,key,instances,category\n0,cut,\"['cut', 'slice']\",split\n2,turn-on,['turn-on'],access\n"
    ),
    "EPIC_100_noun_classes.csv": (
        "id,key,instances,category\n1,onion,['onion'],plants\n3,board:chopping,['board:chopping'],x\n"
    ),
    "EPIC_100_tail_verbs.csv": "verb\n2\n",
    "EPIC_100_tail_nouns.csv": "noun\n3\n",
    "EPIC_100_unseen_participant_ids_validation.csv": "participant_id\nP02\n",
    "EPIC_100_video_info.csv": "video_id,duration,fps,resolution\nP01_101,20.5,50.0,1920x1080\n",
    "EPIC_100_train.csv": f"{HEADER}\n{ROW}\n",
    "EPIC_100_validation.csv": f"{HEADER}\n{ROW.replace('P01', 'P02')}\n",
}


def folder(path, **changes):
    for name, text in FILES.items():
        text = changes.get(name.removeprefix("EPIC_100_").removesuffix(".csv"), text)
        if text is not None:
            (path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def train_with(tmp_path, **cells):
    """The folder with one row of the train file changed: column=value."""
    row = dict(zip(HEADER.split(","), next(csv.reader([ROW])), strict=True)) | cells
    lines = [HEADER, ",".join('"' + row[c].replace('"', '""') + '"' for c in HEADER.split(","))]
    return folder(tmp_path, train="\n".join(lines) + "\n")


def test_a_row_is_read_in_seconds_with_its_classes(tmp_path):
    annotations = read_annotations(folder(tmp_path))
    first = annotations.segments[0]
    assert (first.start, first.stop, first.split) == (1.0, 2.5, "train")
    assert (first.verb_class, first.noun_class, first.all_nouns) == (0, 1, ("onion",))
    assert annotations.verbs.size == 3  # the largest id plus one, gaps or not
    assert annotations.verbs.instances[0] == ("cut", "slice")
    assert annotations.nouns.words(3) == "chopping board"
    assert annotations.classes.groups["unseen"].values == ("P02",)
    assert set(annotations.sha256) == set(FILES)


def test_rows_come_in_canonical_order(tmp_path):
    rows = [
        ROW.replace("P01_101_0", f"P01_101_{n}")
        .replace("00:00:01.00,", f"00:00:0{s}.00,")
        .replace(":02.50", ":09.00")
        for n, s in ((10, 3), (2, 1), (1, 1))
    ]
    annotations = read_annotations(folder(tmp_path, train="\n".join([HEADER, *rows]) + "\n"), ("train",))
    assert [s.narration_id for s in annotations.segments] == ["P01_101_1", "P01_101_2", "P01_101_10"]


def test_blank_timestamps_fall_back_to_frames_and_are_flagged(tmp_path):
    blank = {"start_timestamp": "", "stop_timestamp": ""}
    segment = read_annotations(train_with(tmp_path, **blank), ("train",)).segments[0]
    assert (segment.start, segment.stop, segment.time_from_frames) == (1.0, 2.5, True)
    assert nominal_rate("P01_01") == 60
    assert nominal_rate("P01_101") == 50


def test_blank_words_fall_back_to_class_keys_and_are_flagged(tmp_path):
    blank = dict.fromkeys(("narration", "verb", "noun", "all_nouns", "all_noun_classes"), "")
    cells = {**blank, "verb_class": "2", "noun_class": "3"}
    segment = read_annotations(train_with(tmp_path, **cells), ("train",)).segments[0]
    assert segment.narration == "turn on chopping board"
    assert (segment.verb, segment.noun, segment.words_from_classes) == ("turn-on", "board:chopping", True)
    assert segment.all_noun_classes == (3,)


def test_the_test_list_has_no_labels(tmp_path):
    header = ",".join(HEADER.split(",")[:8])
    row = ",".join(ROW.split(",")[:8])
    folder(tmp_path)
    (tmp_path / "EPIC_100_test_timestamps.csv").write_text(f"{header}\n{row}\n")
    (tmp_path / "EPIC_100_unseen_participant_ids_test.csv").write_text("participant_id\nP33\n")
    annotations = read_annotations(tmp_path, ("test",))
    assert annotations.segments[0].verb_class is None
    assert annotations.classes.groups["unseen"].values == ("P33",)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"verb_class": "1"}, "verb_class 1 is not in the class file"),
        ({"noun_class": "300"}, "noun_class 300 is not in the class file"),
        ({"verb_class": "-1"}, "verb_class '-1' is not a whole number"),
        ({"start_timestamp": "1.0"}, "start_timestamp '1.0' is not a time; expected HH:MM:SS.ss"),
        ({"stop_timestamp": "00:00:01.00"}, "not after its start"),
        ({"video_id": "../../etc/passwd"}, "is not an id"),
        ({"participant_id": "P01/.."}, "is not an id"),
        ({"narration_id": "x" * 300}, "is not an id"),
        ({"all_nouns": "[__import__('os')]"}, "is not a list of words"),
        ({"all_nouns": "[[[["}, "is not a list of words"),
        ({"all_noun_classes": "['1']"}, "is not a list of numbers"),
        ({"narration": "nan"}, "narration 'nan' says nothing; it looks like a blank cell"),
        ({"verb": "NaN"}, "verb 'NaN' says nothing"),
        ({"noun": "None"}, "noun 'None' says nothing"),
        ({"all_nouns": "['onion', 'nan']"}, "all_nouns \"['onion', 'nan']\": 'nan' says nothing"),
        ({"participant_id": "nan"}, "participant_id 'nan' says nothing"),
        (
            {"verb_class": "0.0"},
            "verb_class '0.0' is not a whole number from 0 to 1000000; it looks like a float",
        ),
    ],
)
def test_a_bad_cell_is_named_with_file_line_and_column(tmp_path, cells, said):
    with pytest.raises(DataError) as error:
        read_annotations(train_with(tmp_path, **cells))
    assert "EPIC_100_train.csv:2" in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        (HEADER + "\n", "has a header and no row"),
        ("narration_id,video_id\n", "has no column participant_id"),
        (f"{HEADER}\n{ROW},extra\n", "more fields than the header"),
        (f"{HEADER}\nP01_101_0,P01\n", "fewer fields than the header"),
        (
            f"{HEADER}\n{ROW}\n{ROW}\n",
            r"train\.csv:3: narration_id P01_101_0 occurs twice, first in .*train\.csv:2",
        ),
        (f"{HEADER}\n{ROW}\0\n", "NUL character"),
        (b"\xff\xfe" + HEADER.encode(), "not UTF-8"),
        (f'{HEADER}\n"{ROW}\n', "CSV"),
        (None, "has no EPIC_100_train.csv"),
        (f"{HEADER},verb_class\n{ROW},1\n", "names the column verb_class twice"),
        (
            f"{HEADER}\n{ROW}\n{ROW.replace('_0,P01,', '_1,P02,')}\n",
            r"train\.csv:3: video P01_101 belongs to P02, but to P01 in .*train\.csv:2",
        ),
    ],
)
def test_a_broken_file_gives_one_clear_report(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        read_annotations(folder(tmp_path, train=text))


def test_a_row_that_stands_in_two_lists_is_named_with_both_places(tmp_path):
    with pytest.raises(DataError) as error:
        read_annotations(folder(tmp_path, validation=f"{HEADER}\n{ROW.replace('P01', 'P02')}\n{ROW}\n"))
    first, second = (tmp_path / f"EPIC_100_{split}.csv" for split in ("train", "validation"))
    assert str(error.value) == (
        f"{second}:3: narration_id P01_101_0 occurs twice, first in {first}:2; "
        "a segment has one id and one split"
    )


def test_brackets_in_words_are_words(tmp_path):
    cells = {"all_nouns": "['onion (red)', 'oil [olive]']", "all_noun_classes": "[1, 3]"}
    segment = read_annotations(train_with(tmp_path, **cells), ("train",)).segments[0]
    assert segment.all_nouns == ("onion (red)", "oil [olive]")


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ("P01_101,20.5,50.0,0x0", "is not a number above 0"),
        ("P01_101,20.5,0,1920x1080", "is not a number above 0"),
        ("P01_101,-1,50.0,1920x1080", "is not a number above 0"),
        ("P01_101,nan,50.0,1920x1080", "is not a number above 0"),
        (
            "P01_101,1,50,2x2\nP01_101,2,50,2x2",
            r"info\.csv:3: video P01_101 occurs twice, first in .*info\.csv:2",
        ),
    ],
)
def test_what_a_video_cannot_be_is_refused(tmp_path, info, said):
    with pytest.raises(DataError, match=said):
        read_annotations(folder(tmp_path, video_info=f"video_id,duration,fps,resolution\n{info}\n"))


def test_byte_order_marks_crlf_and_other_column_orders_are_read(tmp_path):
    columns = HEADER.split(",")
    turned = list(reversed(columns))
    cells = dict(zip(columns, next(csv.reader([ROW])), strict=True))
    text = "\ufeff" + ",".join(turned) + "\r\n" + ",".join(cells[c] for c in turned) + "\r\n"
    assert read_annotations(folder(tmp_path, train=text)).segments[0].narration == "cut onion"


def test_problems_are_collected_and_capped(tmp_path):
    rows = [ROW.replace("P01_101_0", f"P01_101_{i}").replace(",0,onion", ",99,onion") for i in range(80)]
    with pytest.raises(DataError) as error:
        read_annotations(folder(tmp_path, train="\n".join([HEADER, *rows]) + "\n"))
    assert len(str(error.value).splitlines()) == 51


def test_an_unknown_split_is_a_wrong_call(tmp_path):
    with pytest.raises(UsageError, match="no split 'val'"):
        read_annotations(folder(tmp_path), ("val",))


@settings(max_examples=300, deadline=None)
@given(cells=st.lists(st.text(max_size=12), min_size=15, max_size=15))
def test_any_row_is_read_or_reported_never_a_crash(tmp_path_factory, cells):
    path = folder(tmp_path_factory.mktemp("fuzz"))
    with open(path / "EPIC_100_train.csv", "w", newline="", encoding="utf-8", errors="surrogatepass") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER.split(","))
        writer.writerow(cells)
    outcome = "read"
    try:
        read_annotations(path, ("train",))
    except DataError as error:
        outcome = str(error)
    assert outcome == "read" or "EPIC_100_train.csv" in outcome


def test_the_real_lists(shared, ek100):
    """Counts of EK100's facts: rows, classes, tail lists, unseen kitchens, blank fields of the rebuilt train
    list.
    """
    annotations = ek100
    by_split = {
        split: [s for s in annotations.segments if s.split == split] for split in ("train", "validation")
    }
    assert {split: len(rows) for split, rows in by_split.items()} == {"train": 67_217, "validation": 9_668}
    assert (annotations.verbs.size, annotations.nouns.size) == (97, 300)
    assert [len(target.sets["tail"]) for target in annotations.classes.targets.values()] == [86, 228]
    assert annotations.classes.groups["unseen"].values == ("P18", "P32")
    assert len(annotations.videos) == 700
    assert sum(s.time_from_frames for s in annotations.segments) == 839
    assert sum(s.words_from_classes for s in annotations.segments) == 12_122
    assert len({(s.verb_class, s.noun_class) for s in annotations.segments}) == 3_806
    assert len(read_annotations(shared / "data" / "ek100", ("test",)).segments) == 13_092
    assert json.dumps(sorted(annotations.sha256)) == json.dumps(
        sorted({*FILES, "EPIC_100_train.rebuilt.csv"} - {"EPIC_100_train.csv"})
    )
