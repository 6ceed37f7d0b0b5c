"""Named arrays in others' files: listed without reading, read one at a time, and never out of the file."""

import contextlib

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mambavl.cache.interchange.arrays import (
    feature_files,
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


def test_files_in_folders_of_participants_are_found(tmp_path):
    (tmp_path / "P01").mkdir()
    np.save(tmp_path / "P01" / "P01_1.npy", VALUES)
    assert_holds(npy_arrays(tmp_path, None))
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "P01_1.npy", VALUES)
    with pytest.raises(DataError, match=r"holds P01/P01_1\.npy and other/P01_1\.npy; delete one of them"):
        npy_arrays(tmp_path, None)
    np.save(tmp_path / "P01_1.npy", VALUES)
    assert feature_files(tmp_path, (".npy",)) == [tmp_path / "P01_1.npy"]  # as before there were others


@pytest.mark.parametrize("name", ["P01_1.MP4", "P01_1.mkv", "P01_1_rgb", "P01_1_clip_vit"])
def test_what_stands_behind_a_video_in_a_name_is_read(tmp_path, name):
    np.save(tmp_path / f"{name}.npy", VALUES)
    np.save(tmp_path / "P01_1_timestamps_ms.npy", np.zeros(2))
    assert_holds(npy_arrays(tmp_path, None, {"P01_1", "P01_10"}))
    np.save(tmp_path / "P01_1.npy", VALUES)  # its own name comes first
    assert npy_arrays(tmp_path, None, {"P01_1"}).names == {"P01_1", name}


def test_the_rate_that_video_features_writes_is_known(tmp_path):
    np.save(tmp_path / "P01_1_rgb.npy", VALUES)
    np.save(tmp_path / "P01_1_fps.npy", np.array(29.97))
    arrays = npy_arrays(tmp_path, None, {"P01_1"})
    assert_holds(arrays)
    assert arrays.rate("P01_1") == 29.97
    assert arrays.rate("P01_2") is None
    assert arrays.times("P01_1") is None
    np.save(tmp_path / "P01_1_timestamps_ms.npy", np.array([0, 33]))
    assert npy_arrays(tmp_path, None, {"P01_1"}).times("P01_1").tolist() == [0.0, 33.0]


def test_a_batch_of_one_is_read_as_what_is_in_it(tmp_path):
    np.save(tmp_path / "P01_1.npy", VALUES[None])
    assert_holds(npy_arrays(tmp_path, None).squeezed())
    np.save(tmp_path / "P01_1.npy", np.stack([VALUES, VALUES]))
    assert npy_arrays(tmp_path, None).squeezed().describe("P01_1")[0] == (2, 2, 3)


def test_of_several_kinds_of_features_one_is_named(tmp_path):
    np.save(tmp_path / "P01_1_rgb.npy", VALUES)
    np.save(tmp_path / "P01_1_flow.npy", VALUES + 1)
    with pytest.raises(UsageError, match=r"are all of P01_1; name one with --set dataset=KEY \(flow, rgb\)"):
        npy_arrays(tmp_path, None, {"P01_1"})
    np.testing.assert_array_equal(npy_arrays(tmp_path, "rgb", {"P01_1"}).read("P01_1"), VALUES)


def test_a_row_is_no_kind_of_features(tmp_path):
    np.save(tmp_path / "P01_1_0.npy", VALUES)
    assert npy_arrays(tmp_path, None, {"P01_1"}).names == {"P01_1_0"}


def test_a_folder_of_other_files_says_what_it_holds(tmp_path):
    (tmp_path / "P01").mkdir()
    (tmp_path / "P01" / "a.pkl").touch()
    with pytest.raises(DataError, match=r"holds nothing to import; expected .*; it holds files \.pkl$"):
        npy_arrays(tmp_path, None)
    (tmp_path / "a.pt").touch()
    with pytest.raises(DataError, match=r"it holds files of torch: --format torch$"):
        npy_arrays(tmp_path, None)


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
