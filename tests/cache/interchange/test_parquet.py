"""What is read of Parquet, and what is said where it cannot be."""

import sys

import pytest

from mambavl.cache.interchange.parquet import need_pyarrow, read_columns
from mambavl.configs.errors import DataError, UsageError

pyarrow = pytest.importorskip("pyarrow", reason="it makes the files")


def written(path, **columns):
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path / "x.parquet")
    return path / "x.parquet"


def test_columns_are_lists_of_plain_values(tmp_path):
    path = written(tmp_path, n=[1, None], words=[["a"], []], **{"videos/top/x": [0.5, 1.0]}, other=[1, 2])
    found = read_columns(path, "n", "videos/top/x", optional=("words", "absent"))
    assert found == {"n": [1, None], "videos/top/x": [0.5, 1.0], "words": [["a"], []]}


def test_a_column_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"x\.parquet: has no column m; its columns are n"):
        read_columns(written(tmp_path, n=[1]), "m")


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:40], lambda raw: b"", lambda raw: b"PAR1" + raw[4:-8] + b"0000PAR1"]
)
def test_a_damaged_file_is_named(tmp_path, damage):
    path = written(tmp_path, n=list(range(1000)))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"x\.parquet: cannot be read as Parquet \("):
        read_columns(path, "n")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"x\.parquet: cannot be read as Parquet"):
        read_columns(tmp_path / "x.parquet", "n")


def test_without_pyarrow_what_to_install_is_said(monkeypatch):
    assert need_pyarrow() is pyarrow
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        UsageError, match=r"Parquet needs the package pyarrow: pip install -e '\.\[parquet\]'"
    ):
        need_pyarrow()
