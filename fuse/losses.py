"""What a target's logits cost in training.

    one class a row     -sum_c q_c log p_c   p: softmax, q: the label, smoothed over all classes
    any number          -mean_c log p_c      p_c: the probability of what the row says of class c, yes or no
    focal               each log p_c times (1 - p_c)^gamma, so that rows and classes that are right already
                        cost little (Lin et al., 2017, eq. 4, without its balance alpha)

B batch, C columns of the target's classifier, K heads.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mambavl.fuse.targets import RunTargets, is_labelled


def loss(
    name: str,
    targets: RunTargets,
    logits: Tensor,
    labels: np.ndarray,
    label_smoothing: float,
    shares: Tensor | None = None,
) -> Tensor:
    """The mean loss over the labelled rows of a batch, in float32; 0 where none is. logits (B, C); labels
    (B,), or (B, C) 0 or 1; -1: no label. Smoothing is of single-label targets. shares: (B,), what each row's
    loss is multiplied with.
    """
    # which rows count is decided here, not on the device, which would have to be waited for
    known = is_labelled(labels)
    logits = logits.float()
    if not known.any():
        return 0.0 * logits.sum()  # takes part in the exchange of gradients all the same
    wanted = _on(logits.device, labels[known])
    if not known.all():
        places = _on(logits.device, np.flatnonzero(known))
        logits, shares = logits[places], None if shares is None else shares[places]
    is_single, gamma = targets.is_single(name), targets.focal.get(name)
    if gamma is None and shares is None:
        if is_single:
            return F.cross_entropy(logits, wanted, label_smoothing=label_smoothing)
        return F.binary_cross_entropy_with_logits(logits, wanted.float())
    if is_single:
        of_rows = _single(logits, wanted, label_smoothing, gamma or 0.0)
    else:
        of_rows = _several(logits, wanted, gamma or 0.0)
    return of_rows.mean() if shares is None else (of_rows * shares).mean()


def losses_of_heads(
    name: str, targets: RunTargets, logits: Tensor, labels: np.ndarray, smoothing: Sequence[float]
) -> Tensor:
    """`loss` of K heads, (K,): logits (K, B, C), each with its own of the `smoothing`."""
    if not targets.is_single(name) or name in targets.focal:
        own = zip(logits, smoothing, strict=True)
        return torch.stack([loss(name, targets, one, labels, share) for one, share in own])
    known = is_labelled(labels)
    if not known.any():
        return 0.0 * logits.float().sum((1, 2))
    wanted = _on(logits.device, labels[known])
    if not known.all():
        logits = logits[:, _on(logits.device, np.flatnonzero(known))]
    logs = logits.float().log_softmax(-1)
    hits = logs.gather(2, wanted.expand(len(logs), -1)[..., None])[..., 0]  # (K, B)
    shares = torch.tensor(smoothing, dtype=torch.float64).to(logs)[:, None]
    return -((1 - shares) * hits + shares * logs.mean(-1)).mean(1)


def _on(device: torch.device, values: np.ndarray) -> Tensor:
    """Copied without waiting for what the device has to do before."""
    return torch.from_numpy(values).to(device, non_blocking=True)


def _single(logits: Tensor, wanted: Tensor, label_smoothing: float, gamma: float) -> Tensor:
    """logits (B, C), wanted (B,) -> (B,)."""
    costs = _focused(logits.log_softmax(-1), gamma)
    hit = costs.gather(1, wanted[:, None])[:, 0]
    return (1 - label_smoothing) * hit + label_smoothing * costs.mean(1)


def _several(logits: Tensor, wanted: Tensor, gamma: float) -> Tensor:
    """logits and wanted (B, C) -> (B,)."""
    return _focused(F.logsigmoid(torch.where(wanted == 1, logits, -logits)), gamma).mean(1)


def _focused(log_p: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p."""
    if gamma == 0:
        return -log_p
    # of a p that is 1 to rounding the power has no gradient where gamma is below 1
    missed = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    return -(missed**gamma) * log_p
