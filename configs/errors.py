"""What can go wrong on the user's side, and what the messages are made of.

The front door prints the message alone, without a traceback, and exits with the code.
"""

import difflib
from collections.abc import Sequence


class MambaVLError(Exception):
    """An error whose message is written for the person at the keyboard: what is wrong, where, and what to do
    next.
    """

    exit_code = 1


class DataError(MambaVLError):
    """The data or a result is not right."""


class SystemFault(DataError):
    """The system could not read a file; what is in it may be sound. The same command resumes."""


class UsageError(MambaVLError):
    """The call or the recipe is wrong."""

    exit_code = 2


class Interrupted(MambaVLError):
    """Stopped by a signal between two units of work; the same command resumes."""

    exit_code = 75  # EX_TEMPFAIL: what batch schedulers take for "run it again"


class Pruned(MambaVLError):
    """A search gave a run up, which had not gone wrong; the message says when and why."""

    exit_code = 0


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of many names: `a, b, c, d, e, ...`."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def counted(count: int, noun: str) -> str:
    """`1 row`, `1,200 rows`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def differs(lines: Sequence[str], sides: str, most: int = 20) -> str:
    """`What differs (there -> asked for):` and the lines, indented; `sides` names what stands on the two
    sides of the arrow in each line.
    """
    return "\n  ".join([f"What differs ({sides}):", *lines[:most]])


def to_install(extra: str) -> str:
    """The command that installs an optional part of the project, which is used from a clone."""
    return f"`pip install -e '.[{extra}]'` (in the checkout)"


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """`; did you mean ...?` for the nearest of the known names, or a full stop when nothing is near."""
    if not known:
        return "."
    best = min(known, key=lambda k: (edit_distance(name, k), -difflib.SequenceMatcher(None, name, k).ratio()))
    if edit_distance(name, best) > max(2, len(best) // 2):
        return f"; known: {', '.join(known)}."
    return f"; did you mean `{best}`?"


def edit_distance(a: str, b: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (optimal string
    alignment).
    """
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(rows[-1][j] + 1, row[j - 1] + 1, rows[-1][j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]
