"""Damage done to the files of a finished store, and what is found of it."""

from mambavl.cache.spec import ENVIRONMENT
from mambavl.cache.verify import verify
from mambavl.configs.errors import DataError


def content(path):
    """The finished store: journals and the record of the environment aside."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and file.parent.name != "commit")
    return {str(file.relative_to(path)): file.read_bytes() for file in files if file.name != ENVIRONMENT}


def damage(file, kind="flip"):
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    if kind == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif kind == "cut":
        file.write_bytes(data[: len(data) // 2])
    else:
        file.unlink()


def faults_of(path):
    try:
        return verify(path, deep=True)
    except DataError as error:
        return [str(error)]
