"""Assembly101's CSV files: frames at 30 a second, ids that must be those of their names."""

from helpers.foreign_lists import make_assembly101
from mambavl.extract.lists.assembly101 import read_assembly101
from mambavl.extract.lists.listing import Request, checked


def test_rows_and_classes_are_what_the_files_say(tmp_path):
    found = checked(read_assembly101(make_assembly101(tmp_path), Request()), Request())
    assert [(row.name, row.video, row.start, row.stop, row.split, row.labels) for row in found.rows] == [
        ("s-1_01_C1_rgb_0", "s-1_01_C1_rgb", 0.5, 2.0, "train", {"action": 1, "verb": 0, "noun": 1}),
        ("s-1_01_C1_rgb_1", "s-1_01_C1_rgb", 2.0, 9.0, "train", {"action": 0, "verb": 1, "noun": 0}),
        ("s-2_02_C1_rgb_0", "s-2_02_C1_rgb", 1.0, 8.0, "validation", {"action": 2, "verb": 0, "noun": 0}),
    ]
    assert found.classes["action"].ids == {"screw wheel": 0, "pick up cabin": 1, "pick up wheel": 2}
    assert [row.text for row in found.rows] == ["pick up cabin", "screw wheel", "pick up wheel"]
