"""Scores that numpy and torch pickled, and files that would rather run something."""

import os
import pickle

import numpy as np
import pytest
import torch

from mambavl.fuse.score_pickles import read_untrusted

VERB = np.array([[0.5, -1.0, 2.0], [3.0, 0.25, -0.5]], np.float32)
IDS = ["P01_101_6", "P01_101_7"]


def read(path):
    """As in the child, without one."""
    read_untrusted(str(path), str(path.with_suffix(".npz")))
    with np.load(path.with_suffix(".npz")) as found:
        return dict(found)


def forms():
    by_row = [{"verb_output": one, "narration_id": name} for one, name in zip(VERB, IDS, strict=True)]
    return {
        "a dict of arrays": {"verb_output": VERB, "narration_id": np.array(IDS)},
        "lists": {"verb_output": VERB.tolist(), "narration_id": IDS},
        "a list of dicts": by_row,
        "a dict by id": {name: {"verb_output": one} for one, name in zip(VERB, IDS, strict=True)},
        "texts as objects": {"verb_output": VERB, "narration_id": np.array(IDS, object)},
        "numpy texts": {"verb_output": list(VERB), "narration_id": list(np.array(IDS))},
        "another order in memory": {"verb_output": np.asfortranarray(VERB), "narration_id": IDS},
        "big-endian": {"verb_output": VERB.astype(">f4"), "narration_id": IDS},
    }


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("form", forms())
def test_pickles_of_numpy_are_read_whatever_their_form_and_protocol(form, protocol, tmp_path):
    (tmp_path / "f.pkl").write_bytes(pickle.dumps(forms()[form], protocol))
    found = read(tmp_path / "f.pkl")
    np.testing.assert_array_equal(found["verb_output"], VERB)
    assert found["narration_id"].tolist() == IDS


@pytest.mark.parametrize("whole", [True, False])
def test_files_of_torch_are_read_in_both_formats(whole, tmp_path):
    tensor = torch.tensor(VERB)
    made = {"verb_output": tensor if whole else list(tensor), "narration_id": IDS, "half": tensor.bfloat16()}
    torch.save(made, tmp_path / "f.pt")
    found = read(tmp_path / "f.pt")
    np.testing.assert_array_equal(found["verb_output"], VERB)
    np.testing.assert_array_equal(found["half"], VERB)
    assert found["half"].dtype == np.float32


def test_pages_of_an_old_numpy_are_found_under_its_new_name(tmp_path):
    """numpy 1 called its modules numpy.core."""
    old = pickle.dumps({"verb": VERB, "narration_id": IDS}, 2).replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core" in old
    (tmp_path / "f.pkl").write_bytes(old)
    np.testing.assert_array_equal(read(tmp_path / "f.pkl")["verb"], VERB)


class Runs:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({"verb": Runs()}, "asks for posix.system, which is no part of scores"),
        ([VERB], "holds a list and no arrays by name"),
        ({}, "holds a dict and no arrays by name"),
        ([{"verb": VERB[0]}, {"noun": VERB[0]}], "row 1 has other keys than row 0"),
        ({"verb": [[1.0], [1.0, 2.0]]}, "rows of verb are of several lengths"),
        ({"verb": [None, 1.0]}, "verb holds neither numbers nor texts"),
        ({"verb": np.array([{}, 1.0], object)}, "verb holds neither numbers nor texts"),
        ({"verb": np.float64(1).dtype.type}, "asks for numpy.float64"),
    ],
)
def test_whatever_is_no_scores_is_refused_and_nothing_runs(made, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.pkl").write_bytes(pickle.dumps(made))
    with pytest.raises(pickle.UnpicklingError, match=says):
        read(tmp_path / "f.pkl")
    torch.save(made, tmp_path / "f.pt")
    with pytest.raises(pickle.UnpicklingError, match=says):
        read(tmp_path / "f.pt")
    assert not (tmp_path / "ran").exists()
