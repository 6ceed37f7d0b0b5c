"""LeRobot v3: runs of one task in shared video files, found by the times of the episodes."""

import sys
from copy import deepcopy

import pytest

from helpers.other_lists import CAMERA, INFO, lerobot_tables, make_lerobot
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.lists.lerobot import read_lerobot
from mambavl.extract.lists.listing import Request, checked

pytest.importorskip("pyarrow", reason="it makes the miniature")


def read(folder, **said):
    return checked(read_lerobot(folder, Request(**said)), Request(**said))


def test_runs_of_a_task_are_rows_of_the_shared_file(tmp_path):
    found = read(make_lerobot(tmp_path))
    assert [(row.name, row.start, row.stop, row.split, row.labels["task"]) for row in found.rows] == [
        ("episode-000000_0", 0.0, 4.0, "train", 0),
        ("episode-000001_0", 4.0, 6.0, "train", 0),
        ("episode-000001_1", 6.0, 7.0, "train", 1),
        ("episode-000002_0", 7.0, 10.0, "validation", 1),
    ]
    assert {(row.participant, row.video) for row in found.rows} == {("chunk-000", "file-000")}
    assert [row.text for row in found.rows] == [
        "pick the cube",
        "pick the cube",
        "open the drawer",
        "open the drawer",
    ]
    assert found.classes["task"].ids == {"pick the cube": 0, "open the drawer": 1}
    assert set(found.tables.sha256) == {"meta/info.json", *lerobot_tables()}


def test_words_may_be_the_index_that_pandas_wrote(tmp_path):
    pandas = pytest.importorskip("pandas", reason="LeRobot writes the list with it")
    make_lerobot(tmp_path)
    frame = pandas.DataFrame({"task_index": [0, 1]}, index=["pick the cube", "open the drawer"])
    frame.to_parquet(tmp_path / "meta" / "tasks.parquet")
    assert read(tmp_path).classes["task"].ids == {"pick the cube": 0, "open the drawer": 1}


def test_subtasks_are_a_target_of_their_own(tmp_path):
    tables = lerobot_tables()
    tables["meta/subtasks.parquet"] = {"subtask_index": [0, 1], "subtask": ["reach", "grasp"]}
    tables["data/chunk-000/file-000.parquet"]["subtask_index"] = [int(n % 20 >= 10) for n in range(100)]
    found = read(make_lerobot(tmp_path, tables))
    assert [(row.start, row.stop) for row in found.rows][:4] == [
        (0.0, 1.0),
        (1.0, 2.0),
        (2.0, 3.0),
        (3.0, 4.0),
    ]
    assert found.rows[1].labels == {"task": 0, "subtask": 1}
    assert found.rows[1].text == "grasp"


def test_a_camera_of_several_is_asked_for(tmp_path):
    info = deepcopy(INFO)
    info["features"]["observation.images.wrist"] = {"dtype": "video"}
    make_lerobot(tmp_path, info=info)
    with pytest.raises(UsageError, match=rf"several cameras; say which: --column video={CAMERA} "):
        read(tmp_path)
    assert len(read(tmp_path, columns={"video": CAMERA}).rows) == 4
    with pytest.raises(UsageError, match=r"--column video=top: the cameras are observation\.images\.top, "):
        read(tmp_path, columns={"video": "top"})
    with pytest.raises(UsageError, match=r"--column start=\.\.\.: of a LeRobot data set only video=KEY"):
        read(tmp_path, columns={"start": "x"})


def test_files_of_several_chunks_are_told_apart(tmp_path):
    """All chunks call their files file-000, file-001, ..."""
    tables = lerobot_tables()
    episodes = tables["meta/episodes/chunk-000/file-000.parquet"]
    episodes[f"videos/{CAMERA}/chunk_index"] = [0, 0, 1]
    episodes[f"videos/{CAMERA}/from_timestamp"][2], episodes[f"videos/{CAMERA}/to_timestamp"][2] = 0.0, 3.0
    found = read(make_lerobot(tmp_path, tables))
    assert [(row.video, row.start) for row in found.rows][2:] == [
        ("chunk-000_file-000", 6.0),
        ("chunk-001_file-000", 0.0),
    ]


def test_all_rows_may_be_of_one_split(tmp_path):
    info = {**INFO, "splits": {"all of them": "0:3"}}
    make_lerobot(tmp_path, info=info)
    with pytest.raises(DataError, match=r"split 'all of them' is unknown; .*--split-as"):
        read(tmp_path)
    assert {row.split for row in read(tmp_path, split="test").rows} == {"test"}


def test_without_pyarrow_what_to_install_is_said(tmp_path, monkeypatch):
    make_lerobot(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[parquet\]'"):
        read(tmp_path)
