"""Somebody's function, named as `package.module:function`: finding it, calling it, and what a store's spec
says of its code.

The module is found as `python -m` finds one: in the folder that the command was started in, then in what is
installed. Importing a module runs it, so only a name that the user gave is ever imported, never one that a
store brought along.
"""

import functools
import hashlib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import torch

from mambavl.configs.errors import MambaVLError, UsageError, did_you_mean


def is_path(name: str) -> bool:
    """Is it written as `package.module:function`?"""
    module, _, function = name.partition(":")
    return function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def find(name: str) -> tuple[ModuleType, Callable[..., Any]]:
    """The module and the function that `module:function` names; the module is imported, which runs it.

    Raises UsageError where there is none.
    """
    module = _imported(name)
    wanted = name.partition(":")[2]
    function = getattr(module, wanted, None)
    if callable(function):
        return module, function
    known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    what = f"there is no function {wanted!r}" if function is None else f"{wanted!r} is not a function"
    raise UsageError(f"encoder {name}: {what} in {module.__file__}{did_you_mean(wanted, known)}")


def _imported(name: str) -> ModuleType:
    module = name.partition(":")[0]
    if not {"", os.getcwd()} & set(sys.path):
        # as `python -m` does, and for good: it may import a neighbour only when it is called
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()  # the file may be younger than the last look into its folder
    try:
        with blamed(f"encoder {name}: importing {module} failed"):
            found = importlib.import_module(module)
    except UsageError as error:
        missing = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            raise UsageError(
                f"encoder {name}: there is no module {missing!r} in {os.getcwd()} or installed; "
                "run the command from the folder that holds it, or put that on "
                "PYTHONPATH (`mambavl encoders list` shows the names that need none)"
            ) from error
        raise
    source_sha256(name, found)
    return found


def call(name: str, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """What the function returns. Raises UsageError where it does not take these arguments, or fails."""
    called = name.partition(":")[2]
    _refuse_arguments(name, function, arguments)
    shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    with blamed(f"encoder {name}: {called}({shown}) failed"):
        return function(**arguments)


def _refuse_arguments(name: str, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Before the call, so that a TypeError inside the function is not taken for one of its arguments."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # a function of C has none; the call will tell
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        shown = ", ".join(f"{key}=" for key in arguments)
        raise UsageError(
            f"encoder {name}: cannot be called as {name.partition(':')[2]}({shown}): {error}. "
            "It takes weights= and image_size= where they are given, and needs nothing else"
        ) from None


@contextmanager
def blamed(doing: str) -> Iterator[None]:
    """Somebody's exception as a UsageError that says what was being done, what was raised and where."""
    try:
        yield
    except MambaVLError:
        raise
    # a module that exits when it is imported would end the command with its own code
    except (Exception, SystemExit) as error:
        raise UsageError(f"{doing}: {described(error)}") from error


def described(error: BaseException) -> str:
    """An exception in one line: its type, its first line, and the last place on its way that is not in
    torch.
    """
    lines = str(error).strip().splitlines()
    library = str(Path(torch.__file__).parent)
    places = traceback.extract_tb(error.__traceback__)
    own = [place for place in places if not place.filename.startswith((library, "<"))]
    said = f": {lines[0]}" if lines else ""
    where = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}{said}{where}"


# --- what a store's spec says of it


# reads every installed package: 0.13 s, at each build
_distributions = functools.cache(metadata.packages_distributions)
# sha256 of a module's file when it was imported here
_SOURCES: WeakKeyDictionary[ModuleType, str] = WeakKeyDictionary()


def source_sha256(name: str, module: ModuleType) -> str:
    """sha256 of the file that a module was imported from. Raises UsageError where it has none or was edited
    since.
    """
    if not module.__file__:
        raise UsageError(
            f"encoder {name}: {module.__name__} has no file, so a store could not say what made its features"
        )
    digest = hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()
    if _SOURCES.setdefault(module, digest) != digest:
        raise UsageError(
            f"encoder {name}: {module.__file__} was edited after it was imported; start a new process"
        )
    return digest


def code_details(name: str, module: ModuleType, function: Callable[..., Any], made: object) -> dict[str, Any]:
    """Which code made the features: the files of the function and of the class of what it `made`, where they
    belong to one package, and that package's version. Raises UsageError as `source_sha256` does.
    """
    package = module.__name__.partition(".")[0]
    holders = {module.__name__, str(getattr(function, "__module__", "")), type(made).__module__}
    sources = {}
    for holder in sorted(holders & sys.modules.keys()):
        if holder.partition(".")[0] == package:
            sources[holder] = source_sha256(name, sys.modules[holder])
    details: dict[str, Any] = {"function": name, "source_sha256": sources}
    distributions = set(_distributions().get(package, []))
    if distributions:
        details["package"] = sorted(f"{dist} {metadata.version(dist)}" for dist in distributions)
    return details
