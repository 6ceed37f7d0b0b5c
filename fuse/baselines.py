"""The other heads of Table 3: a two-layer MLP, and Transformers of 6 layers with 4 heads and 12 with 12.

Same streams, same routing, same classifiers as SSMFusion, so that a comparison compares fusions. The paper's
own rows fed them one vector a stream and MambaVL all tokens: `tokens = "pooled"` repeats that, `"all"` gives
the Transformer what MambaVL gets.
"""

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mambavl.configs import Config
from mambavl.configs.errors import UsageError
from mambavl.fuse.dropout import dropout, keys_at, keys_of_tokens
from mambavl.fuse.head import Head, HeadConfig, Streams, masked_mean


class MLPConfig(HeadConfig):
    """Settings of MLPFusion."""


class TransformerSettings(Config):
    """TransformerFusion's own settings; 6x4 by default, `depth = 12, num_heads = 12` for the larger one."""

    depth: int = Field(default=6, ge=1)  # blocks
    num_heads: int = Field(default=4, ge=1)  # attention heads of a block; they divide d_model
    # all: every token of every stream; pooled: one mean vector a stream, as in the paper's Table 3
    tokens: Literal["all", "pooled"] = "all"
    # rows of the learnt position table, in tokens of a stream, class token included; 5000 is the release's
    max_positions: int = Field(default=5000, ge=1)
    block_dropout: float = Field(default=0.1, ge=0.0, lt=1.0)  # probability, inside the blocks


class TransformerConfig(HeadConfig, TransformerSettings):
    """All settings of TransformerFusion."""


class MLPFusion(Head):
    """Two layers on the concatenated means of the streams; the same two for every target."""

    config: MLPConfig

    def __init__(self, config: MLPConfig) -> None:
        super().__init__(config)
        inputs = {len(names) for names in self.routes.values()}
        if len(inputs) > 1:
            numbers = ", ".join(f"{len(names)} reach {target}" for target, names in self.routes.items())
            raise UsageError(
                f"the MLP head needs as many streams for one target as for another, and {numbers}: give a "
                "question about each, or as many streams in [targets]"
            )
        width = inputs.pop() * config.d_model
        self.fuser = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.d_model))
        self.add_classifiers()

    @property
    def cannot_step(self) -> None:
        """It reads the mean of each stream alone, which can be carried on."""

    def fuse(self, streams: Streams, keys: Tensor | None = None) -> dict[str, Tensor]:
        vectors = {name: self._vector(name, *stream) for name, stream in streams.items()}
        return {
            target: self.fuser(torch.cat([vectors[name] for name in names], -1))
            for target, names in self.routes.items()
        }

    def _vector(self, name: str, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(B, d): the projected mean; exactly 0 for a row without tokens, so that no text says nothing."""
        vector = self.project[self.config.streams[name].modality](masked_mean(tokens, lengths))
        return torch.where(lengths[:, None] > 0, vector, 0.0)


class TransformerFusion(Head):
    """Self-attention over all streams of a target. The class token of a row's first stream is read: of the
    first that the row has; 0 for a row that has none.
    """

    config: TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        d_model, modalities = config.d_model, list(self.modalities)
        if d_model % config.num_heads:
            raise UsageError(
                f"head.d_model = {d_model} is no multiple of transformer.num_heads = {config.num_heads}; "
                "change one of them"
            )
        self.cls_token = nn.ParameterDict({m: nn.Parameter(torch.randn(d_model) * 0.02) for m in modalities})
        self.type_token = nn.ParameterDict({m: nn.Parameter(torch.randn(d_model) * 0.02) for m in modalities})
        self.position = nn.ParameterDict(
            {m: nn.Parameter(torch.randn(config.max_positions, d_model) * 0.02) for m in modalities}
        )
        self.blocks = nn.ModuleList(
            [Block(d_model, config.num_heads, config.block_dropout) for _ in range(config.depth)]
        )
        self.add_classifiers()

    def fuse(self, streams: Streams, keys: Tensor | None = None) -> dict[str, Tensor]:
        embedded = {name: self._embed(name, *stream) for name, stream in streams.items()}
        out = {}
        for target, names in self.routes.items():
            x = torch.cat([embedded[name][0] for name in names], dim=1)  # (B, tokens of all streams, d)
            counts = torch.cat([embedded[name][1] for name in names], dim=1)  # (B, tokens of all streams)
            has_any = counts.any(1, keepdim=True)
            # attention to nothing at all would be NaN; what such a row computes is not read
            mask = (counts | ~has_any)[:, None, None]  # (B, 1, 1, tokens of all streams)
            lengths = {name: embedded[name][0].shape[1] for name in names}
            of_tokens = None if keys is None else keys_of_tokens(keys, lengths)  # (B, tokens)
            for i, block in enumerate(self.blocks):
                x = block(x, mask, keys_at(of_tokens, f"{target} block {i}"))
            first = counts.int().argmax(1)[:, None, None]  # a stream's class token comes before its tokens
            out[target] = torch.where(has_any, x.take_along_dim(first, 1)[:, 0], 0.0)
        return out

    @property
    def cannot_step(self) -> str | None:
        if self.config.tokens == "pooled":
            return None  # one mean a stream
        return (
            "every token attends to every other, so each step would cost as much as all before it; train one "
            'with transformer.tokens = "pooled", or the head mambavl or mlp'
        )

    @property
    def drops(self) -> bool:
        return super().drops or self.config.block_dropout > 0

    def undecayed_matrices(self) -> Iterable[nn.Parameter]:
        return self.position.parameters()

    def _embed(self, name: str, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens with the stream's class token first (B, 1 + L, d), which of them count (B, 1 + L)). Raises
        UsageError for more tokens than there are positions.
        """
        modality = self.config.streams[name].modality
        if self.config.tokens == "pooled":
            tokens, lengths = masked_mean(tokens, lengths)[:, None], lengths.clamp(max=1)
        if 1 + tokens.shape[1] > self.config.max_positions:
            raise UsageError(
                f"stream {name}: {tokens.shape[1]} tokens exceed the position table; "
                "raise transformer.max_positions"
            )
        x = self.project[modality](tokens)
        x = torch.cat([self.cls_token[modality].expand(len(x), 1, -1), x], dim=1)
        x = x + self.position[modality][: x.shape[1]] + self.type_token[modality]
        # the class token always counts, unless the row does not have the stream (length -1)
        return x, torch.arange(x.shape[1], device=x.device) <= lengths[:, None]


class Block(nn.Module):
    """A pre-norm Transformer block; queries, keys and values without bias, as in the release."""

    def __init__(self, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.proj = nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: Tensor, mask: Tensor, of_tokens: Tensor | None) -> Tensor:
        """x (B, L, d); mask (B, 1, 1, L), True where a token may be attended to; of_tokens (B, L), the keys
        of its dropout, None in evaluation.
        """
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = qkv
        # (B, heads, L, d / heads)
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        attended = self.proj(attended.transpose(1, 2).flatten(2))
        x = x + dropout(attended, self.dropout, keys_at(of_tokens, "attention"))
        return x + dropout(self.mlp(self.norm2(x)), self.dropout, keys_at(of_tokens, "mlp"))
