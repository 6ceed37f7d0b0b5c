"""A head whose SSMs read each stream forwards and backwards.

    pooled = mean_t forward(x)_t + mean_t backward(x reversed)_t        per stream; then as in fusion.py

Each direction of a modality has a mixer and a skip D of its own, for a reader with the same weights in both
directions could not tell a film from the same film run backwards. A is one for all, in both. Each row is
reversed within its own length, so that the backward scan begins at its last token. The idea is Vision Mamba's
(arXiv 2401.09417), whose two directions share the projections into and out of the block; here two blocks
are summed. With its second mixer a modality has twice the parameters and operations of `mambavl`'s.
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from mambavl.fuse.fusion import FusionConfig, Mixer, SSMFusion
from mambavl.fuse.head import Streams
from mambavl.fuse.ragged import Ragged
from mambavl.fuse.released import reset_like_release


class BidirectionalFusion(SSMFusion):
    """SSMFusion, and for each modality a second SSM that begins at the end."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        self.backward_mixer = nn.ModuleDict({key: Mixer(config) for key in self.mixer})
        ones = torch.ones(config.d_inner)
        self.backward_d_skip = nn.ParameterDict({key: nn.Parameter(ones.clone()) for key in self.d_skip})
        if config.init == "released":
            reset_like_release(self.backward_mixer)

    def fuse(self, streams: Streams, keys: Tensor | None = None) -> dict[str, Tensor]:
        forward, backward, ragged = {}, {}, {}
        for m in self.modalities:
            x, ragged[m] = self._projected(m, streams)  # (tokens, d); once for both directions
            lengths, d_key = ragged[m].lengths, self._d_of[m]
            forward[m] = self._mixer(m).scan_inputs(x, lengths, self.d_skip[d_key], ragged[m].pad)
            turned = partial(_turned, ragged[m])
            backward[m] = self._backward(m).scan_inputs(x, lengths, self.backward_d_skip[d_key], turned)
        means, backward_means = self._means(forward), self._means(backward)
        pooled: dict[str, Tensor] = {}  # stream -> (B, d)
        for m in self.modalities:
            both = self._mixer(m).out_proj(means[m]) + self._backward(m).out_proj(backward_means[m])
            pooled |= self._by_stream(m, ragged[m].spread(both))
        return self._met(pooled)

    def _backward(self, modality: str) -> Mixer:
        mixer = self.backward_mixer[self._mixer_of[modality]]
        assert isinstance(mixer, Mixer)  # a ModuleDict has no type of its values
        return mixer

    @property
    def cannot_step(self) -> str:
        return (
            "its backward scan begins at the last token, so each step would cost as much as all before it; "
            "train the head mambavl"
        )

    def ssm_parameters(self) -> Iterable[nn.Parameter]:
        backward = [*self.backward_mixer.parameters(), *self.backward_d_skip.parameters()]
        return [*super().ssm_parameters(), *backward]


def _turned(ragged: Ragged, x: Tensor) -> Tensor:
    return reversed_rows(ragged.pad(x), ragged.lengths)


def reversed_rows(x: Tensor, lengths: Tensor) -> Tensor:
    """x (B, L, C), each row's first `length` steps in reverse order; those behind stay where they are."""
    steps = torch.arange(x.shape[1], device=x.device)
    ends = lengths[:, None]
    return x.take_along_dim(torch.where(steps < ends, ends - 1 - steps, steps)[..., None], 1)
