"""The twin of SSMFusion for heads side by side (`stacked`).

Rows are sorted by their lengths and taken some at a time, so that hardly any padding is computed, and that
what becomes of their tokens stays in cache from the projections to the scan. The last layer of the MLP and
in_proj, which nothing stands between, are one product. U distinct rows, L steps, T tokens, K heads, D inner
width, N states.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mambavl.fuse.conv import causal_conv
from mambavl.fuse.fusion import SSMFusion
from mambavl.fuse.head import Streams
from mambavl.fuse.ragged import Ragged
from mambavl.fuse.scan import pooled_selective_scans
from mambavl.fuse.scan.inputs import ScanInputs
from mambavl.fuse.stacked_layers import Layer, Read, Weights, normed, of_each, projection_of, through

BLOCK = 2**18  # numbers of one tensor of the rows that are taken at a time; benchmarks/sweeps.py


class Rows(NamedTuple):
    """Some of a modality's distinct rows."""

    tokens: int  # theirs, which follow those of the rows before
    ragged: Ragged  # of these rows alone


class Scans:
    """SSMFusion."""

    @staticmethod
    def read(head: SSMFusion, streams: Streams, heads: int) -> Read:
        found: Read = {}
        for m in head.modalities:
            tokens, lengths = head._batched(m, streams)
            ragged = by_length(Ragged.of(tokens, lengths))
            blocks = cut(ragged, max(1, BLOCK // (heads * head.config.d_inner)))
            found[m] = normed(head, m, ragged.pack(tokens).flatten(0, -2)), (ragged, blocks)
        return found

    @staticmethod
    def fuse(head: SSMFusion, w: Weights, read: Read) -> dict[str, Tensor]:
        config = head.config
        scans = {m: _scan_inputs(head, w, m, x, blocks) for m, (x, (_, blocks)) in read.items()}
        pooled: dict[str, Tensor] = {}  # stream -> (B, K, d)
        for key in head.a_log:
            members = [m for m in head.modalities if head._a_of[m] == key]
            a = -torch.exp(w[f"a_log.{key}"].float()).flatten(0, 1)  # (K D, N)
            of_all = [one for m in members for one in scans[m]]
            means = iter(pooled_selective_scans(of_all, a, True, zoh=config.zoh, backend=config.scan))
            for m in members:
                mean = torch.cat([next(means) for _ in scans[m]]).unflatten(1, (-1, config.d_inner))
                if config.mixer == "mamba":
                    mean = Layer.of(w, f"mixer.{head._mixer_of[m]}.out_proj")(mean)  # (U, K, d)
                pooled |= head._by_stream(m, read[m][1][0].spread(mean))
        return head._met(pooled)


def by_length(ragged: Ragged) -> Ragged:
    """The same with the distinct rows in the order of their lengths; on a CPU alone, as that has to be
    waited for.
    """
    source, place = ragged.source, ragged.place
    if source is None or place is None or source.device.type != "cpu":
        return ragged
    lengths, order = ragged.lengths.sort(stable=True)
    rank = torch.empty_like(order).index_copy(0, order, torch.arange(len(order)))
    place, tokens = (rank[place // ragged.steps] * ragged.steps + place % ragged.steps).sort()
    which = rank if ragged.which is None else rank[ragged.which]
    return Ragged(lengths, ragged.steps, source[tokens], place, which)


def cut(ragged: Ragged, most: int) -> list[Rows]:
    """Rows that are taken together, in the order of `by_length`: at most so many tokens, padding included, or
    one row. All at once where they are not on a CPU.
    """
    lengths, longest, place = ragged.lengths, ragged.steps, ragged.place
    if lengths.device.type != "cpu":
        tokens = len(lengths) * longest if place is None else len(place)
        return [Rows(tokens, ragged._replace(which=None))]
    of_rows = lengths.tolist() if place is not None else [longest] * len(lengths)
    edges = [len(of_rows)]
    while edges[0]:  # the longest first
        steps = max(1, of_rows[edges[0] - 1])
        edges.insert(0, max(0, edges[0] - max(1, most // steps)))
    found, first = [], 0
    for a, b in pairwise(edges):
        tokens, steps, own = sum(of_rows[a:b]), max(1, of_rows[b - 1]), None
        if place is not None:
            own = place[first : first + tokens]
            own = (own // longest - a) * steps + own % longest
        found.append(Rows(tokens, Ragged(lengths[a:b], steps, None, own, None)))
        first += tokens
    return found


def _scan_inputs(
    head: SSMFusion, w: Weights, modality: str, x: Tensor, blocks: list[Rows]
) -> list[ScanInputs]:
    """What a modality's SSMs scan, block by block: `Mixer.scan_inputs`, heads being groups of channels."""
    config, at = head.config, f"mixer.{head._mixer_of[modality]}"
    norm, layers = projection_of(head, w, modality)
    inner: list[Layer] = []  # what gives the inputs of the convolution and of the gate
    if config.mixer == "mamba":
        in_proj = Layer.of(w, f"{at}.in_proj")
        if len(layers) > 1:
            x, in_proj = through(layers[:-1], x).relu(), layers[-1].before(in_proj.weight)
        else:
            x, in_proj = through(layers, x), in_proj.after(norm) if norm else in_proj
        inner = in_proj.halves()  # two products: a half of one is not contiguous
    else:
        x = of_each(through(layers, x), w)
        x = x * norm.scale + norm.shift if norm else x
    taps, bias = w[f"{at}.conv1d.weight"].flatten(0, 1), w[f"{at}.conv1d.bias"].flatten()
    x_proj, dt_proj = Layer.of(w, f"{at}.x_proj"), Layer(w[f"{at}.dt_proj.weight"], None)
    dt_bias, d_skip = w[f"{at}.dt_proj.bias"].flatten(), w[f"d_skip.{head._d_of[modality]}"].flatten()
    found = []
    for own, (_, ragged) in zip(x.split([block.tokens for block in blocks]), blocks, strict=True):
        padded = ragged.pad(own.flatten(1)).reshape(-1, *own.shape[1:])  # (U L, K, d) or (U L, width)
        shape = len(ragged.lengths), ragged.steps
        u, *z = [layer(padded).flatten(1).unflatten(0, shape) for layer in inner] or [
            padded.flatten(1).unflatten(0, shape)
        ]
        u = F.silu(causal_conv(u, taps, bias))  # (U, L, K D)
        of_heads = x_proj(u.flatten(0, 1).unflatten(1, (-1, config.d_inner)))
        delta, b, c = of_heads.split([config.rank, config.d_state, config.d_state], -1)
        found.append(
            ScanInputs(
                u,
                dt_proj(delta).flatten(1).unflatten(0, shape),
                b.unflatten(0, shape),  # (U, L, K, N): a group a head
                c.unflatten(0, shape),
                d_skip,
                z[0] if z else None,
                dt_bias,
                ragged.lengths,
            )
        )
    return found
