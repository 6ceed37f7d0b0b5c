"""Frames that pandas itself pickled, and files that would rather run something."""

import json
import os
import pickle

import numpy as np
import pytest

from mambavl.configs.errors import DataError
from mambavl.extract.lists.pandas_pickle import CALLS, read_frame, read_untrusted

pandas = pytest.importorskip("pandas", reason="its files are the ground truth")


def read(path):
    """As in the child, without one."""
    read_untrusted(str(path), str(path.with_suffix(".json")))
    return json.loads(path.with_suffix(".json").read_text())


def frames():
    plain = pandas.DataFrame(
        {
            "id": ["a-1", "a-2", "b-1"],
            "start": [0.5, 1.25, 2.0],
            "verbs": [["open", "hold"], [], ["put"]],
            "pairs": [[(3, 3), (34, 3)], [], [(1, 2)]],
            "count": [1, 2, 3],
            "stop": [1.5, 2.25, 3.0],
            "seen": [True, False, True],
        }
    )
    objects = plain.astype({"id": object})
    return {
        "plain": plain,
        "texts as objects": objects,
        "an index": plain.set_index("id", drop=False),
        "an index alone": plain.set_index("id"),
        "an index of numbers": plain.set_index("count"),
        "a range with a name": plain.rename_axis("row"),
        "one column": plain[["verbs"]],
        "one row": plain.iloc[:1],
        "one cell": plain[["start"]].iloc[:1],
        "no row": plain.iloc[:0],
        "rows in another order": plain.iloc[::-1],
        "columns apart": pandas.concat([plain[["start"]], plain[["id"]], plain[["stop"]]], axis=1),
        "columns added": plain.assign(late=[7.0, 8.0, 9.0], word=["x", "y", "z"]),
        "narrow numbers": plain[["count", "start"]].astype({"count": "int16", "start": "float32"}),
        "columns side by side": pandas.DataFrame(
            np.asfortranarray(np.arange(6.0).reshape(3, 2)), columns=["p", "q"]
        ),
        "numpy numbers in cells": pandas.DataFrame({"v": pandas.Series([[np.int64(3)], [np.float64(2.5)]])}),
        "texts of other alphabets": plain.assign(word=["für", "", "鍋 🍲"]),
        "texts in two parts": pandas.concat([plain, plain.iloc[1:]], ignore_index=True),
        "a part of the texts": plain[["id", "start"]].iloc[1:],
        "arrays in cells": pandas.DataFrame({"v": pandas.Series([np.array([1, 2]), np.array([3])])}),
    }


def expected(frame):
    def listed(value):
        if isinstance(value, list | tuple | np.ndarray):
            return [listed(one) for one in value]
        return value.item() if isinstance(value, np.generic) else value

    frame = frame.reset_index() if frame.index.name and frame.index.name not in frame else frame
    return {name: [listed(value) for value in frame[name]] for name in frame.columns}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", frames())
def test_a_frame_is_read_as_pandas_wrote_it(tmp_path, kind, protocol):
    frame = frames()[kind]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(frame, protocol=protocol))
    assert read(tmp_path / "x.pkl") == expected(frame)


def test_a_child_reads_and_refuses_alike(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(frames()["plain"]))
    assert read_frame(tmp_path / "x.pkl") == expected(frames()["plain"])
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Runs(str(tmp_path / "ran"))))
    with pytest.raises(DataError, match=r"x\.pkl: cannot be read \(asks for posix\.mkdir, .*to_csv"):
        read_frame(tmp_path / "x.pkl")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("storage", ["python", "pyarrow"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_texts_are_read_however_pandas_keeps_them(tmp_path, storage, protocol):
    """pandas 3 keeps them by Arrow where pyarrow is installed; a text that is not there is no text."""
    pytest.importorskip("pyarrow", reason="pandas then keeps texts otherwise")
    words = ["", "für", None, *[f"word {n}" for n in range(20)], None]
    frame = pandas.DataFrame({"w": pandas.array(words, pandas.StringDtype(storage)), "n": range(len(words))})
    for part in (frame, frame.iloc[3:9], pandas.concat([frame, frame.iloc[1:4]], ignore_index=True)):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(part, protocol=protocol))
        found = read(tmp_path / "x.pkl")
        missing = part["w"].isna().tolist()
        assert [word if isinstance(word, str) else None for word in found["w"]] == [
            None if gone else word for word, gone in zip(part["w"], missing, strict=True)
        ]
        assert found["n"] == part["n"].tolist()


def test_texts_of_arrow_that_are_cut_short_are_refused():
    """Bytes that are not there would read as other texts."""
    starts = np.array([0, 1, 2], "<i8").tobytes()
    assert CALLS["_restore_array"](("large_string", 2, 0, 0, [None, starts, b"ab"], [], None)) == ["a", "b"]
    for parts in (
        ("large_string", 3, 0, 0, [None, starts, b"ab"]),
        ("large_string", 2, 0, 1, [None, starts, b"ab"]),
        ("large_string", 2, 0, 0, [b"", starts, b"ab"]),
        ("large_string", 2, 0, 0, [None, starts, b"a"]),
        ("large_string", 2, 0, 0, [None, np.array([0, 2, 1], "<i8").tobytes(), b"ab"]),
        ("int64", 2, 0, 0, [None, starts]),
        ("large_string", -1, 0, 0, [None, starts, b"ab"]),
    ):
        with pytest.raises(pickle.UnpicklingError, match=r"Arrow|texts"):
            CALLS["_restore_array"](parts)


class Runs:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("wrap", [lambda it: it, lambda it: pandas.DataFrame({"a": pandas.Series([it])})])
def test_nothing_of_a_file_is_run(tmp_path, protocol, wrap):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(wrap(Runs(str(tmp_path / "ran"))), protocol=protocol))
    with pytest.raises(pickle.UnpicklingError, match=r"asks for (posix\.mkdir|copy_reg)"):
        read(tmp_path / "x.pkl")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name",
    [
        "pandas.eval",
        "numpy.load",
        "numpy.testing.rundocs",
        "builtins.eval",
        "builtins.getattr",
        "_codecs.lookup",
    ],
)
def test_names_of_the_known_packages_are_no_passes(tmp_path, name):
    module, _, name = name.rpartition(".")
    (tmp_path / "x.pkl").write_bytes(f"c{module}\n{name}\n(S'1'\ntR.".encode())
    with pytest.raises(
        DataError, match=f"asks for {module}.{name}, which is no part of a plain table.*to_csv"
    ):
        read_frame(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    "column",
    [
        lambda: pandas.Categorical(["a", "b"]),
        lambda: pandas.to_datetime(["2024-01-01", "2024-01-02"]),
        lambda: pandas.array([1, None], dtype="Int64"),
    ],
)
def test_columns_that_are_no_texts_and_numbers_have_a_way_out(tmp_path, column):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(pandas.DataFrame({"a": column()})))
    with pytest.raises(pickle.UnpicklingError, match=r"save it as CSV: `frame\.to_csv"):
        read(tmp_path / "x.pkl")


@pytest.mark.parametrize("content", [pickle.dumps([1, 2]), pickle.dumps({"DataFrame": 1})])
def test_what_is_no_frame_is_refused(tmp_path, content):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(pickle.UnpicklingError, match="holds no pandas DataFrame"):
        read(tmp_path / "x.pkl")


def test_a_file_that_is_cut_off_is_never_read(tmp_path):
    whole = pickle.dumps(frames()["plain"], protocol=4)
    for cut in range(0, len(whole), len(whole) // 40):
        (tmp_path / "x.pkl").write_bytes(whole[:cut])
        with pytest.raises((pickle.UnpicklingError, EOFError)):
            read(tmp_path / "x.pkl")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"x\.pkl: no such file"):
        read_frame(tmp_path / "x.pkl")
