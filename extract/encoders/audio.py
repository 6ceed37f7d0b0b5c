"""`audio:NAME`: transformers encoders of sound (AST, Wav2Vec2, HuBERT, WavLM, Whisper's encoder, ...) as a
third modality.

    waveform (n,) -> the model's own feature extractor -> the model -> (L, D), one vector a time step

Rate and features come from the published preprocessor_config.json. AST and Whisper take windows of one
length: what is shorter is filled up as they were trained, and only the steps that begin within the clip are
kept. What is longer than a window is encoded window by window. AST's several vectors a step, one a frequency
band, become their mean.
"""

import math
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.base import AudioEncoder
from mambavl.extract.encoders.hf import modality_of, read_config, untrained
from mambavl.extract.encoders.weights import (
    first_line,
    refuse_lacking,
    run_details,
    transformers_weights,
    weights_sha256,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AudioLevel = Literal["clip", "frame"]

LONGEST = 30.0  # seconds in one window of a model that takes any: attention grows with the square of it
SHORTEST = 0.1  # seconds; less does not fill the first filters
AST_PREFIX = 2  # class and distillation token
EXTRACTOR_FILE = "preprocessor_config.json"


class TransformersAudioEncoder(AudioEncoder):
    """A frozen transformers audio model and its feature extractor."""

    def __init__(self, name: str, model: "PreTrainedModel", extractor: Any) -> None:
        super().__init__()
        config = model.config
        self.details = run_details(model)
        self.model = model.get_encoder().eval() if config.is_encoder_decoder else model.eval()
        self.sha256 = weights_sha256(self.model)
        self.extractor = extractor
        self.rate = extractor.sampling_rate
        self.shortest = round(SHORTEST * self.rate)
        self._grid = _ast_grid(config) if config.model_type == "audio-spectrogram-transformer" else None
        try:
            self._fixed = self._fills_up()
            self.window = self._window(name)
            with torch.inference_mode():
                self.width = self._run(self._features(np.zeros(self.rate, np.float32))[None]).shape[-1]
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
            raise UsageError(
                f"encoder {name}: a second of sound cannot be encoded: {first_line(error)}"
            ) from None
        self.details |= {"features": _settings(extractor), "window_samples": self.window}
        if self._grid:
            self.details["filter_bank"] = _filter_bank()

    @torch.inference_mode()
    def encode(self, waveforms: Sequence[np.ndarray]) -> list[Tensor]:
        """Waveforms (n_i,) float32 at `rate` -> (L_i, D) float32 on the CPU, each as if it stood alone.

        Windows of one length are run together and others by themselves, so nothing is filled up that the
        model does not fill itself. Raises UsageError for a waveform of less than SHORTEST seconds.
        """
        if any(len(waveform) < self.shortest for waveform in waveforms):
            raise UsageError(f"a waveform has fewer than {self.shortest} samples ({SHORTEST:g} s)")
        pieces: list[np.ndarray] = []
        counts = []
        for waveform in waveforms:
            cut = self._cut(waveform)
            pieces += cut
            counts.append(len(cut))
        states = iter(self._encode_pieces(pieces))
        return [torch.cat(list(islice(states, count))) for count in counts]

    def _encode_pieces(self, pieces: list[np.ndarray]) -> list[Tensor]:
        """The states of each piece, (L_i, D) float32 on the CPU."""
        features = [self._features(piece) for piece in pieces]
        found = [torch.empty(0)] * len(pieces)
        for shape in dict.fromkeys(feature.shape for feature in features):
            rows = [row for row, feature in enumerate(features) if feature.shape == shape]
            batch = self._run(torch.stack([features[row] for row in rows]))
            for row, states in zip(rows, batch, strict=True):
                found[row] = states[: self._steps(len(pieces[row]), len(states))].float().cpu()
        return found

    def _cut(self, waveform: np.ndarray) -> list[np.ndarray]:
        """Pieces of equal length (to a sample) that follow one another: a short rest at the end would know
        too little.
        """
        if len(waveform) <= self.window:
            return [waveform]
        parts = math.ceil(len(waveform) / self.window)
        return np.array_split(waveform, parts)

    def _features(self, waveform: np.ndarray) -> Tensor:
        found = self.extractor([waveform], sampling_rate=self.rate, return_tensors="pt")
        return found[self.model.main_input_name][0].float()

    def _run(self, features: Tensor) -> Tensor:
        """(B, ...) -> (B, L, D), L steps of time."""
        states = self.model(features.to(next(self.model.parameters()).device)).last_hidden_state
        if states.ndim != 3:
            raise ValueError(f"it gives states of shape {tuple(states.shape)}, not steps of time")
        # bands, then times
        return states[:, AST_PREFIX:].unflatten(1, self._grid).mean(1) if self._grid else states

    def _fills_up(self) -> bool:
        """Does the extractor fill every clip up to one length? 0.3 s and 0.5 s tell."""
        lengths = (3 * self.rate // 10, 5 * self.rate // 10)
        first, second = (self._features(np.zeros(samples, np.float32)) for samples in lengths)
        return first.shape == second.shape

    def _window(self, name: str) -> int:
        """Samples in the longest piece that is run at once."""
        if not self._fixed:
            return round(LONGEST * self.rate)
        if self._grid:
            return self.extractor.max_length * self.rate // 100  # a filter bank has 100 frames a second
        if hasattr(self.extractor, "n_samples"):
            return self.extractor.n_samples
        raise UsageError(
            f"encoder {name}: {type(self.extractor).__name__} "
            "fills every clip up, to a length that it does not say"
        )

    def _steps(self, samples: int, steps: int) -> int:
        """Steps that belong to the clip, of those that the model gives."""
        return max(1, math.ceil(steps * samples / self.window)) if self._fixed else steps


def audio_levels(states: Tensor, levels: tuple[AudioLevel, ...], steps: int) -> dict[str, Tensor]:
    """What is stored of a clip's states (L, D): clip (D,), their mean; frame (steps, D), the means of equal
    parts of its time.
    """
    out: dict[str, Tensor] = {}
    if "clip" in levels:
        out["clip"] = states.mean(0)
    if "frame" in levels:
        out["frame"] = adaptive_avg_pool1d(states.T, steps).T
    return out


def transformers_audio(model_name: str, weights: str | None) -> TransformersAudioEncoder:
    """A model by hub name or local folder; `weights` names a folder to use instead, "random" takes the config
    alone. Raises UsageError for a model of another kind, and where files cannot be read or lack tensors.
    """
    from transformers import AutoFeatureExtractor

    name = f"audio:{model_name}"
    source = model_name if weights is None or weights == "random" else weights
    config = read_config(name, source)
    modality = modality_of(name, config)
    if modality != "audio":
        raise UsageError(f"encoder {name} is a model of {modality}; use hf:{model_name}")
    try:
        extractor = AutoFeatureExtractor.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UsageError(
            f"encoder {name}: {source} has no {EXTRACTOR_FILE} that can be read, so rate and features "
            f"are not known; put the one published with the weights next to them ({first_line(error)})"
        ) from None
    if weights == "random":
        return TransformersAudioEncoder(name, untrained(config), extractor)
    model, lacking = transformers_weights(
        name, source, EXTRACTOR_FILE, config=config, trust_remote_code=False
    )
    refuse_lacking(name, source, [key for key in lacking if not key.startswith(_UNUSED)])
    return TransformersAudioEncoder(name, model, extractor)


_UNUSED = ("decoder.", "masked_spec_embed")  # what speaks, and what stands for hidden sound in training


def _ast_grid(config: Any) -> tuple[int, int]:
    """(frequency bands, times) of AST's patches."""
    bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
    return bands, (config.max_length - config.patch_size) // config.time_stride + 1


def _filter_bank() -> str:
    """AST's extractor takes torchaudio where it is installed; the numbers differ slightly, so the spec says
    which.
    """
    from transformers.utils.import_utils import is_speech_available

    return "torchaudio" if is_speech_available() else "numpy"


def _settings(extractor: Any) -> dict[str, Any]:
    """Numbers and switches of a feature extractor, for the spec."""
    found = extractor.to_dict()
    return {key: value for key, value in sorted(found.items()) if isinstance(value, (bool, int, float, str))}
