"""Named arrays in others' files: listed without reading, read one at a time, and never out of the file."""

import contextlib

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mambavl.cache.interchange.arrays import (
    files_by_stem,
    hdf5_arrays,
    npy_arrays,
    readable,
    safetensors_arrays,
)
from mambavl.configs.errors import DataError, SystemFault, UsageError

VALUES = np.arange(6, dtype=np.float16).reshape(2, 3)


@pytest.fixture
def stack():
    with contextlib.ExitStack() as opened:
        yield opened


def assert_holds(arrays, name="P01_1"):
    assert arrays.names == {name}
    assert arrays.describe(name) == ((2, 3), "float16")
    np.testing.assert_array_equal(arrays.read(name), VALUES)


def test_an_hdf5_file_has_a_dataset_for_each_name(tmp_path, stack):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["P01_1"] = VALUES
    assert_holds(hdf5_arrays(tmp_path / "f.h5", None, stack))


def test_a_folder_of_hdf5_files_has_one_for_each_name(tmp_path, stack):
    with h5py.File(tmp_path / "P01_1.h5", "w") as file:
        file["a"], file["b"] = VALUES, VALUES
    assert_holds(hdf5_arrays(tmp_path, "b", stack))
    with pytest.raises(UsageError, match="holds a, b; name one with --set dataset=NAME"):
        hdf5_arrays(tmp_path, None, stack).read("P01_1")


def test_links_in_an_hdf5_file_are_not_followed(tmp_path, stack):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["P01_1"] = h5py.ExternalLink("other.h5", "secret")
    with pytest.raises(DataError, match="P01_1 is a link, and links are not followed"):
        hdf5_arrays(tmp_path / "f.h5", None, stack).read("P01_1")


def test_npy_and_npz_files_are_found_by_their_stem(tmp_path):
    np.save(tmp_path / "P01_1.npy", VALUES)
    assert_holds(npy_arrays(tmp_path, None))
    np.savez(tmp_path / "P01_1.npz", VALUES)
    with pytest.raises(DataError, match=r"holds P01_1\.npy and P01_1\.npz; delete one of them"):
        npy_arrays(tmp_path, None)
    (tmp_path / "P01_1.npy").unlink()
    assert_holds(npy_arrays(tmp_path, None))


def test_of_several_arrays_in_an_npz_one_is_named(tmp_path):
    np.savez(tmp_path / "P01_1.npz", a=VALUES, b=VALUES)
    assert_holds(npy_arrays(tmp_path, "b"))
    with pytest.raises(UsageError, match="there are several arrays"):
        npy_arrays(tmp_path, None).read("P01_1")
    with pytest.raises(UsageError, match="there is no array 'c'; it holds a, b"):
        npy_arrays(tmp_path, "c").read("P01_1")


def test_safetensors_are_read_one_at_a_time_and_bfloat16_becomes_float32(tmp_path, stack):
    tensors = {"P01_1": torch.from_numpy(VALUES), "half": torch.ones(2, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "f.safetensors")
    arrays = safetensors_arrays(tmp_path / "f.safetensors", stack)
    assert arrays.names == {"P01_1", "half"}
    assert arrays.describe("half") == ((2,), "bfloat16")
    assert arrays.read("half").dtype == np.float32
    np.testing.assert_array_equal(arrays.read("P01_1"), VALUES)


def test_a_folder_without_files_says_what_it_should_hold(tmp_path):
    with pytest.raises(DataError, match=r"holds nothing to import; expected files NAME\.h5 or NAME\.hdf5"):
        files_by_stem(tmp_path, (".h5", ".hdf5"))
    with pytest.raises(DataError, match="is not a folder"):
        files_by_stem(tmp_path / "nowhere", (".h5",))


def test_what_a_reader_says_of_a_damaged_file_names_the_file(tmp_path):
    with pytest.raises(DataError, match=r"f\.h5: cannot be read \(first line\)"), readable(tmp_path / "f.h5"):
        raise ValueError("first line\nsecond line")
    with pytest.raises(DataError, match=r"cannot be read \(EOFError\)"), readable(tmp_path / "f.h5"):
        raise EOFError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(5, "Input/output error"), SystemFault),
        (FileNotFoundError(2, "Unable to synchronously open file"), SystemFault),
        (OSError("Can't read data (file read failed: errno = 116, error message = 'Stale')"), SystemFault),
        (OSError("Unable to synchronously open file (truncated file: eof = 96)"), DataError),
        (OSError("Can't read data (errno = 0)"), DataError),
        (ValueError("errno = 5"), DataError),
    ],
)
def test_what_the_system_says_is_told_apart_from_what_the_file_holds(tmp_path, error, kind):
    with pytest.raises(DataError) as caught, readable(tmp_path / "f.h5"):
        raise error
    assert type(caught.value) is kind
