"""Writes the golden stores: one of each kind, of the schema version that its name tells. Run once for a new
version; never again.

    PYTHONPATH=tests python tests/data/make_golden_stores.py

A later version of mambavl must read them, or say which version it reads.
"""

import shutil
from pathlib import Path

from helpers.tiny import make_dense_store, make_text_store
from mambavl.cache import writer
from mambavl.cache.spec import SCHEMA_VERSION


def main() -> None:
    folder = Path(__file__).parent / f"schema-{SCHEMA_VERSION}"
    writer.socket.gethostname = lambda: "golden"  # part of the journals' names
    shutil.rmtree(folder, ignore_errors=True)
    make_dense_store(
        folder / "video.zarr", 5, group_rows=4, width=3, steps=2, views=2, failed={3: 3}, short={1: 1}
    )
    make_text_store(folder / "text.zarr", 5, group_rows=4, width=3)
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
        if file.name == "lock":
            file.unlink()


if __name__ == "__main__":
    main()
