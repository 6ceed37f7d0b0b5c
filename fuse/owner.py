"""Who trains a run: a lock on its folder that ends with the process, however it ends; and why a run that
nobody finished has no result.

lock             the host and process id of whoever trains or scores here, or was the last to
failure.json     the error that ended the last attempt, until the next one begins
begun.json       while somebody trains: after how many epochs that began, and how many attempts before it,
                 begun after as many, ended with their process: killed, or crashed
"""

import contextlib
import json
import os
import socket
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path

from mambavl.cache import canonical, fsops
from mambavl.configs.errors import DataError, Interrupted, MambaVLError, Pruned, UsageError
from mambavl.fuse.run import BEGUN, CURVES, FAILURE, LOCK, PRUNED, RECIPE, RESULT, read_recipe, why_pruned


class RunHeld(UsageError):
    """Another process trains the run, or scores it; `holder` says which."""

    def __init__(self, run: Path, holder: str) -> None:
        super().__init__(run, holder)
        self.run, self.holder = run, holder

    def __str__(self) -> str:
        return f"{self.run}: {self.holder} works on this run; wait for it, or use another --out"


@contextlib.contextmanager
def owned(run: Path, max_deaths: int | None = None) -> Iterator[None]:
    """Hold the folder of a run, to train it. An error that ends the work in here leaves its reason in
    failure.json. Raises as `held` does.

    max_deaths: so many attempts in a row may end with their process and no epoch done; then DataError, once:
    whoever comes after that begins anew.
    """
    with held(run):
        try:
            with begun(run, max_deaths):
                yield
        except (Interrupted, Pruned, UsageError):
            raise  # nothing has failed: the run waits, was given up or refused
        except Exception as error:
            note_failure(run, error)
            raise


@contextlib.contextmanager
def held(run: Path) -> Iterator[None]:
    """Hold the folder of a run, as one process at a time can. Raises RunHeld, which names the holder, while
    another process holds it.
    """
    fsops.make_folder(run)
    lock = fsops.lock(run / LOCK, exclusive=True, wait=False)
    if lock is None:
        raise RunHeld(run, holder_of(run))
    try:
        fsops.sign(
            run / LOCK, lock, canonical.pretty_json({"host": socket.gethostname(), "pid": os.getpid()})
        )
        yield
    finally:
        fsops.unlock(lock)


def holder_of(run: Path) -> str:
    """In words, who has signed the lock of a run last."""
    signed = signature_of(run)
    return f"another process ({signed})" if signed else "another process"


def signature_of(run: Path) -> str:
    """Such as `pid 12 on host a`; nothing where a run's lock is held and not signed yet."""
    try:
        found = json.loads((run / LOCK).read_bytes())
        return f"pid {found['pid']} on host {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


# --- attempts that ended with their process


@contextlib.contextmanager
def begun(run: Path, max_deaths: int | None = None) -> Iterator[None]:
    """begun.json is there while somebody trains; it stays where the process dies."""
    died = deaths(run)
    if max_deaths is not None and died >= max_deaths:
        fsops.remove(run / BEGUN)
        raise DataError(
            f"{run}: the process that trained it died {died} times without finishing an epoch (killed, out "
            "of memory, crashed?); it is passed over now and tried again by the next command"
        )
    note = {"epochs": _epochs_done(run), "deaths": died}
    fsops.write_file(run / BEGUN, canonical.pretty_json(note))
    try:
        yield
    finally:
        fsops.remove(run / BEGUN)


def deaths(run: Path) -> int:
    """How many attempts in a row, begun after as many epochs as are done now, ended with their process. Of a
    run that nobody else holds.
    """
    try:
        before = json.loads((run / BEGUN).read_bytes())
        return before["deaths"] + 1 if before["epochs"] == _epochs_done(run) else 0
    except FileNotFoundError:
        return 0
    except (ValueError, KeyError, TypeError):
        return 1  # it was being written


def _epochs_done(run: Path) -> int:
    """A process that is killed may leave half a line."""
    return (run / CURVES).read_bytes().count(b"\n") if (run / CURVES).exists() else 0


# --- runs without a result


def reason(error: BaseException, run: Path | None = None) -> str:
    """The message of an error; where it was not written for users, its first line with kind and place. run:
    whose name need not begin it, for it stands next to that.
    """
    if isinstance(error, MambaVLError):
        return str(error).removeprefix(f"{run}: ")
    first_line = str(error).partition("\n")[0]
    place = ""
    if frames := traceback.extract_tb(error.__traceback__):
        place = f" (in {Path(frames[-1].filename).name}, line {frames[-1].lineno})"
    return f"{type(error).__name__}: {first_line}{place}"


def note_failure(run: Path, error: Exception) -> None:
    """Leave the reason in failure.json."""
    note = {
        "error": reason(error, run),
        "id": uuid.uuid4().hex,
    }  # the id tells two attempts with one error apart
    # the disk may be what failed; the first error is the one to report
    with contextlib.suppress(DataError):
        fsops.write_file(run / FAILURE, canonical.pretty_json(note))


def last_failure(run: Path) -> dict[str, str] | None:
    """`error` and `id` of the attempt that failed last; None where none has since training began."""
    try:
        found = json.loads((run / FAILURE).read_bytes())
        return {"error": str(found["error"]), "id": str(found["id"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return {"error": f"{run / FAILURE} is damaged", "id": ""}


def forget_failure(run: Path) -> None:
    """It goes on, also one that a search had given up."""
    fsops.remove(run / FAILURE)
    fsops.remove(run / PRUNED)


def why_unfinished(run: Path) -> str | None:
    """Why a run has no result, in words; None where it has one, or the folder is not a run at all."""
    if (run / RESULT).exists() or not ((run / RECIPE).exists() or (run / LOCK).exists()):
        return None
    if failure := last_failure(run):
        return f"failed: {failure['error']}"
    if why := why_pruned(run):
        return f"was pruned {why}"
    if not (run / RECIPE).exists():
        return "has not begun"
    try:
        epochs = read_recipe(run).train.epochs
    except UsageError as error:
        return f"has not finished, and its recipe cannot be read: {error}"
    return f"has not finished: {_epochs_done(run)} of {epochs} epochs; the command that began it resumes"
