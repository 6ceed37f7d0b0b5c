"""K heads of one shape side by side: one pass over a batch gives the logits of all, and every gradient.

Their weights lie in one tensor for each of the optimiser's groups, a row a head; the parameters of the heads
are views of it, so a head can be scored or saved alone at any time. What all heads read is computed once: the
batch, its norms (their scale and shift are folded into the first product), its masks. Then heads lie between
tokens and channels, (T, K, D): products are batched over them, convolution and scan take them as groups of
channels. T tokens or rows, B rows, K heads, d = d_model.

What a kind of head does between its streams and its classifiers has a twin here, in `stacked_scans` and in
`stacked_attentive`, part by part, which reads the head's own parts.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mambavl.fuse.attentive import AttentiveFusion
from mambavl.fuse.baselines import MLPFusion
from mambavl.fuse.dropout import dropout_of_heads, keys_at
from mambavl.fuse.fusion import SSMFusion
from mambavl.fuse.head import Head, Streams, check_streams, masked_mean, without_padding
from mambavl.fuse.stacked_attentive import Probes
from mambavl.fuse.stacked_layers import Layer, Read, Weights, normed, projected, through
from mambavl.fuse.stacked_scans import Scans

NUMBERS = 2**22  # in a tensor of heads that are computed side by side; measured with benchmarks/sweeps.py
TOKENS = 64  # of a row in one modality, as EK100's questions are padded


class Leaf:
    """The weights of one of the optimiser's groups, of all heads: `values` (K, numbers)."""

    def __init__(self, heads: Sequence[Head], names: list[str], is_ssm: bool, decays: bool) -> None:
        self.names, self.is_ssm, self.decays = names, is_ssm, decays
        self.shapes = [heads[0].get_parameter(name).shape for name in names]
        rows = [[head.get_parameter(name).detach().flatten() for name in names] for head in heads]
        self._hold(heads, torch.stack([torch.cat(row) for row in rows]))

    def _hold(self, heads: Sequence[Head], values: Tensor) -> None:
        self.values = values.requires_grad_()
        for head, row in zip(heads, self.rows(values.detach()), strict=True):
            for name, own in row.items():
                head.get_parameter(name).data = own

    def rows(self, like: Tensor) -> list[dict[str, Tensor]]:
        """Views of a tensor (K, numbers): of each head by name, in the shapes of its parameters."""
        split = self.split(like)
        return [{name: own[k] for name, own in split.items()} for k in range(len(like))]

    def split(self, like: Tensor) -> dict[str, Tensor]:
        """Views of a tensor (K, numbers) by name, (K, *shape)."""
        parts = like.split([shape.numel() for shape in self.shapes], 1)
        named = zip(self.names, parts, self.shapes, strict=True)
        return {name: part.unflatten(1, shape) for name, part, shape in named}

    def keep(self, heads: Sequence[Head], places: Tensor) -> None:
        """Of all heads those at some places, which are `heads` from now on."""
        self._hold(heads, self.values.detach()[places])


class Stack:
    """Heads that are trained in one pass. Raises ValueError where it does not know how to stack them."""

    def __init__(self, heads: Sequence[Head]) -> None:
        self.heads = list(heads)
        first = self.heads[0]
        if type(first) not in KINDS:
            raise ValueError(f"heads of type {type(first).__name__} are trained one by one")
        reached = {first.config.streams[name].modality for names in first.routes.values() for name in names}
        if unused := first.modalities.keys() - reached:
            # alone, torch's optimisers leave weights without a gradient as they are, decay included
            raise ValueError(f"modality {min(unused)} reaches no classifier")
        names = {parameter: name for name, parameter in first.named_parameters()}
        groups = [
            ([names[p] for p in group.parameters], group.is_ssm, group.decays)
            for group in first.parameter_groups()
        ]
        self.leaves = [Leaf(self.heads, *group) for group in groups]

    def __len__(self) -> int:
        return len(self.heads)

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the heads at some places; the others keep the weights that they have."""
        self.heads = [self.heads[place] for place in places]
        where = torch.tensor(places, device=self.leaves[0].values.device)
        for leaf in self.leaves:
            leaf.keep(self.heads, where)

    def read(self, streams: Streams) -> Read:
        """What heads of this shape have in common of a batch, these and others."""
        head = self.heads[0]
        check_streams(streams, head.config.streams)
        with torch.no_grad():
            return KINDS[type(head)].read(head, without_padding(streams), len(self))

    def __call__(self, read: Read, keys: Tensor) -> dict[str, Tensor]:
        """Logits (K, B, classes) by target, as `Head.forward` gives those of each head in training. keys:
        (B,) int64, what dropout draws from, or (B, K) where each head has its own.
        """
        head, weights = self.heads[0], self._weights()
        fused = KINDS[type(head)].fuse(head, weights, read)  # (B, K, d) by target
        chances = [one.config.dropout for one in self.heads]
        logits = {}
        for target, x in fused.items():
            x = dropout_of_heads(x, chances, keys_at(keys, target))
            logits[target] = Layer.of(weights, f"{target}_head")(x).transpose(0, 1)
        return logits

    def _weights(self) -> Weights:
        found: Weights = {}
        for leaf in self.leaves:
            found |= leaf.split(leaf.values)
        return found


def heads_at_once(head: Head, rows: int) -> int:
    """How many heads are computed side by side: more of them save less, once what they compute no longer
    finds room in the caches, and memory of that size is mapped anew for every tensor.
    """
    widest = head.config.d_model
    if isinstance(head, SSMFusion):
        widest = head.config.d_inner * TOKENS
    elif isinstance(head, AttentiveFusion):
        widest *= TOKENS if head.config.depth == 1 else 4 * TOKENS  # the blocks' MLP
    return max(1, NUMBERS // (rows * widest))


# --- what each kind of head does between its streams and its classifiers: (B, K, d) by target


class _Means:
    """MLPFusion."""

    @staticmethod
    def read(head: MLPFusion, streams: Streams, heads: int) -> Read:
        found: Read = {}
        for name, (tokens, lengths) in streams.items():
            mean = masked_mean(tokens, lengths)
            found[name] = normed(head, head.config.streams[name].modality, mean), lengths
        return found

    @staticmethod
    def fuse(head: MLPFusion, w: Weights, read: Read) -> dict[str, Tensor]:
        vectors = {}
        for name, (mean, lengths) in read.items():
            vector = projected(head, w, head.config.streams[name].modality, mean)
            vectors[name] = torch.where(lengths[:, None, None] > 0, vector, 0.0)
        fuser = [Layer.of(w, "fuser.0"), Layer.of(w, "fuser.2")]
        return {
            target: through(fuser, torch.cat([vectors[name] for name in names], -1))
            for target, names in head.routes.items()
        }


KINDS: dict[type[Head], Any] = {MLPFusion: _Means, SSMFusion: Scans, AttentiveFusion: Probes}
