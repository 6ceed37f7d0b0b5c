"""A stranger's file, read by a child process in bounded memory and time.

A pickle can have any function called that its reader finds, and a broken file can make a reader fill the
memory. So the reader is a child that finds no function and has limits. It converts SOURCE to a harmless
TARGET; the last line it prints is a JSON object, in which `fault` says why the file was refused.

This module is both sides: `convert` starts the child, which runs this file by its path, apart from the
user's environment. Plain pickles are read with the standard library alone; other readers are modules.
"""

import importlib
import json
import os
import pickle
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TENSORS = {  # what torch puts a tensor together with; storages are torch.load's own affair
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch.nn.parameter", "Parameter"),
    *(("torch", name) for name in ("float32", "float16", "bfloat16", "float64")),
    *(("torch", name) for name in ("int64", "int32", "uint8", "bool")),
}
PLAIN_PICKLE = "plain-pickle"  # the reader `read_plain_pickle` below
KEPT = ("PATH", "LD_LIBRARY_PATH", "HOME", "LANG")  # of the environment; no secret is needed to read a file
MAX_WORDS = 400  # characters of a file's or reader's own words that are passed on


class Refused(Exception):
    """A file was not read; the message says why, in one line."""


@dataclass(frozen=True)
class Limits:
    """What the child may use."""

    seconds: int  # after which it is stopped
    room: int  # bytes of data that it may hold, and besides
    times: int  # so many times the size of the file


def convert(source: Path, target: Path, reader: str, limits: Limits) -> dict[str, Any]:
    """Have a child read `source` and write `target`; returns what it answers.

    reader: PLAIN_PICKLE, or the name of a module with a function `read_untrusted(source, target) -> dict`.
    Raises Refused.
    """
    source = source.resolve()
    room = limits.room + limits.times * source.stat().st_size
    where = json.dumps([str(folder) for folder in sys.path])  # a reader's modules are found as ours are
    command = [sys.executable, "-I", __file__, reader, str(source), str(target), str(room), where]
    environment = {name: value for name, value in os.environ.items() if name in KEPT}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limits.seconds,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Refused(f"took more than {limits.seconds} s to read and was given up") from None
    said = done.stdout.strip().splitlines()
    if done.returncode or not said:
        complaints = done.stderr.strip().splitlines() or [f"its reader ended with {done.returncode}"]
        raise Refused(f"cannot be read ({complaints[-1][:MAX_WORDS]})")
    answer: dict[str, Any] = json.loads(said[-1])
    if "fault" in answer:
        raise Refused(answer["fault"])
    return answer


# --- in the child


class PlainUnpickler(pickle.Unpickler):
    """Finds no class and no function: what needs one is refused before it is made."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(
            f"asks for {module}.{name}; of a pickle only lists, dicts, texts and numbers are read. "
            "If you trust the file, open it where it was made and save it as CSV "
            "(pandas: `frame.to_csv(...)`) or as a list of dicts"
        )

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("refers to objects outside the file")


def read_plain_pickle(source: str, target: str) -> dict[str, Any]:
    """The lists, dicts, texts and numbers of a pickle, as JSON."""
    with open(source, "rb") as file:
        data = PlainUnpickler(file).load()
    Path(target).write_text(json.dumps(data), encoding="utf-8")
    return {}


def main(reader: str, source: str, target: str, room: str, where: str) -> None:
    """The child's program; prints its answer."""
    resource.setrlimit(resource.RLIMIT_DATA, (int(room), int(room)))
    try:
        if reader == PLAIN_PICKLE:
            answer = read_plain_pickle(source, target)
        else:
            sys.path[:] = json.loads(where)
            answer = importlib.import_module(reader).read_untrusted(source, target)
    # a hostile or broken file can fail anywhere in a reader: its own words, one line
    except Exception as error:
        answer = {"fault": f"cannot be read ({_first_line(error)[:MAX_WORDS]})"}
    print(json.dumps(answer))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    if not lines:
        return name
    return lines[0] if isinstance(error, pickle.UnpicklingError) else f"{name}: {lines[0]}"


if __name__ == "__main__":
    main(*sys.argv[1:])
