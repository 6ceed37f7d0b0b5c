"""Checkpoints of strangers: what is theirs is read, what would run does not."""

import argparse
import collections
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.published.checkpoints import Inert, Unpickler, read_checkpoint

STATE = {"visual.proj.weight": torch.arange(6.0).view(2, 3), "visual.norm.bias": torch.ones(3)}


class Calls:
    """Pickles as a call of any function with any arguments."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def same(found):
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[k], v) for k, v in STATE.items())


@pytest.mark.usefixtures("forked_readers")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("around", ["", "model_state", "state_dict"])
def test_the_layouts_of_published_checkpoints(tmp_path, zipped, around):
    """Optimiser states, argparse namespaces, numpy numbers and loggers lie around the weights; the old format
    and the new.
    """
    beside = {
        "epoch": 7,
        "args": argparse.Namespace(lr=0.1, out=Path("x")),
        "best_acc1": np.float64(0.5),
        "cfg": "a: 1",
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "scaler": collections.Counter("ab"),
    }
    file = tmp_path / "a.pth"
    torch.save(
        {**beside, around: collections.OrderedDict(STATE)} if around else STATE,
        file,
        _use_new_zipfile_serialization=zipped,
    )
    found, left_out = read_checkpoint(file)
    same(found)
    assert left_out == (list(beside) if around else [])


def test_parameters_and_shared_and_transposed_tensors_come_as_they_are(tmp_path):
    weight = torch.nn.Parameter(torch.randn(4, 3))
    torch.save(
        {"state_dict": {"a": weight, "b": weight.detach(), "c": weight.detach().t()[1:]}}, tmp_path / "a.pt"
    )
    found, _ = read_checkpoint(tmp_path / "a.pt")
    assert torch.equal(found["a"], weight.detach())
    assert torch.equal(found["c"], weight.detach().t()[1:])


def hostile(folder: Path) -> dict[str, tuple[Path, str]]:
    """name -> (file, what the error says). Each that can would write the file `ran`."""
    ran = folder / "ran"
    files: dict[str, tuple[Path, str]] = {}

    def saved(name, thing, says, **options):
        torch.save(thing, folder / f"{name}.pth", **options)
        files[name] = folder / f"{name}.pth", says

    def raw(name, content, says):
        (folder / f"{name}.pth").write_bytes(content)
        files[name] = folder / f"{name}.pth", says

    write = f"open({str(ran)!r}, 'w').write('x')"
    for zipped in (True, False):
        kind = "zip" if zipped else "old"
        options = {"_use_new_zipfile_serialization": zipped}
        saved(f"{kind}-system", Calls(os.system, f"touch {ran}"), "not weights by name", **options)
        saved(f"{kind}-exec", {"model_state": Calls(exec, write)}, "holds no weights", **options)
        saved(f"{kind}-eval", {"state_dict": {"a": Calls(eval, write)}}, "holds no weights", **options)
    saved("open", {"state_dict": Calls(io.open, str(ran), "w")}, "holds no weights")
    saved("nothing", {}, "it has nothing")
    saved("list", [1, 2], "holds a list, not weights")
    saved("no-weights", {"epoch": 1, "args": argparse.Namespace(a=1)}, "it has epoch, args")
    raw("pickle", pickle.dumps(Calls(os.system, f"touch {ran}")), "cannot be read")
    raw("empty", b"", "cannot be read")
    raw("text", b"<html>404</html>", "cannot be read")
    whole = io.BytesIO()
    torch.save({"model_state": STATE}, whole)
    raw("cut", whole.getvalue()[:-200], "cannot be read")
    raw("half", whole.getvalue()[: len(whole.getvalue()) // 2], "cannot be read")
    with zipfile.ZipFile(folder / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 2**24)
        archive.writestr("archive/version", "3")
    files["bomb"] = folder / "bomb.pth", "compressed entries"
    with zipfile.ZipFile(folder / "program.pth", "w") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps(1))
        archive.writestr("archive/data.pkl", pickle.dumps(1))
    files["program"] = folder / "program.pth", "TorchScript program"
    with zipfile.ZipFile(folder / "empty-zip.pth", "w"):
        pass
    files["empty-zip"] = folder / "empty-zip.pth", "cannot be read"
    torch.save(
        {
            "model_state": {
                "a": Calls(
                    torch._utils._rebuild_tensor_v2,
                    torch.zeros(2).untyped_storage(),
                    0,
                    (9**9,),
                    (1,),
                    False,
                    {},
                )
            }
        },
        folder / "beyond.pth",
    )
    files["beyond"] = folder / "beyond.pth", "cannot be read"
    torch.save(
        {"model_state": {"a": Calls(torch.load, str(folder / "zip-system.pth"))}},
        folder / "loads-another.pth",
    )
    files["loads-another"] = folder / "loads-another.pth", "holds no weights"
    return files


@pytest.mark.usefixtures("forked_readers")
def test_hostile_and_broken_files_run_nothing_and_are_named(tmp_path):
    files = hostile(tmp_path)
    assert len(files) >= 20
    for name, (file, says) in files.items():
        with pytest.raises(UsageError, match=says) as raised:
            read_checkpoint(file)
        assert str(file) in str(raised.value), name
        assert "\n" not in str(raised.value), name
        assert not (tmp_path / "ran").exists(), name
    with pytest.raises(UsageError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "absent.pth")


@pytest.mark.parametrize("name", ["system", "getattr", "Storage.x"])
def test_any_other_name_is_inert(name):
    found = Unpickler(io.BytesIO(b"")).find_class("os", name)
    assert issubclass(found, Inert)
    thing = found(1, a=2)
    thing["a"] = 1
    thing.append(1)
    thing.extend([1])
    thing.__setstate__({"a": 1})
    assert vars(thing) == {}
