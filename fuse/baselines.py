"""The other heads of Table 3: a two-layer MLP, and Transformers of 6 layers with 4 heads and 12 with 12.

Same streams, same routing, same classifiers as SSMFusion, so that a comparison compares fusions. The paper's
own rows fed them one vector a stream and MambaVL all tokens: `tokens = "pooled"` repeats that, `"all"` gives
the Transformer what MambaVL gets.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mambavl.configs.errors import UsageError
from mambavl.fuse.head import (
    HeadConfig,
    Streams,
    check_streams,
    count_params,
    masked_mean,
    modalities_of,
    projection,
    routes,
)


class MLPConfig(HeadConfig):
    """Knobs of MLPFusion."""


class TransformerConfig(HeadConfig):
    """Knobs of TransformerFusion; 6x4 by default, `depth = 12, num_heads = 12` for the larger one."""

    depth: int = Field(default=6, ge=1)
    num_heads: int = Field(default=4, ge=1)
    tokens: Literal["all", "pooled"] = "all"
    max_positions: int = Field(default=5000, ge=1)  # the release's table, most of which it never reads
    block_dropout: float = Field(default=0.1, ge=0.0, lt=1.0)


class MLPFusion(nn.Module):
    """Two layers on the concatenated means of the streams; the same two for the verb and for the noun."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        self.routes = routes(config.streams, config.question_routing)
        inputs = {len(names) for names in self.routes.values()}
        if len(inputs) > 1:
            raise UsageError(
                "the MLP head needs as many streams for the verb as for the noun: give both questions or neither"
            )
        self.project = nn.ModuleDict(
            {m: projection(config, m, w) for m, w in modalities_of(config.streams).items()}
        )
        width = inputs.pop() * config.d_model
        self.fuser = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.d_model))
        self.dropout = nn.Dropout(config.dropout)
        self.verb_head = nn.Linear(config.d_model, config.num_verbs)
        self.noun_head = nn.Linear(config.d_model, config.num_nouns)

    def forward(self, streams: Streams) -> dict[str, Tensor]:
        """As SSMFusion.forward."""
        check_streams(streams, self.config.streams)
        vectors = {name: self._vector(name, *stream) for name, stream in streams.items()}
        fused = {
            t: self.fuser(torch.cat([vectors[name] for name in names], -1))
            for t, names in self.routes.items()
        }
        return {
            "verb": self.verb_head(self.dropout(fused["verb"])),
            "noun": self.noun_head(self.dropout(fused["noun"])),
        }

    def _vector(self, name: str, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(B, d): the projected mean; exactly 0 for an empty row, so that no text says nothing."""
        vector = self.project[self.config.streams[name].modality](masked_mean(tokens, lengths))
        return torch.where(lengths[:, None] > 0, vector, 0.0)

    def num_params(self, *, heads: bool = True) -> int:
        return count_params(self, heads)


class TransformerFusion(nn.Module):
    """Self-attention over all streams of a target; the first stream's class token is read."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.routes = routes(config.streams, config.question_routing)
        d_model, modalities = config.d_model, modalities_of(config.streams)
        if d_model % config.num_heads:
            raise UsageError(
                f"[transformer] d_model {d_model} is not divisible by num_heads {config.num_heads}"
            )
        self.project = nn.ModuleDict({m: projection(config, m, width) for m, width in modalities.items()})
        self.cls_token = nn.ParameterDict({m: nn.Parameter(torch.randn(d_model) * 0.02) for m in modalities})
        self.type_token = nn.ParameterDict({m: nn.Parameter(torch.randn(d_model) * 0.02) for m in modalities})
        self.position = nn.ParameterDict(
            {m: nn.Parameter(torch.randn(config.max_positions, d_model) * 0.02) for m in modalities}
        )
        self.blocks = nn.ModuleList(
            [Block(d_model, config.num_heads, config.block_dropout) for _ in range(config.depth)]
        )
        self.dropout = nn.Dropout(config.dropout)
        self.verb_head = nn.Linear(d_model, config.num_verbs)
        self.noun_head = nn.Linear(d_model, config.num_nouns)

    def forward(self, streams: Streams) -> dict[str, Tensor]:
        """As SSMFusion.forward."""
        check_streams(streams, self.config.streams)
        embedded = {name: self._embed(name, *stream) for name, stream in streams.items()}
        out = {}
        for target, names in self.routes.items():
            x = torch.cat([embedded[name][0] for name in names], dim=1)  # (B, tokens of all streams, d)
            mask = torch.cat([embedded[name][1] for name in names], dim=1)[:, None, None]  # (B, 1, 1, tokens)
            for block in self.blocks:
                x = block(x, mask)
            out[target] = x[:, 0]
        return {
            "verb": self.verb_head(self.dropout(out["verb"])),
            "noun": self.noun_head(self.dropout(out["noun"])),
        }

    def _embed(self, name: str, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens with the stream's class token first (B, 1 + L, d), which of them count (B, 1 + L))."""
        modality = self.config.streams[name].modality
        if self.config.tokens == "pooled":
            tokens, lengths = masked_mean(tokens, lengths)[:, None], lengths.clamp(max=1)
        if 1 + tokens.shape[1] > self.config.max_positions:
            raise UsageError(
                f"stream {name}: {tokens.shape[1]} tokens exceed the position table; raise transformer.max_positions"
            )
        x = self.project[modality](tokens)
        x = torch.cat([self.cls_token[modality].expand(len(x), 1, -1), x], dim=1)
        x = x + self.position[modality][: x.shape[1]] + self.type_token[modality]
        # the class token always counts
        return x, torch.arange(x.shape[1], device=x.device) <= lengths[:, None]

    def num_params(self, *, heads: bool = True) -> int:
        return count_params(self, heads)


class Block(nn.Module):
    """A pre-norm Transformer block; queries, keys and values without bias, as in the release."""

    def __init__(self, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.proj = nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, d); mask (B, 1, 1, L), True where a token may be attended to."""
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*qkv, attn_mask=mask)  # (B, heads, L, d / heads)
        x = x + self.dropout(self.proj(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.mlp(self.norm2(x)))
