"""Mixup: shares that belong to rows, partners that stand beside each other, means weighed by hand."""

import numpy as np
import pytest
import torch

from mambavl.fuse.mixup import draw_shares, mixed, partners


def test_shares_are_drawn_for_every_row_of_an_epoch_from_its_seed():
    shares = draw_shares(0.4, 3, 5, 2000)
    assert shares.dtype == np.float32
    np.testing.assert_array_equal(shares, draw_shares(0.4, 3, 5, 2000))
    for other in (draw_shares(0.4, 4, 5, 2000), draw_shares(0.4, 3, 6, 2000)):
        assert abs(np.corrcoef(shares, other)[0, 1]) < 0.1
    assert draw_shares(0.0, 3, 5, 2000) is None


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_have_the_moments_of_their_distribution(alpha):
    """Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1))."""
    shares = draw_shares(alpha, 0, 0, 20000).astype(float)
    assert shares.mean() == pytest.approx(0.5, abs=0.01)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


@pytest.mark.parametrize(("rows", "places"), [(1, [0]), (2, [1, 0]), (5, [1, 0, 3, 2, 4]), (0, [])])
def test_partners_stand_beside_each_other(rows, places):
    assert partners(rows).tolist() == places


def test_a_row_is_a_mean_of_itself_and_its_partner():
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0], [5.0, 5.0]])
    found = mixed(x, torch.tensor([0.25, 0.5, 0.1]))
    torch.testing.assert_close(found, torch.tensor([[2.5, 5.0], [2.0, 4.0], [5.0, 5.0]]))
