"""Files of scores in the forms that people have them in -> arrays by name, as in the npz of a run.

    .npz                      `mambavl` itself, and whoever writes such arrays
    .parquet                  a column of ids, and a list of numbers a row for each target
    .pkl .pickle .pt .pth     a dict of arrays, a list of dicts or a dict of dicts by id, one for each row;
                              nothing in it is run (`score_pickles`)
    .json .zip                EK100's challenge files (`submission`)

Ids stand under narration_id or narration_ids; scores of a target under its name, or TARGET_output, as EK100's
recognition program has them. (N, V, C) are V views of N rows.
"""

import io
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mambavl.cache import canonical
from mambavl.cache.interchange.parquet import need_pyarrow
from mambavl.configs import untrusted
from mambavl.configs.errors import DataError
from mambavl.fuse import score_pickles
from mambavl.fuse.metrics import K
from mambavl.fuse.submission import Examined, examine

IDS = "narration_id"
OUTPUT = "_output"
LIMITS = untrusted.Limits(seconds=300, room=4 * 2**30, times=8)
SUBMISSION_FAULTS = 3  # shown of a challenge file

Arrays = dict[str, np.ndarray]


def read_arrays(path: Path) -> tuple[str, Arrays]:
    """The sha256 of a file of scores, and its arrays under the names of a run's npz.

    Raises DataError, one line that names the file, for whatever holds no arrays of any of the forms above.
    """
    read = READERS.get(path.suffix.lower(), _npz)  # another name: what npz is it?
    try:
        data = path.read_bytes()
        return canonical.sha256(data), _named(path, read(path, data))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); `mambavl evaluate RUN` writes RUN/scores"
        ) from None


def _named(path: Path, found: Arrays) -> Arrays:
    """With ids as texts and the names of a run's file."""
    arrays: Arrays = {}
    for name, array in found.items():
        known = IDS if name == f"{IDS}s" else name.removesuffix(OUTPUT)
        if known in arrays or (known != name and known in found):
            raise DataError(f"{path}: holds {known} twice, as {known} and as {name}; keep one of them")
        is_texts = known == IDS and array.dtype.kind == "S"
        arrays[known] = np.char.decode(array, "utf-8") if is_texts else array
    return arrays


def _npz(path: Path, data: bytes) -> Arrays:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return dict(found)
    except (
        ValueError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"{path}: is not a file of scores ({reason}); it is an npz such as RUN/scores/validation.npz, or "
            f"another of {', '.join(READERS)}"
        ) from None


def _pickled(path: Path, _: bytes) -> Arrays:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scores.npz"
        try:
            untrusted.convert(path, out, score_pickles.__name__, LIMITS)
        except untrusted.Refused as refused:
            raise DataError(f"{path}: {refused}") from None
        return _npz(path, out.read_bytes())


def _parquet(path: Path, data: bytes) -> Arrays:
    pyarrow = need_pyarrow()
    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(data))
    except (pyarrow.ArrowException, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{path}: is no Parquet file that can be read ({reason})") from None
    return {name: _column(path, name, table.column(name).to_pylist()) for name in table.column_names}


def _column(path: Path, name: str, values: list[Any]) -> np.ndarray:
    try:
        found = np.array(values)
    except ValueError:  # rows of several lengths
        raise DataError(f"{path}: rows of {name} are of several lengths; each has a number a class") from None
    if found.dtype.kind not in "biufU":
        raise DataError(f"{path}: {name} holds neither numbers nor texts, or lacks some (null)")
    return found


def _challenge(path: Path, _: bytes) -> Arrays:
    found = examine(path)
    if found.faults:
        shown = "; ".join(found.faults[:SUBMISSION_FAULTS])
        raise DataError(f"{path}: {shown}; `mambavl submit --check {path}` names all faults")
    arrays: Arrays = {IDS: np.array(found.ids), **found.scores}
    return arrays | _columns_of_pairs(found)


def _columns_of_pairs(found: Examined) -> Arrays:
    """`action` and `pairs` of a file that names the best 100 pairs of each row.

    Columns are the pairs that some row has among its best five, ties with the fifth included, which decide
    every measure. In a row that does not name a pair it lies below all that the row does name.
    """
    if found.pairs is None or found.pair_scores is None:
        return {}
    fifth = -np.sort(-found.pair_scores, 1)[:, K - 1 : K]
    pairs = np.unique(found.pairs[found.pair_scores >= fifth], axis=0)
    code = lambda one: one[..., 0].astype(np.int64) * 1000 + one[..., 1]  # as EK100's programs number them
    codes, columns = code(found.pairs), code(pairs)
    place = np.minimum(np.searchsorted(columns, codes), len(columns) - 1)
    rows, which = np.nonzero(columns[place] == codes)
    action = np.tile(found.pair_scores.min(1, keepdims=True) - 1, (1, len(columns)))
    action[rows, place[rows, which]] = found.pair_scores[rows, which]
    return {"action": action, "pairs": pairs}


READERS: Mapping[str, Callable[[Path, bytes], Arrays]] = {
    ".npz": _npz,
    ".parquet": _parquet,
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth"), _pickled),
    **dict.fromkeys((".json", ".zip"), _challenge),
}
