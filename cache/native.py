"""Finding the plain C libraries that the install built next to their callers; they are loaded through ctypes,
never imported.
"""

import ctypes
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path


def load(folder: Path, name: str, version: int) -> tuple[ctypes.CDLL | None, str]:
    """(the library `_NAME` of a folder, ""), or (None, why it cannot be used): its mambavl_NAME_version()
    must be `version`.
    """
    candidates = [folder / f"_{name}{suffix}" for suffix in EXTENSION_SUFFIXES]
    built = next(filter(Path.exists, candidates), None)
    if built is None:
        return None, "it was not built; install a C compiler (gcc or clang), then reinstall mambavl"
    try:
        library = ctypes.CDLL(str(built))
        found = getattr(library, f"mambavl_{name}_version")()
    except (OSError, AttributeError) as error:
        return None, f"{built.name} cannot be loaded ({error}); reinstall mambavl"
    if found != version:
        return None, f"{built.name} was built from another version of mambavl; reinstall mambavl"
    return library, ""
