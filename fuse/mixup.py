"""Mixup: rows of a batch in pairs, each seen as a mean of the two and asked for the labels of both.

    h_i' = s_i h_i + (1 - s_i) h_j,  loss_i = s_i loss(y_i) + (1 - s_i) loss(y_j),  s_i ~ Beta(alpha, alpha)

of a row i with its partner j (Zhang et al., arXiv 1710.09412). What is mixed is what a classifier reads, as
in the last layer of manifold mixup (Verma et al., arXiv 1806.05236): texts of 9 and of 20 tokens have no
mean, and a row may lack a stream, but every head has one vector (B, d) a row and target.

Partners are neighbours of a batch, the first and the second, the third and the fourth, which its order has
drawn at random; the last of an odd number has none. So a pair can go to one process, whatever their number.
s_i is a function of seed, epoch and row.
"""

import numpy as np
import torch
from torch import Tensor

PAIR = 2


def draw_shares(alpha: float, seed: int, epoch: int, rows: int) -> np.ndarray | None:
    """(rows,) float32: what each row keeps of itself in an epoch. None without mixup, alpha = 0."""
    if not alpha:
        return None
    return np.random.default_rng([seed, epoch, *b"mixup"]).beta(alpha, alpha, rows).astype(np.float32)


def partners(rows: int) -> np.ndarray:
    """(rows,) the place of each row's partner in a batch; its own for a row without one."""
    return np.minimum(np.arange(rows) ^ 1, rows - 1)


def mixed(x: Tensor, shares: Tensor) -> Tensor:
    """x (B, d), shares (B,) -> (B, d)."""
    partner = (torch.arange(len(x), device=x.device) ^ 1).clamp(max=len(x) - 1)  # `partners`, over there
    other = x.index_select(0, partner)
    return shares[:, None] * x + (1 - shares[:, None]) * other
