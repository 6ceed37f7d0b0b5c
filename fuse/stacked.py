"""K heads of one shape side by side: one pass over a batch gives the logits of all, and every gradient.

Their weights lie in one tensor for each of the optimiser's groups, a row a head; the parameters of the heads
are views of it, so a head can be scored or saved alone at any time. What all heads read is computed once: the
batch, its norms (their scale and shift are folded into the first product), its masks. Then heads lie between
tokens and channels, (T, K, D): products are batched over them, convolution and scan take them as groups of
channels. T tokens or rows, B rows, L steps, K heads, d = d_model, D inner width, N states.

What is here of a kind of head is the twin of its `fuse`, part by part, and reads the head's own parts.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mambavl.fuse.baselines import MLPFusion
from mambavl.fuse.conv import causal_conv
from mambavl.fuse.dropout import dropout_of_heads, keys_at
from mambavl.fuse.fusion import SSMFusion
from mambavl.fuse.head import Head, Streams, check_streams, masked_mean, without_padding
from mambavl.fuse.ragged import Ragged
from mambavl.fuse.scan import pooled_selective_scans
from mambavl.fuse.scan.inputs import ScanInputs

Weights = dict[str, Tensor]  # by name, (K, *shape)
# by modality or stream: tokens (T, width), after the norm but for its scale and shift, and which they are
Read = dict[str, tuple[Tensor, Any]]


NUMBERS = 2**21  # in a tensor of heads that are computed side by side; measured with benchmarks/sweeps.py
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
            return KINDS[type(head)].read(head, without_padding(streams))

    def __call__(self, read: Read, keys: Tensor) -> dict[str, Tensor]:
        """Logits (K, B, classes) by target, as `Head.forward` gives those of each head in training. keys:
        (B,) int64, what dropout draws from.
        """
        head, weights = self.heads[0], self._weights()
        fused = KINDS[type(head)].fuse(head, weights, read)  # (B, K, d) by target
        chances = [one.config.dropout for one in self.heads]
        logits = {}
        for target, x in fused.items():
            x = dropout_of_heads(x, chances, keys_at(keys, target))
            logits[target] = _linear(x, weights, f"{target}_head").transpose(0, 1)
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
    widest = head.config.d_inner * TOKENS if isinstance(head, SSMFusion) else head.config.d_model
    return max(1, NUMBERS // (rows * widest))


def _linear(x: Tensor, w: Weights, name: str) -> Tensor:
    """The linear layers `name` of all heads: (T, K, in) -> (T, K, out)."""
    return _product(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (T, K, in), or (T, in) that all heads read; weight (K, out, in), bias (K, out) -> (T, K, out)."""
    heads, out = weight.shape[:2]
    if x.ndim == 2:
        own = None if bias is None else bias.flatten()
        return F.linear(x, weight.flatten(0, 1), own).unflatten(1, (heads, out))
    x = x.transpose(0, 1)
    y = torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias[:, None], x, weight.mT)
    return y.transpose(0, 1)


class Layer(NamedTuple):
    """A linear layer of all heads: weight (K, out, in), bias (K, out)."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return _product(x, *self)

    def after(self, scale: Tensor, shift: Tensor) -> "Layer":
        """The layer on x * scale + shift, both (K, in)."""
        moved = (self.weight * shift[:, None]).sum(-1)  # no product: autocast would round it
        return Layer(self.weight * scale[:, None], moved if self.bias is None else self.bias + moved)


def _normed(head: Head, modality: str, x: Tensor) -> Tensor:
    """The first thing that `Head.project` does, without the norm's own weights."""
    first = next(iter(head.project[modality].children()), None)
    return F.layer_norm(x, x.shape[-1:], eps=first.eps) if isinstance(first, nn.LayerNorm) else x


def _projected(head: Head, w: Weights, modality: str, x: Tensor) -> Tensor:
    """`Head.project` of a modality, after `_normed`: (T, width), which all heads read -> (T, K, d); (T, d)
    where it has no weights.
    """
    norm: tuple[Tensor, Tensor] | None = None  # scale and shift, (K, width), that wait for a product
    for number, layer in head.project[modality].named_children():
        at = f"project.{modality}.{number}"
        if isinstance(layer, nn.LayerNorm):
            norm = w[f"{at}.weight"], w[f"{at}.bias"]
        elif isinstance(layer, nn.Linear):
            own = Layer(w[f"{at}.weight"], w.get(f"{at}.bias"))
            x = (own.after(*norm) if norm else own)(x)
            norm = None
        else:
            x = x.relu()
    return x[:, None] * norm[0] + norm[1] if norm else x


def _of_each(x: Tensor, w: Weights) -> Tensor:
    """(T, C) that all heads have, or (T, K, C) -> (T, K, C)."""
    return x if x.ndim == 3 else x[:, None].expand(-1, len(next(iter(w.values()))), -1)


# --- what each kind of head does between its streams and its classifiers: (B, K, d) by target


class _Means:
    """MLPFusion."""

    @staticmethod
    def read(head: MLPFusion, streams: Streams) -> Read:
        found: Read = {}
        for name, (tokens, lengths) in streams.items():
            mean = masked_mean(tokens, lengths)
            found[name] = _normed(head, head.config.streams[name].modality, mean), lengths
        return found

    @staticmethod
    def fuse(head: MLPFusion, w: Weights, read: Read) -> dict[str, Tensor]:
        vectors = {}
        for name, (mean, lengths) in read.items():
            vector = _of_each(_projected(head, w, head.config.streams[name].modality, mean), w)
            vectors[name] = torch.where(lengths[:, None, None] > 0, vector, 0.0)
        found = {}
        for target, names in head.routes.items():
            hidden = _linear(torch.cat([vectors[name] for name in names], -1), w, "fuser.0").relu()
            found[target] = _linear(hidden, w, "fuser.2")
        return found


class _Scans:
    """SSMFusion."""

    @staticmethod
    def read(head: SSMFusion, streams: Streams) -> Read:
        found: Read = {}
        for m in head.modalities:
            tokens, lengths = head._batched(m, streams)
            ragged = Ragged.of(tokens, lengths)
            found[m] = _normed(head, m, ragged.pack(tokens).flatten(0, -2)), ragged
        return found

    @staticmethod
    def fuse(head: SSMFusion, w: Weights, read: Read) -> dict[str, Tensor]:
        config = head.config
        scans = {m: _scan_inputs(head, w, m, *read[m]) for m in head.modalities}
        pooled: dict[str, Tensor] = {}  # stream -> (B, K, d)
        for key in head.a_log:
            members = [m for m in head.modalities if head._a_of[m] == key]
            a = -torch.exp(w[f"a_log.{key}"].float()).flatten(0, 1)  # (K D, N)
            means = pooled_selective_scans(
                [scans[m] for m in members], a, True, zoh=config.zoh, backend=config.scan
            )
            for m, mean in zip(members, means, strict=True):  # (distinct rows of m, K D)
                mean = mean.unflatten(1, (-1, config.d_inner))
                if config.mixer == "mamba":
                    mean = _linear(mean, w, f"mixer.{head._mixer_of[m]}.out_proj")
                pooled |= head._by_stream(m, read[m][1].spread(mean))
        return head._met(pooled)


def _scan_inputs(head: SSMFusion, w: Weights, modality: str, x: Tensor, ragged: Ragged) -> ScanInputs:
    """What a modality's SSMs scan: `Mixer.scan_inputs` with the heads as groups of channels."""
    config, at = head.config, f"mixer.{head._mixer_of[modality]}"
    x = _projected(head, w, modality, x)
    if config.mixer == "mamba":
        # two products: a half of one is not contiguous
        to_u, to_z = w[f"{at}.in_proj.weight"].chunk(2, 1)
        u, z = _product(x, to_u), _padded(_product(x, to_z), ragged)
    else:
        u, z = _of_each(x, w), None
    taps, bias = w[f"{at}.conv1d.weight"].flatten(0, 1), w[f"{at}.conv1d.bias"].flatten()
    u = F.silu(causal_conv(_padded(u, ragged), taps, bias))
    inner = _linear(u.flatten(0, 1).unflatten(1, (-1, config.d_inner)), w, f"{at}.x_proj")
    delta, b, c = inner.split([config.rank, config.d_state, config.d_state], -1)
    return ScanInputs(
        u,
        _product(delta, w[f"{at}.dt_proj.weight"]).flatten(1).unflatten(0, u.shape[:2]),
        b.unflatten(0, u.shape[:2]),  # (U, L, K, N): a group a head
        c.unflatten(0, u.shape[:2]),
        w[f"d_skip.{head._d_of[modality]}"].flatten(),
        z,
        w[f"{at}.dt_proj.bias"].flatten(),
        ragged.lengths,
    )


def _padded(x: Tensor, ragged: Ragged) -> Tensor:
    """(T, K, C) of valid tokens -> (U, L, K C)."""
    padded = ragged.pad(x.flatten(1))
    return padded if padded.ndim == 3 else padded.unflatten(0, (-1, ragged.steps))


KINDS: dict[type[Head], Any] = {MLPFusion: _Means, SSMFusion: _Scans}
