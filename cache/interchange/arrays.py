"""Named arrays in other people's files: HDF5, npy and npz, safetensors. Opened lazily, read one at a time.

Files are untrusted. Names come from a file's or a folder's own listing and are looked up, never made into
paths; no pickle is loaded; only values that lie in the file itself are read, since a link in it may name any
file of this machine.
"""

import contextlib
import re
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mambavl.configs.errors import DataError, SystemFault, UsageError, some

HDF5_SUFFIXES = (".h5", ".hdf5")
NPY_SUFFIXES = (".npy", ".npz")
TORCH_SUFFIXES = (".pt", ".pth")
NOT_FEATURES = ("fps", "timestamps_ms")  # what video_features writes beside VIDEO_KEY.npy: when its steps are


class Arrays(NamedTuple):
    """The arrays of a source; nothing is read before it is asked for."""

    names: set[str]
    describe: Callable[[str], tuple[tuple[int, ...], str]]  # shape, dtype
    read: Callable[[str], np.ndarray]
    # frames a second that a file beside an array says it was made at, None where none does
    rate: Callable[[str], float | None] = lambda _name: None
    # (steps,) ms that a file beside an array says its steps are at, None where none does
    times: Callable[[str], np.ndarray | None] = lambda _name: None

    def squeezed(self) -> "Arrays":
        """Those of (1, steps, D), a batch of one, as (steps, D)."""

        def is_batch(name: str) -> bool:
            shape, _ = self.describe(name)
            return len(shape) == 3 and shape[0] == 1

        def describe(name: str) -> tuple[tuple[int, ...], str]:
            shape, dtype = self.describe(name)
            return (shape[1:] if is_batch(name) else shape), dtype

        def read(name: str) -> np.ndarray:
            array = self.read(name)
            return array[0] if is_batch(name) else array

        return self._replace(describe=describe, read=read)


def feature_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files of these endings in a folder; where there is none, those in its folders (of participants)."""
    inside = sorted(path for path in folder.iterdir() if path.suffix in suffixes and path.is_file())
    return inside or sorted(
        path
        for below in folder.iterdir()
        if below.is_dir()
        for path in below.iterdir()
        if path.suffix in suffixes and path.is_file()
    )


def files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """P01_101.npy -> its path. Raises DataError where there is none, or two of one name."""
    expected = f"files NAME{' or NAME'.join(suffixes)}"
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder; expected one with {expected}")
    files: dict[str, Path] = {}
    for path in feature_files(folder, suffixes):
        if path.stem in files:
            first, second = (file.relative_to(folder) for file in (files[path.stem], path))
            raise DataError(f"{folder}: holds {first} and {second}; delete one of them")
        files[path.stem] = path
    if not files:
        raise DataError(f"{folder}: holds nothing to import; expected {expected}{_instead(folder)}")
    return files


def _instead(folder: Path) -> str:
    """What else a folder holds, and how files of torch are read."""
    endings = sorted({path.suffix for path in folder.rglob("*") if path.is_file()})
    if set(TORCH_SUFFIXES) & set(endings):
        return "; it holds files of torch: --format torch"
    return f"; it holds files {', '.join(endings[:5])}" if endings else ""


@contextlib.contextmanager
def readable(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn what a reader says of a damaged file into a DataError that names it; SystemFault where it was the
    system that failed.
    """
    expected: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    try:
        yield
    except expected + errors as error:
        said = str(error).splitlines()
        kind = SystemFault if _is_of_the_system(error) else DataError
        raise kind(f"{path}: cannot be read ({said[0] if said else type(error).__name__})") from None


def _is_of_the_system(error: Exception) -> bool:
    """HDF5 says `errno = 5` in its words, and raises OSError for damaged content too."""
    if not isinstance(error, OSError):
        return False
    return error.errno is not None or re.search(r"errno = [1-9]", str(error)) is not None


# --- HDF5


def hdf5_arrays(source: Path, dataset: str | None, stack: contextlib.ExitStack) -> Arrays:
    """A folder of NAME.h5, each with one dataset, or one file with a dataset for each name; `dataset` says
    which of several.
    """
    if source.is_dir():
        files = files_by_stem(source, HDF5_SUFFIXES)

        def use(name: str, what: Callable[[Any], Any]) -> Any:
            with open_hdf5(files[name]) as file, readable(files[name]):
                return what(_dataset(file, dataset, files[name]))

        names = set(files)
    else:
        whole = stack.enter_context(open_hdf5(source))

        def use(name: str, what: Callable[[Any], Any]) -> Any:
            with readable(source):
                return what(_dataset(hdf5_node(whole, name, source), dataset, source))

        names = set(whole)
    return Arrays(
        names,
        lambda name: use(name, lambda d: (d.shape, d.dtype.name)),
        lambda name: use(name, lambda d: d[()]),
    )


def open_hdf5(path: Path) -> Any:
    import h5py

    with readable(path):
        return h5py.File(path, "r")


def hdf5_node(group: Any, name: str, where: Path) -> Any:
    """A group or a dataset of an HDF5 file that lies in this file."""
    import h5py

    for part in name.split("/"):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            raise DataError(f"{where}: has no {name!r}")
        if not isinstance(link, h5py.HardLink):
            raise DataError(
                f"{where}: {name} is a link, and links are not followed; copy the data into the file"
            )
        group = group[part]
    if isinstance(group, h5py.Dataset) and (group.is_virtual or group.external):
        raise DataError(f"{where}: {name} keeps its values in other files; copy them into this one")
    return group


def _dataset(node: Any, name: str | None, where: Path) -> Any:
    import h5py

    if isinstance(node, h5py.Group):
        names = [name] if name else list(node)
        if len(names) != 1:
            raise UsageError(
                f"{where}: {node.name} holds {some(names) or 'nothing'}; name one with --set dataset=NAME"
            )
        node = hdf5_node(node, names[0], where)
    if not isinstance(node, h5py.Dataset):
        raise DataError(f"{where}: {node.name} is a group; name a dataset with --set dataset=NAME")
    return node


# --- safetensors


def safetensors_arrays(source: Path, stack: contextlib.ExitStack) -> Arrays:
    """One file with a tensor for each name."""
    import torch
    from safetensors import SafetensorError, safe_open

    dtypes = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
    if source.is_dir():
        raise DataError(f"{source}: is a folder; expected a .safetensors file")
    with readable(source, SafetensorError):
        file = stack.enter_context(safe_open(source, framework="pt"))

    def describe(name: str) -> tuple[tuple[int, ...], str]:
        part = file.get_slice(name)
        return tuple(part.get_shape()), dtypes.get(part.get_dtype(), part.get_dtype())

    def read(name: str) -> np.ndarray:
        tensor = file.get_tensor(name)
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

    return Arrays(set(file.keys()), describe, read)


# --- npy and npz


def npy_arrays(source: Path, dataset: str | None, videos: Collection[str] = ()) -> Arrays:
    """A folder of NAME.npy, memory-mapped, or NAME.npz; `dataset` says which array of an npz.

    Of `videos`, VIDEO.MP4.npy is taken as well, and VIDEO_KEY.npy; of several keys `dataset` says which.
    """
    files = files_by_stem(source, NPY_SUFFIXES)
    named = named_files(files, dataset, videos)

    def describe(name: str) -> tuple[tuple[int, ...], str]:
        with _npy_stream(*named[name]) as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
            return shape, dtype.name

    def read(name: str) -> np.ndarray:
        path, array = named[name]
        if path.suffix == ".npy":
            with readable(path):
                return np.load(path, mmap_mode="r", allow_pickle=False)
        with _npy_stream(path, array) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    def beside(name: str, what: str) -> np.ndarray | None:
        path = files.get(f"{name}_{what}")
        if path is None or path.suffix != ".npy":
            return None
        with readable(path, TypeError):
            return np.load(path, allow_pickle=False).astype(np.float64)

    def rate(name: str) -> float | None:
        found = beside(name, "fps")
        if found is not None and found.size != 1:
            raise DataError(f"{files[f'{name}_fps']}: holds {found.size:,} numbers; expected one, the rate")
        return None if found is None else float(found.item())

    return Arrays(set(named), describe, read, rate, lambda name: beside(name, "timestamps_ms"))


def named_files(
    files: dict[str, Path], dataset: str | None, videos: Collection[str]
) -> dict[str, tuple[Path, str | None]]:
    """Name -> file and which array of it. files: by stem. VIDEO.MP4 is VIDEO, and VIDEO_KEY too, of several
    keys the one that `dataset` says; what is known to be no features is left out.
    """
    named = _of_videos(files, dataset, videos)
    taken = {path for path, _ in named.values()}
    for stem, path in files.items():
        if path not in taken and _video_and_key(stem, videos)[1] not in NOT_FEATURES:
            named[stem] = (path, dataset)
    return named


def _of_videos(
    files: dict[str, Path], dataset: str | None, videos: Collection[str]
) -> dict[str, tuple[Path, str | None]]:
    """Video -> its file and which array of it, of those whose file is not simply named after the video."""
    keyed: dict[str, dict[str, Path]] = {}  # video -> KEY -> file
    for stem, path in files.items():
        video, key = _video_and_key(stem, videos)
        if video and video not in files and key not in NOT_FEATURES:
            keyed.setdefault(video, {})[key] = path
    found: dict[str, tuple[Path, str | None]] = {}
    for video, paths in keyed.items():
        if dataset in paths:
            found[video] = (paths[dataset], None)
        elif len(paths) == 1:
            (path,) = paths.values()
            found[video] = (path, dataset)
        else:
            raise UsageError(
                f"{', '.join(map(str, paths.values()))} are all of {video}; name one with --set dataset=KEY "
                f"({', '.join(paths)})"
            )
    return found


def _video_and_key(stem: str, videos: Collection[str]) -> tuple[str, str]:
    """P01_101_rgb -> P01_101, rgb; P01_101.MP4 -> P01_101, and no key. Empty for what names no video so; a
    number is no key, since P01_101_0 is a row.
    """
    video, dot, ending = stem.rpartition(".")
    if dot and video in videos and re.fullmatch(r"[A-Za-z0-9]{2,4}", ending):
        return video, ""
    for cut in (place.start() for place in re.finditer("_", stem)):
        if stem[:cut] in videos and not stem[cut + 1 :].isdigit():
            return stem[:cut], stem[cut + 1 :]
    return "", ""


@contextlib.contextmanager
def _npy_stream(path: Path, dataset: str | None) -> Iterator[Any]:
    """The bytes of an npy file, or of one array of an npz file."""
    with contextlib.ExitStack() as stack, readable(path):
        if path.suffix == ".npy":
            yield stack.enter_context(open(path, "rb"))
            return
        archive = stack.enter_context(zipfile.ZipFile(path))
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if (dataset and dataset not in names) or (not dataset and len(names) != 1):
            asked = (
                f"there is no array {dataset!r}"
                if dataset
                else "there are several arrays, name one with --set dataset=NAME"
            )
            raise UsageError(f"{path}: {asked}; it holds {', '.join(names)}")
        yield stack.enter_context(archive.open(f"{dataset or names[0]}.npy"))
