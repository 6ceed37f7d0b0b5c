"""The attentive probe: a learnt query for each target, and attention from it to every token.

    streams -> project (eq. 5) + type token -> depth - 1 self-attention blocks -> cross-attention of the query

The head of V-JEPA's evaluations of frozen features (arXiv 2404.08471, depth 1; V-JEPA 2, 2506.09985, depth 4,
its last block the cross-attention), 16 attention heads. Departures: tokens of several streams stand in one
sequence, told apart by a learnt vector for each modality; an MLP stands before it (head.video_mlp_layers = 0
takes the features as they are); self-attention has no biases on queries, keys and values, as in this
project's Transformer, and the cross-attention none on keys, where a softmax would not see it. Nothing in it
knows the order of tokens but what they say themselves, or `max_positions`.

B batch, L tokens of all streams of a target, d = d_model, H attention heads of d / H channels.
"""

import math
from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor, nn

from mambavl.configs import Config
from mambavl.configs.errors import UsageError
from mambavl.fuse.baselines import Block
from mambavl.fuse.head import Head, HeadConfig, Streams, valid_tokens


class AttentiveSettings(Config):
    """AttentiveFusion's own settings; the probe of V-JEPA 2 has `depth = 4`."""

    depth: int = Field(default=1, ge=1)  # blocks; the last is the cross-attention
    num_heads: int = Field(default=16, ge=1)  # attention heads of a block; they divide d_model
    # above 0: rows of a learnt position table, in tokens of a stream; 0: no table, for features that know
    # where they stand, as a video Transformer's and a text's do
    max_positions: int = Field(default=0, ge=0)


class AttentiveConfig(HeadConfig, AttentiveSettings):
    """All settings of AttentiveFusion."""


class AttentiveFusion(Head):
    """A query for each target looks at the tokens of all streams that reach it. A row without any token has
    zeros, as with the other heads.
    """

    config: AttentiveConfig

    def __init__(self, config: AttentiveConfig) -> None:
        super().__init__(config)
        d_model, num_heads = config.d_model, config.num_heads
        if d_model % num_heads:
            raise UsageError(
                f"head.d_model = {d_model} is no multiple of attentive.num_heads = {num_heads}; "
                "change one of them"
            )
        drawn = lambda *shape: nn.Parameter(torch.randn(*shape) * 0.02)
        self.query = nn.ParameterDict({target: drawn(d_model) for target in config.targets})
        self.type_token = nn.ParameterDict({m: drawn(d_model) for m in self.modalities})
        tables = self.modalities if config.max_positions else ()
        self.position = nn.ParameterDict({m: drawn(config.max_positions, d_model) for m in tables})
        self.blocks = nn.ModuleList([Block(d_model, num_heads, 0.0) for _ in range(config.depth - 1)])
        self.pool = QueryBlock(d_model, num_heads)
        self.add_classifiers()

    def fuse(self, streams: Streams, keys: Tensor | None = None) -> dict[str, Tensor]:
        embedded = {name: self._embed(name, tokens) for name, (tokens, _) in streams.items()}
        valid = {name: valid_tokens(*stream)[..., 0] for name, stream in streams.items()}  # (B, L)
        sequences: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}
        out = {}
        for target, names in self.routes.items():
            route = tuple(names)
            if route not in sequences:  # targets that the same streams reach share the blocks before the last
                x = torch.cat([embedded[name] for name in names], 1)
                counts = torch.cat([valid[name] for name in names], 1)
                sequences[route] = self._through_blocks(x, counts), counts
            out[target] = self.pool(self.query[target], *sequences[route])
        return out

    def _embed(self, name: str, tokens: Tensor) -> Tensor:
        """(B, L, width) -> (B, L, d). Raises UsageError for more tokens than there are positions."""
        modality = self.config.streams[name].modality
        x = self.project[modality](tokens) + self.type_token[modality]
        if not self.config.max_positions:
            return x
        self.refuse_too_many(name, tokens.shape[1])
        return x + self.position[modality][: tokens.shape[1]]

    def refuse_too_many(self, name: str, tokens: int) -> None:
        """Raises UsageError for more tokens of a stream than there are positions."""
        if 0 < self.config.max_positions < tokens:
            raise UsageError(
                f"stream {name}: {tokens} tokens exceed the position table; raise attentive.max_positions"
            )

    def _through_blocks(self, x: Tensor, counts: Tensor) -> Tensor:
        """x (B, L, d), counts (B, L): which tokens there are -> (B, L, d)."""
        # attention to nothing at all would be NaN; what such a row computes is not read
        mask = (counts | ~counts.any(1, keepdim=True))[:, None, None]
        for block in self.blocks:
            x = block(x, mask, None)
        return x

    def undecayed_matrices(self) -> Iterable[nn.Parameter]:
        return self.position.parameters()


class QueryBlock(nn.Module):
    """A pre-norm cross-attention block of one query, the same for every row, and the MLP behind it.

    The query being no row's own, keys and values are never written, which would be two products of L d^2:
    (W_q q) . (W_k x) = (W_k^T W_q q) . x, and as attention sums to 1, it sums the tokens before W_v.
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.queries = nn.Linear(d_model, d_model)
        self.keys = nn.Linear(d_model, d_model, bias=False)
        self.values = nn.Linear(d_model, d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, query: Tensor, x: Tensor, counts: Tensor) -> Tensor:
        """query (d,), x (B, L, d), counts (B, L): which tokens there are -> (B, d); 0 where there is none."""
        has_any = counts.any(1, keepdim=True)
        out = query + self.proj(self._attended(query, self.norm1(x), counts | ~has_any))
        return torch.where(has_any, out + self.mlp(self.norm2(out)), 0.0)

    def _attended(self, query: Tensor, x: Tensor, counts: Tensor) -> Tensor:
        of_head = lambda weight: weight.unflatten(0, (self.num_heads, -1))  # (H, d / H, ...)
        queries = of_head(self.queries(query))  # (H, d / H)
        looks_for = torch.einsum("hc,hcd->hd", queries, of_head(self.keys.weight)) / math.sqrt(
            queries.shape[1]
        )
        scores = torch.einsum("bld,hd->bhl", x, looks_for)
        attention = scores.masked_fill(~counts[:, None], -torch.inf).softmax(-1)  # (B, H, L)
        sums = torch.einsum("bhl,bld->bhd", attention.to(x.dtype), x)
        values = torch.einsum("bhd,hcd->bhc", sums, of_head(self.values.weight))
        return values.flatten(1) + self.values.bias
