"""Own lists of rows: read in their own words, refused by file and line."""

import pytest

from helpers.dataset import make_dataset
from mambavl.cache.classes import Derived, RowGroup
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.annotations import read_annotations
from mambavl.extract.data_set import read_data_set

ROWS = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp"
HEADER = f"{ROWS},tool_class,grip_class,scene_classes"

FILES = {
    "targets.toml": """
        [targets.tool]
        sets = { rare = [4] }
        [targets.grip]
        classes = "hands.csv"
        [targets.scene]
        kind = "multi"
        [derived.use]
        of = ["tool", "grip"]
        [groups]
        far = { participant_id = ["P02"] }
    """,
    "tool_classes.csv": "id,key\n0,knife\n4,fork\n",
    "hands.csv": "id,key\n0,firm\n1,loose\n",
    "scene_classes.csv": "id,key\n0,indoors\n1,night\n2,wet\n",
    "train.csv": f'{HEADER}\nb,P01,V1,1.5,00:00:02.50,4,1,"[2, 0]"\na,P01,V1,0,1,0,,\n',
    "validation.csv": f"{HEADER},note\nc,P02,V2,0.5,2,,0,[],seen twice\n",
}


def folder(path, **changes):
    for name, text in FILES.items():
        (path / name).write_text(changes.get(name.partition(".")[0], text))
    return path


def test_rows_and_classes_are_what_the_lists_say(tmp_path):
    found = read_data_set(folder(tmp_path))
    assert [segment.narration_id for segment in found.segments] == ["a", "b", "c"]  # by video and start
    a, b, c = found.segments
    assert (b.start, b.stop, b.split, b.participant_id, b.video_id) == (1.5, 2.5, "train", "P01", "V1")
    assert [segment.labels for segment in (a, b, c)] == [
        {"tool": 0},  # a blank cell is no label
        {"tool": 4, "grip": 1, "scene": (2, 0)},
        {"grip": 0, "scene": ()},  # an empty list is one
    ]
    classes = found.classes
    assert classes.names == ("tool", "grip", "scene", "use")  # in the order of targets.toml
    assert [target.count for target in classes.targets.values()] == [5, 2, 3]
    assert classes.targets["scene"].kind == "multi"
    assert classes.targets["tool"].sets == {"rare": (4,)}
    assert classes.derived == {"use": Derived(("tool", "grip"))}
    assert classes.groups == {"far": RowGroup("participant_id", ("P02",))}
    assert set(found.sha256) == set(FILES)
    assert found.videos == {}


def test_questions_need_verbs_and_nouns(tmp_path):
    with pytest.raises(UsageError, match=r"has no target `verb` \(its targets are tool, grip, scene\)"):
        assert read_data_set(folder(tmp_path)).verbs


def test_a_test_list_needs_no_labels(tmp_path):
    folder(tmp_path)
    (tmp_path / "test.csv").write_text(f"{ROWS}\nx,P9,V9,0,1\n")
    (segment,) = read_data_set(tmp_path, ("test",)).segments
    assert segment.labels == {}


def test_a_folder_without_targets_is_ek100s(tmp_path):
    make_dataset(tmp_path, videos=1)
    assert read_data_set(tmp_path / "annotations", ("validation",)) == read_annotations(
        tmp_path / "annotations", ("validation",)
    )


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "train",
            f"{HEADER}\nb,P01,V1,0,1,3,1,\n",
            r"train\.csv:2: tool_class 3 is not in the class file",
        ),
        ("train", f"{HEADER}\nb,P01,V1,0,1,knife,1,\n", "tool_class 'knife' is not a whole number"),
        ("train", f'{HEADER}\nb,P01,V1,0,1,,,"[0, 7]"\n', "scene_classes 7 is not in the class file"),
        ("train", f'{HEADER}\nb,P01,V1,0,1,,,"[1, 1]"\n', "names a class twice"),
        ("train", f"{HEADER}\nb,P01,V1,0,1,,,2\n", "scene_classes '2' is not a list of numbers"),
        ("train", f"{HEADER}\nb,P01,V1,2,1,0,0,\n", "ends at 1.00 s, not after its start at 2.00 s"),
        (
            "train",
            f"{HEADER}\nb,P01,V1,soon,1,0,0,\n",
            "start_timestamp 'soon' is not a time; expected seconds or",
        ),
        ("train", f"{HEADER}\nb,P01,../V1,0,1,0,0,\n", r"video_id '\.\./V1' is not an id"),
        ("train", f"{HEADER}\nc,P01,V1,0,1,0,0,\n", r"narration_id c occurs twice, first in .*train\.csv:2"),
        ("train", f"{HEADER}\nb,P01,V1,0,1,0.0,0,\n", r"train\.csv:2: tool_class '0\.0' .* made by pandas"),
        ("train", f"{HEADER},noun\nb,P01,V1,0,1,0,0,,nan\n", r"train\.csv:2: noun 'nan' says nothing"),
        ("train", f"{HEADER}\n", "has a header and no row"),
        ("train", HEADER.replace("grip_class", "grip_clas"), "has no column grip_class"),
        ("tool_classes", "id,key\n", "lists no class"),
    ],
)
def test_a_damaged_list_is_named_by_line(tmp_path, name, text, said):
    with pytest.raises(DataError, match=said):
        read_data_set(folder(tmp_path, **{name: text}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[targets.tool]\nkin = 'multi'\n", r"targets\.toml.*did you mean `kind`"),
        ("[targets.tool]\nkind = 'many'\n", r"targets\.toml"),
        ("[targets.tool]\nclasses = '../c.csv'\n", "name of a .csv file next to targets.toml"),
        ("[targets.tool]\nsets = { rare = [5] }\n", "rare name class 5"),
        ("[targets.tool]\n[derived.use]\nof = ['tool', 'grip']\n", "there is no target grip"),
        ("[targets.Tool]\n", "'Tool' cannot name a target"),
        ("[targets.tool]\n[groups]\nfar = { weather = ['wet'] }\n", "far: expected one of participant_id"),
        ("[groups]\n", "targets"),
        ("[targets]\n", "there is no target; name what rows are classified by"),
    ],
)
def test_a_description_that_cannot_be_meant_is_refused(tmp_path, text, said):
    with pytest.raises(UsageError, match=said):
        read_data_set(folder(tmp_path, targets=text))


def test_a_description_under_another_name_is_looked_for(tmp_path):
    (folder(tmp_path) / "targets.toml").rename(tmp_path / "target.toml")
    with pytest.raises(DataError, match=r"neither a targets\.toml nor EK100's .* but target\.toml"):
        read_data_set(tmp_path)


def test_seconds_are_read_to_their_last_digit(tmp_path):
    """As pandas writes them."""
    row = f"{HEADER}\nb,P01,V1,0.1,2.3333333333333335,0,0,\n"
    assert read_data_set(folder(tmp_path, train=row), ("train",)).segments[0].stop == 2.3333333333333335


def test_a_list_that_is_not_there_is_named(tmp_path):
    (folder(tmp_path) / "hands.csv").unlink()
    with pytest.raises(DataError, match=r"hands\.csv: cannot be read \(No such file or directory\)$"):
        read_data_set(tmp_path)


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no split 'val'; the splits are train, validation, test"):
        read_data_set(folder(tmp_path), ("val",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("video_id,duration\nV1,9.5\nV2,8\n", None),
        ("video_id,duration,fps,resolution\nV1,9.5,30,64x48\nV2,8,30,64x48\n", None),
        ("video_id,duration\nV1,0\n", "is not a number above 0"),
        ("video_id,duration,fps\nV1,9.5,none\n", "is not a number above 0"),
        ("video_id,duration,resolution\nV1,9.5,64\n", "is not a number above 0"),
        ("video_id,fps\nV1,30\n", "has no column duration"),
    ],
)
def test_own_lists_may_say_how_long_videos_last_and_no_more(tmp_path, text, said):
    folder(tmp_path)
    (tmp_path / "video_info.csv").write_text(text)
    if said:
        with pytest.raises(DataError, match=said):
            read_data_set(tmp_path)
        return
    videos = read_data_set(tmp_path).videos
    assert [videos[name].duration for name in ("V1", "V2")] == [9.5, 8.0]
    assert videos["V1"].width == (64 if "fps" in text else None)
