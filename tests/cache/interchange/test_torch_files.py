"""Files of torch: a tensor or a dict of them, and nothing that runs."""

import numpy as np
import pytest
import torch

from mambavl.cache.interchange.torch_files import torch_arrays
from mambavl.configs.errors import DataError, UsageError

VALUES = torch.arange(6, dtype=torch.float16).reshape(2, 3)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("name", ["P01_1.pt", "P01_1.pth", "P01_1.MP4.pt", "P01_1_rgb.pt", "P01/P01_1.pt"])
def test_a_tensor_is_read_by_the_name_of_its_file(tmp_path, name, is_zip):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    torch.save(VALUES, tmp_path / name, _use_new_zipfile_serialization=is_zip)
    arrays = torch_arrays(tmp_path, None, {"P01_1"})
    assert arrays.names == {"P01_1"}
    assert arrays.describe("P01_1") == ((2, 3), "float16")
    np.testing.assert_array_equal(arrays.read("P01_1"), VALUES.numpy())


def test_what_numpy_does_not_have_becomes_single(tmp_path):
    torch.save(VALUES.bfloat16().requires_grad_(), tmp_path / "P01_1.pt")
    arrays = torch_arrays(tmp_path, None)
    assert arrays.describe("P01_1") == ((2, 3), "bfloat16")
    assert arrays.read("P01_1").dtype == np.float32
    np.testing.assert_array_equal(arrays.read("P01_1"), VALUES.numpy())


def test_of_several_tensors_one_is_named(tmp_path):
    torch.save({"rgb": VALUES, "flow": VALUES + 1, "fps": 30.0}, tmp_path / "P01_1.pt")
    with pytest.raises(UsageError, match=r"is a dict; name one with --set dataset=NAME; it holds rgb, flow$"):
        torch_arrays(tmp_path, None).read("P01_1")
    with pytest.raises(UsageError, match=r"has no tensor 'fps'; it holds rgb, flow$"):
        torch_arrays(tmp_path, "fps").read("P01_1")
    np.testing.assert_array_equal(torch_arrays(tmp_path, "rgb").read("P01_1"), VALUES.numpy())
    torch.save({"rgb": VALUES, "fps": 30.0}, tmp_path / "P01_1.pt")
    np.testing.assert_array_equal(torch_arrays(tmp_path, None).read("P01_1"), VALUES.numpy())


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a program ran",))


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")  # which nobody asked for
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (Evil(), r"cannot be read \(Weights only load failed"),
        ([1, 2], "holds no tensor but a list"),
        (torch.eye(2).to_sparse(), "holds a sparse tensor"),
    ],
)
def test_what_is_no_tensor_is_refused_and_never_run(tmp_path, content, said):
    torch.save(content, tmp_path / "P01_1.pt")
    with pytest.raises(DataError, match=said):
        torch_arrays(tmp_path, None).read("P01_1")


@pytest.mark.parametrize("data", [b"", b"no tensor", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_file_of_torch_is_named(tmp_path, data):
    (tmp_path / "P01_1.pt").write_bytes(data)
    with pytest.raises(DataError, match=r"P01_1\.pt: cannot be read"):
        torch_arrays(tmp_path, None).read("P01_1")
