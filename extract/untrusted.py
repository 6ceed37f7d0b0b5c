"""The child that reads a stranger's pickle: `python pickles.py SOURCE TARGET` writes its lists, dicts, texts
and numbers as JSON.

A pickle can call any function that its reader finds. This reader finds none. It runs as a script of its own,
with the standard library alone, in bounded memory; its last line on stderr says why a file was refused.
"""

import json
import os
import pickle
import resource
import sys
from pathlib import Path
from typing import Any

ROOM = 4 * 2**30  # bytes of data that it may hold, beyond sixteen times the file


class Unpickler(pickle.Unpickler):
    """Finds no class and no function: what needs one is refused before it is made."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(
            f"asks for {module}.{name}; of a pickle only lists, dicts, texts and numbers are read. If you trust the file, open "
            "it where it was made and save it as CSV (pandas: `frame.to_csv(...)`) or as a list of dicts"
        )

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("refers to objects outside the file")


def convert(source: str, target: str) -> None:
    limit = ROOM + 16 * os.path.getsize(source)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with open(source, "rb") as file:
        data = Unpickler(file).load()
    Path(target).write_text(json.dumps(data), encoding="utf-8")


if __name__ == "__main__":
    try:
        convert(*sys.argv[1:3])
    # a hostile or broken file can fail anywhere in a reader: its own words, one line
    except Exception as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        sys.exit(f"cannot be read ({words[0]})")
