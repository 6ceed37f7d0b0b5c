"""The twin of AttentiveFusion for heads side by side (`stacked`).

Attention to the tokens of several streams is the sum of attention to each, in the shares of their sums of
exponentials. So a stream is looked at by itself, in its distinct rows, by the queries of all targets that it
reaches; only what is found there, d numbers a row, meets what is found in the others. The blocks before it,
where there are any, see a target's tokens together, as alone.

B rows, U of them distinct, L tokens of a stream, K heads, d = d_model, G targets, H attention heads of c
channels each.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mambavl.fuse.attentive import AttentiveFusion
from mambavl.fuse.head import Streams, valid_tokens
from mambavl.fuse.ragged import Ragged
from mambavl.fuse.stacked_layers import Layer, Norm, Read, Weights, normed, projected


class Tokens(NamedTuple):
    """Tokens that queries look at."""

    x: Tensor  # (K, U, L, d)
    counts: Tensor  # (U, L) bool: which of them there are
    which: Tensor | None  # (B,) the distinct row of each row; None: all are


class Found(NamedTuple):
    """What queries found in some tokens."""

    weight: Tensor  # (K, B, G, H): the logarithm of their sum of exponentials; -inf where there is no token
    values: Tensor  # (K, B, G, H, c)
    has_any: Tensor  # (B,) bool: whether there is one


class Probes:
    """AttentiveFusion."""

    @staticmethod
    def read(head: AttentiveFusion, streams: Streams, heads: int) -> Read:
        found: Read = {}
        for name, (tokens, lengths) in streams.items():
            ragged = Ragged.of(tokens, lengths.clamp(min=0))
            packed = ragged.pack(tokens).flatten(0, -2)
            counts = valid_tokens(tokens[: len(ragged.lengths)], ragged.lengths)[..., 0]
            found[name] = normed(head, head.config.streams[name].modality, packed), (ragged, counts)
        return found

    @staticmethod
    def fuse(head: AttentiveFusion, w: Weights, read: Read) -> dict[str, Tensor]:
        tokens = {name: _embedded(head, w, name, *of_stream) for name, of_stream in read.items()}
        if head.config.depth > 1:
            return _of_sequences(head, w, tokens)
        looked = {name: [t for t, names in head.routes.items() if name in names] for name in tokens}
        found = {name: _look(head, w, looked[name], x) for name, x in tokens.items() if looked[name]}
        parts: dict[str, list[Found]] = {}
        for target, names in head.routes.items():
            parts[target] = [_of_target(found[name], looked[name].index(target)) for name in names]
        return {target: _behind(w, target, of_target) for target, of_target in parts.items()}


def _embedded(head: AttentiveFusion, w: Weights, name: str, x: Tensor, rows: tuple[Ragged, Tensor]) -> Tokens:
    """`AttentiveFusion._embed`: x (T, width), the valid tokens of the distinct rows."""
    modality, (ragged, counts) = head.config.streams[name].modality, rows
    head.refuse_too_many(name, ragged.steps)
    x = projected(head, w, modality, x).transpose(0, 1) + w[f"type_token.{modality}"][:, None]  # (K, T, d)
    heads, _, d_model = x.shape
    if ragged.place is not None:
        zeros = x.new_zeros(heads, counts.numel(), d_model)
        x = zeros.index_copy(1, ragged.place, x)
    x = x.reshape(heads, *counts.shape, d_model)
    if head.config.max_positions:
        x = x + w[f"position.{modality}"][:, None, : ragged.steps]
    return Tokens(x, counts, ragged.which)


def _of_sequences(head: AttentiveFusion, w: Weights, tokens: dict[str, Tokens]) -> dict[str, Tensor]:
    """Through the blocks before the last, once for the targets of the same streams, and looked at then."""
    targets_of: dict[tuple[str, ...], list[str]] = {}
    for target, names in head.routes.items():
        targets_of.setdefault(tuple(names), []).append(target)
    out = {}
    for route, targets in targets_of.items():
        of_rows = [_of_rows(tokens[name]) for name in route]
        x = torch.cat([one.x for one in of_rows], 2)
        counts = torch.cat([one.counts for one in of_rows], 1)
        # attention to nothing at all would be NaN; what such a row computes is not read
        mask = (counts | ~counts.any(1, keepdim=True))[:, None, None]
        for number in range(head.config.depth - 1):
            x = _block(head, w, f"blocks.{number}", x, mask)
        found = _look(head, w, targets, Tokens(x, counts, None))
        for g, target in enumerate(targets):
            out[target] = _behind(w, target, [_of_target(found, g)])
    return {target: out[target] for target in head.routes}


def _of_rows(tokens: Tokens) -> Tokens:
    """(K, B, L, d), all rows, equal ones too."""
    if tokens.which is None:
        return tokens
    return Tokens(tokens.x.index_select(1, tokens.which), tokens.counts[tokens.which], None)


def _block(head: AttentiveFusion, w: Weights, at: str, x: Tensor, mask: Tensor) -> Tensor:
    """`Block` without dropout: x (K, B, L, d), mask (B, 1, 1, L)."""
    num_heads, (_, rows, _, d_model) = head.config.num_heads, x.shape
    qkv = _through(Layer.of(w, f"{at}.qkv").after(_norm(w, f"{at}.norm1")), _normalised(x))
    qkv = qkv.unflatten(-1, (3, num_heads, -1)).permute(3, 0, 1, 4, 2, 5).flatten(1, 2)  # (3, K B, H, L, c)
    queries, keys, values = qkv
    mask = mask.repeat(len(x), 1, 1, 1)
    attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    attended = attended.transpose(1, 2).reshape(len(x), rows, -1, d_model)
    x = x + _through(Layer.of(w, f"{at}.proj"), attended)
    return x + _mlp(w, at, x)


def _look(head: AttentiveFusion, w: Weights, targets: list[str], tokens: Tokens) -> Found:
    """`QueryBlock._attended` of the queries of some targets, without the bias of the values.

    The norm's scale stands in what is looked for and in W_v; its shift is the same to every token, which a
    softmax does not see, and comes to the values in `_behind`.
    """
    num_heads, scale = head.config.num_heads, _norm(w, "pool.norm1").scale[:, None]
    of_heads = lambda weight: weight.unflatten(1, (num_heads, -1))  # (K, H, c, d)
    asked = Layer.of(w, "pool.queries")(torch.stack([w[f"query.{target}"] for target in targets]))
    asked = asked.unflatten(-1, (num_heads, -1))  # (G, K, H, c)
    keys = of_heads(w["pool.keys.weight"] * scale)
    looks_for = torch.einsum("gkhc,khcd->kghd", asked, keys).flatten(1, 2) / math.sqrt(asked.shape[-1])
    x = _normalised(tokens.x)  # (K, U, L, d)
    scores = torch.bmm(x.flatten(1, 2), looks_for.mT).unflatten(1, x.shape[1:3])  # (K, U, L, G H)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    has_any = tokens.counts.any(1, keepdim=True)
    scores = scores.masked_fill(~(tokens.counts | ~has_any)[..., None], -torch.inf)
    weight = scores.logsumexp(2, keepdim=True)
    attention = (scores - weight).exp().to(x.dtype)
    sums = torch.matmul(attention.mT, x).unflatten(2, (-1, num_heads))  # (K, U, G, H, d)
    values = torch.einsum("kughd,khcd->kughc", sums, of_heads(w["pool.values.weight"] * scale))
    weight = weight.masked_fill(~has_any[..., None], -torch.inf)[:, :, 0].unflatten(-1, (-1, num_heads))
    has_any = has_any[:, 0]
    if tokens.which is not None:
        weight, values = (one.index_select(1, tokens.which) for one in (weight, values))
        has_any = has_any[tokens.which]
    return Found(weight, values, has_any)


def _of_target(found: Found, g: int) -> Found:
    """Without the axis of targets."""
    return found._replace(weight=found.weight[:, :, g], values=found.values[:, :, g])


def _behind(w: Weights, target: str, parts: list[Found]) -> Tensor:
    """`QueryBlock` from the attended values on: what was found in each stream -> (B, K, d)."""
    has_any = torch.stack([one.has_any for one in parts]).any(0)[:, None]  # (B, 1)
    weights = torch.stack([one.weight for one in parts])  # (streams, K, B, H)
    shares = weights.masked_fill(~has_any, 0.0).softmax(0)[..., None]
    values = sum(share.to(one.values.dtype) * one.values for share, one in zip(shares, parts, strict=True))
    bias = Layer.of(w, "pool.values").after(_norm(w, "pool.norm1")).bias
    assert bias is not None
    attended = (values.flatten(2) + bias[:, None]).transpose(0, 1)  # (B, K, d)
    out = w[f"query.{target}"] + Layer.of(w, "pool.proj")(attended)
    out = out + _mlp(w, "pool", out.transpose(0, 1)[:, None])[:, 0].transpose(0, 1)
    return torch.where(has_any[..., None], out, 0.0)


def _mlp(w: Weights, at: str, x: Tensor) -> Tensor:
    """x (K, B, L, d) through a block's second norm and its MLP."""
    inner = Layer.of(w, f"{at}.mlp.0").after(_norm(w, f"{at}.norm2"))
    return _through(Layer.of(w, f"{at}.mlp.2"), F.gelu(_through(inner, _normalised(x))))


def _through(layer: Layer, x: Tensor) -> Tensor:
    """A layer with heads before rows: x (K, B, L, in) -> (K, B, L, out)."""
    return layer(x.flatten(1, 2).transpose(0, 1)).transpose(0, 1).unflatten(1, x.shape[1:3])


def _norm(w: Weights, at: str) -> Norm:
    return Norm(w[f"{at}.weight"], w[f"{at}.bias"])


def _normalised(x: Tensor) -> Tensor:
    """A layer norm but for its scale and shift."""
    return F.layer_norm(x, x.shape[-1:])
