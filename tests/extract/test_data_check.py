"""`mambavl data check`: each fault of the videos on its line."""

from helpers.dataset import broken_copy
from mambavl.extract.annotations import read_annotations
from mambavl.extract.data_check import check_data


def test_data_check_lists_each_fault_on_its_line(dataset, tmp_path):
    read = read_annotations(dataset / "annotations")
    assert check_data(read, dataset / "videos", full=True).problems == []
    problems = check_data(read, broken_copy(dataset, tmp_path) / "videos").problems
    assert [problem.split(":")[0] for problem in problems] == ["P01_101", "P01_102", "P01_103", "P01_103"]
    assert "missing; expected" in problems[1]
    assert "short" in problems[2]
    assert "rows end after the video" in problems[3]
