"""A DataFrame that pandas pickled, read without pandas and without running anything of the file.

Of the names that such a file asks for, those below are known, and each is a record of what it was called with
or a few lines here; any other is refused. Nothing is imported because a file says so. The reader runs in the
child of `configs.untrusted`, with limits of memory and time.

A frame is blocks of values, (columns of the block, rows), with the places of their columns, and two
indices; written so by pandas 1.1 to 3. Texts may be Arrow's, as pandas 3 keeps them where pyarrow is
installed; pyarrow is not needed. What holds other things than texts, numbers, lists and tuples (categories,
times of day, other columns of Arrow) is refused with the way out.
"""

import json
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mambavl.configs import untrusted
from mambavl.configs.errors import DataError

LIMITS = untrusted.Limits(seconds=300, room=4 * 2**30, times=24)
WAY_OUT = "open it where you trust it, and save it as CSV: `frame.to_csv(...)`"
NUMERIC = "biuf"  # kinds of numpy's dtypes that are numbers
ORDERS: dict[str, Literal["<", ">", "="]] = {"<": "<", ">": ">", "=": "=", "|": "="}  # of their bytes


def read_frame(path: Path) -> dict[str, list[Any]]:
    """The columns of a pickled DataFrame, as texts, numbers and lists (tuples become lists); its index among
    them, where that has a name that no column has.

    Raises DataError, one line that names the file, for anything else.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "frame.json"
        try:
            untrusted.convert(path, out, __name__, LIMITS)
        except untrusted.Refused as refused:
            raise DataError(f"{path}: {refused}") from None
        columns: dict[str, list[Any]] = json.loads(out.read_bytes())
        return columns


# --- in the child


def read_untrusted(source: str, target: str) -> dict[str, Any]:
    """The columns of the frame in `source`, as JSON. Raises pickle.UnpicklingError for anything else."""
    with open(source, "rb") as file:
        frame = _Unpickler(file).load()
    if not isinstance(frame, _Made) or frame.name != "DataFrame":
        raise pickle.UnpicklingError(f"holds no pandas DataFrame; {WAY_OUT}")
    Path(target).write_text(json.dumps(_columns(frame), default=_plain), encoding="utf-8")
    return {}


class _Made:
    """What a file makes by a name: what it was called with, and the state that it was given."""

    def __init__(self, name: str, args: tuple[Any, ...] = ()) -> None:
        self.name, self.args = name, args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _maker(name: str) -> type[_Made]:
    """A class, for a pickle makes things of classes only, whose things keep the name."""

    class Maker(_Made):
        def __new__(cls, *args: Any) -> "Maker":
            made = super().__new__(cls)
            _Made.__init__(made, name, args)
            return made

        def __init__(self, *args: Any) -> None:
            """All is said by __new__, which alone is called for some."""

    return Maker


RECORDS = (
    "DataFrame",
    "BlockManager",
    "Index",
    "RangeIndex",
    "Int64Index",
    "StringArray",
    "StringDtype",
    "ArrowStringArray",
    "ndarray",
    "dtype",
)


def _placed(values: Any, places: Any, ndim: int = 2) -> tuple[Any, Any]:
    return values, places


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """How pickles of protocol 2 write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"writes bytes in {encoding!r}")
    return text.encode("latin-1")


OFFSETS = {"string": "<i4", "large_string": "<i8"}  # types of Arrow's texts -> of where each text begins


def _arrow_texts(
    kind: Any, length: int, nulls: int, first: int, buffers: list[bytes | None], *rest: Any
) -> list[str | None]:
    """Arrow's columnar format: bits that say which texts are there (the lowest first; none: all are), where
    each begins, and all of them in UTF-8. first: of the texts in the buffers, where a slice begins.
    """
    if kind not in OFFSETS or len(buffers) != 3 or min(length, first) < 0:
        raise pickle.UnpicklingError(f"holds a column of the kind {kind} of Arrow; {WAY_OUT}")
    there, begins, texts = buffers
    ends = np.frombuffer(begins or b"", OFFSETS[kind])[first : first + length + 1]
    bits = np.unpackbits(np.frombuffer(there or b"", np.uint8), bitorder="little")[first : first + length]
    is_short = length > 0 and (len(ends) != length + 1 or ends.min() < 0 or ends.max() > len(texts or b""))
    if is_short or (np.diff(ends) < 0).any() or (there is not None and len(bits) != length):
        raise pickle.UnpicklingError("holds a column of other texts than it says")
    known = bits.astype(bool) if there is not None else np.ones(length, bool)
    return [
        (texts or b"")[ends[place] : ends[place + 1]].decode() if known[place] else None
        for place in range(length)
    ]


CALLS: dict[str, Callable[..., Any]] = {
    "_reconstruct": lambda kind, shape, code: _Made("ndarray"),
    "_frombuffer": lambda data, dtype, shape, order: _array(dtype, shape, bytes(data), order == "F"),
    "scalar": lambda dtype, data: _array(dtype, (), data, False).item(),
    "_unpickle_block": _placed,
    "__pyx_unpickle_NDArrayBacked": lambda kind, checksum, state: _Made("StringArray"),
    "_new_Index": lambda kind, data: _Made("Index", (kind, data)),
    "encode": _encoded,
    "bytes": lambda: b"",  # how protocol 2 writes no bytes
    "bytearray": lambda data=b"", *encoding: data if isinstance(data, bytes) else _encoded(data, *encoding),
    "slice": slice,
    "_restore_array": lambda parts: _arrow_texts(*parts),
    "type_for_alias": lambda name: name,
    "py_buffer": bytes,
    "chunked_array": lambda chunks, kind=None: [text for chunk in chunks for text in chunk],
}
FROM = (
    "pandas",
    "numpy",
    "pyarrow",
    "_codecs",
    "builtins",
    "__builtin__",
)  # modules whose names are looked at


MISSING = (("pandas", "NA"), ("pandas._libs.missing", "NA"))  # a value that is not there


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] in FROM:
            if name in RECORDS:
                return _maker(name)
            if name in CALLS:
                return CALLS[name]
            if (module, name) in MISSING:
                return None
        raise pickle.UnpicklingError(
            f"asks for {module}.{name}, which is no part of a plain table; {WAY_OUT}"
        )

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("refers to objects outside the file")


def _columns(frame: _Made) -> dict[str, list[Any]]:
    state: dict[str, Any] = frame.state if isinstance(frame.state, dict) else {}
    manager = state.get("_mgr", state.get("_data"))
    if not isinstance(manager, _Made) or manager.name != "BlockManager":
        raise pickle.UnpicklingError(f"holds a DataFrame of a kind that is not known here; {WAY_OUT}")
    blocks, axes = _parts(manager)
    names = _items(axes[0])
    found: dict[int, list[Any]] = {}
    for values, places in blocks:
        rows = _items(values)
        where = range(len(names))[places] if isinstance(places, slice) else _items(places)
        if len(where) == 1 and len(rows) != 1:
            rows = [rows]  # an array of one column may have one axis
        if len(rows) != len(where):
            raise pickle.UnpicklingError("holds a block with other columns than it says")
        found.update(
            {place: row if isinstance(row, list) else [row] for place, row in zip(where, rows, strict=True)}
        )
    if sorted(found) != list(range(len(names))) or not all(isinstance(name, str) for name in names):
        raise pickle.UnpicklingError("holds columns without a name, or names without a column")
    if len({len(column) for column in found.values()}) > 1 or len(set(names)) < len(names):
        raise pickle.UnpicklingError("holds columns of several lengths or one name")
    columns = {name: found[place] for place, name in enumerate(names)}
    name, items = _index(axes[1])
    if isinstance(name, str) and name not in columns:
        columns[name] = items
    return columns


def _index(made: Any) -> tuple[Any, list[Any]]:
    """Name and items; of one that is not of one level, no name."""
    if not isinstance(made, _Made) or made.name != "Index" or not isinstance(made.args[1], dict):
        return None, []
    _, data = made.args
    name = data.get("name")
    return (name, _items(made)) if name is not None and "levels" not in data else (None, [])


def _parts(manager: _Made) -> tuple[list[tuple[Any, Any]], list[Any]]:
    """Blocks and axes: the arguments of a manager since pandas 1.3, and its state before."""
    if len(manager.args) >= 2:
        return list(manager.args[0]), list(manager.args[1])
    whole = manager.state[-1]["0.14.1"]
    return [(block["values"], block["mgr_locs"]) for block in whole["blocks"]], list(whole["axes"])


def _items(made: Any) -> list[Any]:
    """The content of an array or an index; of two axes, a list for each item of the first."""
    if isinstance(made, np.ndarray):
        items: list[Any] = made.tolist()
        return items
    if not isinstance(made, _Made):
        raise pickle.UnpicklingError(f"holds {type(made).__name__} where an array should be")
    if made.name == "ndarray":
        _, shape, dtype, is_fortran, data = made.state
        return list(_array(dtype, shape, data, is_fortran).tolist())
    if made.name == "ArrowStringArray":
        texts = made.state.get("_pa_array", made.state.get("_data"))
        if not isinstance(texts, list):
            raise pickle.UnpicklingError("holds texts of Arrow of a kind that is not known here")
        return texts
    if made.name == "StringArray":
        (backing,) = [part for part in made.state if _is_array(part)]
        return _items(backing)
    if made.name == "Index":
        _, data = made.args
        if "data" in data:
            return _items(data["data"])
        return list(range(data["start"], data["stop"], data["step"]))
    raise pickle.UnpicklingError(f"holds {made.name} where an array should be")


def _is_array(part: Any) -> bool:
    return isinstance(part, np.ndarray) or (isinstance(part, _Made) and part.name == "ndarray")


def _array(dtype: Any, shape: tuple[int, ...], data: Any, is_fortran: bool) -> np.ndarray:
    """Of a dtype that holds numbers, or things that the file has made (in rows, however they lay)."""
    code = dtype.args[0] if isinstance(dtype, _Made) and dtype.args else None
    if code in ("O", "O8"):
        found = np.empty(len(data), dtype=object)
        found[:] = data
        return found.reshape(shape)
    order = dtype.state[1] if isinstance(dtype, _Made) and isinstance(dtype.state, tuple) else "|"
    known = np.dtype(str(code)) if isinstance(code, str) and code[:1] in NUMERIC else None
    if known is None or order not in ORDERS:
        raise pickle.UnpicklingError(
            f"holds values of the kind {code}, which are no numbers and texts; {WAY_OUT}"
        )
    plain = np.frombuffer(bytes(data), dtype=known.newbyteorder(ORDERS[order]))
    return plain.reshape(shape, order="F" if is_fortran else "C")


def _plain(value: Any) -> Any:
    """What JSON does not know: arrays in cells."""
    arrays = ("ndarray", "StringArray", "ArrowStringArray")
    if isinstance(value, np.ndarray) or (isinstance(value, _Made) and value.name in arrays):
        return _items(value)
    raise pickle.UnpicklingError(f"holds {getattr(value, 'name', type(value).__name__)} in a cell; {WAY_OUT}")
