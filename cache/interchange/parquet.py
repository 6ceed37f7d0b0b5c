"""Parquet: what pyarrow reads and writes, with the errors that a person can act on."""

from pathlib import Path
from typing import Any

from mambavl.configs.errors import DataError, UsageError


def need_pyarrow() -> Any:
    """The module pyarrow, with pyarrow.parquet. Raises UsageError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError("Parquet needs the package pyarrow: pip install -e '.[parquet]'") from None
    return pyarrow


def read_columns(path: Path, *required: str, optional: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    """Columns of a Parquet file as lists of Python's values; of the optional ones those that are there.

    Raises DataError for a file that is damaged or without a column, UsageError without pyarrow.
    """
    pyarrow = need_pyarrow()
    try:
        names = pyarrow.parquet.read_schema(path).names
        if missing := [name for name in required if name not in names]:
            raise DataError(f"{path}: has no column {', '.join(missing)}; its columns are {', '.join(names)}")
        wanted = [*required, *(name for name in optional if name in names)]
        table = pyarrow.parquet.read_table(path, columns=wanted, partitioning=None)
        return {name: table.column(name).to_pylist() for name in wanted}
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        said = str(error).strip().splitlines()
        raise DataError(f"{path}: cannot be read as Parquet ({said[0] if said else error})") from None
