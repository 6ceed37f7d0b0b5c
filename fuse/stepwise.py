"""What a head keeps of tokens that it was fed in parts, so that the next part costs no more than the last.

    RunningMeans   the mean of each stream so far, for heads that read nothing else of it
    SSMState       what a selective SSM carries from one step to the next, and the mean of its outputs so far

B rows, D channels, N states a channel, K taps of the causal convolution. Sums are kept in float64: after a
million steps float32 would have lost the last ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Parts = Mapping[str, tuple[Tensor, Tensor]]  # name -> (tokens (B, L, width), lengths (B,)), as of a head


@dataclass(frozen=True)
class RunningMeans:
    """Sums and numbers of the tokens so far, by stream: (B, width) float64, (B,)."""

    sums: Mapping[str, Tensor]
    lengths: Mapping[str, Tensor]  # below 0 where a row has never had the stream

    @classmethod
    def of(cls, parts: Parts, before: "RunningMeans | None") -> "RunningMeans":
        """With the tokens of one more part, which hold zeros from each row's length on."""
        sums, lengths = {}, {}
        for name, (tokens, new) in parts.items():
            sums[name] = tokens.sum(1, dtype=torch.float64)
            lengths[name] = new
            if before is not None:
                sums[name] = before.sums[name] + sums[name]
                known = before.lengths[name]
                lengths[name] = torch.where(new < 0, known, new + known.clamp(min=0))
        return cls(sums, lengths)

    def as_streams(self, dtype: torch.dtype) -> dict[str, tuple[Tensor, Tensor]]:
        """Each stream as the one token that is the mean of all of its tokens."""
        found = {}
        for name, total in self.sums.items():
            lengths = self.lengths[name]
            mean = (total / lengths.clamp(min=1)[:, None]).to(dtype)
            found[name] = mean[:, None], lengths.clamp(max=1)
        return found


@dataclass(frozen=True)
class SSMState:
    """Of a selective SSM, after some steps of each row."""

    taps: Tensor  # (B, K - 1, D): the last inputs of the convolution; zeros before the first step
    h: Tensor  # (B, D, N): the state of the scan
    total: Tensor  # (B, D) float64: the sum of its outputs
    count: Tensor  # (B,): how many those are

    @classmethod
    def empty(cls, like: Tensor, channels: int, states: int, taps: int) -> "SSMState":
        """Before the first step. like: (B, ...), of whose dtype and device the inputs are."""
        batch = len(like)
        return cls(
            like.new_zeros(batch, taps, channels),
            like.new_zeros(batch, channels, states, dtype=torch.promote_types(like.dtype, torch.float32)),
            like.new_zeros(batch, channels, dtype=torch.float64),
            torch.zeros(batch, dtype=torch.int64, device=like.device),
        )

    def after(self, y: Tensor, taps: Tensor, h: Tensor, lengths: Tensor) -> "SSMState":
        """With the outputs y (B, L, D) of some more steps, zeros from each row's length on."""
        return SSMState(taps, h, self.total + y.sum(1, dtype=torch.float64), self.count + lengths)

    def mean(self, dtype: torch.dtype) -> Tensor:
        """(B, D): the mean of the outputs so far; 0 before the first."""
        return (self.total / self.count.clamp(min=1)[:, None]).to(dtype)
