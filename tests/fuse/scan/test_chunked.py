"""The scan by chunks: how its work is cut changes nothing. (Closed forms: test_reference.py; the grid of all
options: test_backends.py.)
"""

import pytest
import torch

from helpers.scan import assert_close, draw, run
from mambavl.fuse.scan import chunked


@pytest.mark.parametrize("coefficients", ["step", "groups", "constant"])
@pytest.mark.parametrize("pooled", [False, True])
def test_rows_cut_into_parts_give_what_they_give_together(monkeypatch, coefficients, pooled):
    x, lengths = draw(batch=5, length=40, coefficients=coefficients), torch.tensor([40, 0, 7, 33, 32])
    together = run(x, "chunked", pooled=pooled, lengths=lengths)
    monkeypatch.setattr(chunked, "BYTES", 2 * 32 * x["A"].numel() * 4)  # two rows at a time
    assert_close(run(x, "chunked", pooled=pooled, lengths=lengths), together, 1e-6, 1e-5)


@pytest.mark.parametrize("size", [1, 3, 40, 64])
def test_the_length_of_a_chunk_changes_nothing(monkeypatch, size):
    x = draw(length=40)
    expected = run(x, "reference", torch.float64)
    monkeypatch.setattr(chunked, "CHUNK", size)
    assert_close(run(x, "chunked"), expected)


def test_the_slope_of_exact_hold_is_that_of_its_value():
    x = (torch.arange(-20, 21, dtype=torch.float64) / 8).requires_grad_()
    value, slope = chunked._phi(x, torch.exp(x))
    [expected] = torch.autograd.grad((torch.expm1(x) / x).nan_to_num(1.0).sum(), x)
    torch.testing.assert_close(value[x != 0], (torch.expm1(x) / x)[x != 0])
    torch.testing.assert_close(slope[x != 0], expected[x != 0])
    assert value[20].item() == 1.0
    assert slope[20].item() == 0.5
