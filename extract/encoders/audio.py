"""`audio:NAME`: transformers encoders of sound (AST, Wav2Vec2, HuBERT, WavLM, Whisper's encoder, ...) as a
third modality.

    waveform (n,) -> the model's own feature extractor -> the model -> (L, D), one vector a time step

Rate and features come from the published preprocessor_config.json. AST and Whisper take windows of one
length: what is shorter is filled up as they were trained, and only the steps that begin within the clip are
kept. What is longer than a window is encoded window by window. AST's several vectors a step, one a frequency
band, become their mean.

wav2vec 2.0 and its kin (`MASKED`) take sounds of any length. Several are run together and come out as each
would alone: the convolutions at the front, whose norm may be over all of a sound (group norm), see one sound
at a time; the transformer sees them side by side, behind a mask. Of other models of any length, only sounds
of one length are run together (`details`: mixed_lengths = alone).
"""

import math
import warnings
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d
from torch.nn.utils.rnn import pad_sequence

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
# transformers models of a convolutional front, a projection of each step and a transformer that masks padding
MASKED = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio")


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
        # an adapter's convolutions would read past the end of a row
        self._masked = config.model_type in MASKED and not getattr(config, "add_adapter", False)
        self._places = _places_by_row(self.model) if self._masked else None
        self._grid = _ast_grid(config) if config.model_type == "audio-spectrogram-transformer" else None
        try:
            self._fixed = self._fills_up()
            self.window = self._window(name)
            with torch.inference_mode():
                self.width = self._run([self._features(np.zeros(self.rate, np.float32))])[0].shape[-1]
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
            raise UsageError(
                f"encoder {name}: a second of sound cannot be encoded: {first_line(error)}"
            ) from None
        self.details |= {"features": _settings(extractor), "window_samples": self.window}
        self.details["mixed_lengths"] = "together" if self._masked or self._fixed else "alone"
        if self._grid:
            self.details["filter_bank"] = _filter_bank()

    @torch.inference_mode()
    def encode(self, waveforms: Sequence[np.ndarray]) -> list[Tensor]:
        """Waveforms (n_i,) float32 at `rate` -> (L_i, D) float32 on the CPU, each as if it stood alone.

        At most as many windows as there are waveforms are run at once. Raises UsageError for a waveform of
        less than SHORTEST seconds.
        """
        if any(len(waveform) < self.shortest for waveform in waveforms):
            raise UsageError(f"a waveform has fewer than {self.shortest} samples ({SHORTEST:g} s)")
        pieces: list[np.ndarray] = []
        counts = []
        for waveform in waveforms:
            cut = self._cut(waveform)
            pieces += cut
            counts.append(len(cut))
        states = iter(self._encode_pieces(pieces, len(waveforms)))
        return [torch.cat(list(islice(states, count))) for count in counts]

    def _encode_pieces(self, pieces: list[np.ndarray], most: int) -> list[Tensor]:
        """The states of each piece, (L_i, D) float32 on the CPU; at most `most` are run at once."""
        features = [self._features(piece) for piece in pieces]
        found = [torch.empty(0)] * len(pieces)
        for rows in self._runs(features, most):
            for row, states in zip(rows, self._run([features[row] for row in rows]), strict=True):
                found[row] = states[: self._steps(len(pieces[row]), len(states))].float().cpu()
        return found

    def _runs(self, features: list[Tensor], most: int) -> list[list[int]]:
        """Which rows are run together, the longest first."""
        runs: list[list[int]] = []
        for row in sorted(range(len(features)), key=lambda row: features[row].shape, reverse=True):
            longest = features[runs[-1][0]] if runs else features[row]
            if runs and len(runs[-1]) < most and self._goes_with(longest, len(runs[-1]) + 1, features[row]):
                runs[-1].append(row)
            else:
                runs.append([row])
        return runs

    def _goes_with(self, longest: Tensor, rows: int, shorter: Tensor) -> bool:
        """May a sound be filled up to the longest of a run that then has so many rows? Where at least half of
        it is sound, or all of the run is no more than one window; else filling up costs more than it saves.
        """
        if longest.shape == shorter.shape:
            return True
        return self._masked and (rows * len(longest) <= self.window or 2 * len(shorter) >= len(longest))

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

    def _run(self, features: list[Tensor]) -> list[Tensor]:
        """Features of some rows, of one length unless the model is one of those that mask -> (L_i, D) each, L
        steps of time.
        """
        device = next(self.model.parameters()).device
        features = [row.to(device) for row in features]
        if self._masked:
            return self._run_masked(features)
        states = self.model(torch.stack(features)).last_hidden_state
        if states.ndim != 3:
            raise ValueError(f"it gives states of shape {tuple(states.shape)}, not steps of time")
        # bands, then times
        return list(states[:, AST_PREFIX:].unflatten(1, self._grid).mean(1) if self._grid else states)

    def _run_masked(self, waves: list[Tensor]) -> list[Tensor]:
        """Waves (n_i,) -> (L_i, D) each."""
        model: Any = self.model
        steps = [model.feature_extractor(wave[None])[0].T for wave in waves]  # (L_i, C)
        lengths = [len(row) for row in steps]
        projected = model.feature_projection(pad_sequence(steps, batch_first=True))
        hidden = projected[0] if isinstance(projected, tuple) else projected
        mask = None
        if len(set(lengths)) > 1:
            ends = torch.tensor(lengths, device=hidden.device)
            mask = torch.arange(max(lengths), device=hidden.device) < ends[:, None]  # (B, L)
        if self._places is not None:
            self._places.lengths = lengths
        with warnings.catch_warnings():
            # WavLM's attention has a bias in numbers and a mask in truths
            warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask and attn_mask")
            states = model.encoder(hidden, attention_mask=mask).last_hidden_state
        return [row[:length] for row, length in zip(states, lengths, strict=True)]

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


class _PlacesByRow(nn.Module):
    """The convolutions that tell a transformer where a step is, run on each row's own steps: several of them,
    or a norm before them, make something of the zeros that a row is filled up with.
    """

    def __init__(self, convolutions: nn.Module) -> None:
        super().__init__()
        self.convolutions = convolutions
        self.lengths: list[int] = []  # steps of the rows that are run next

    def forward(self, states: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D), zeros behind the end of a row."""
        if len(set(self.lengths)) == 1:
            return self.convolutions(states)
        kept = zip(states, self.lengths, strict=True)
        rows = [self.convolutions(row[None, :length])[0] for row, length in kept]
        return pad_sequence(rows, batch_first=True)


def _places_by_row(model: Any) -> _PlacesByRow | None:
    """Puts a `_PlacesByRow` into a model that needs one."""
    config = model.config
    if config.model_type != "data2vec-audio" and not getattr(config, "conv_pos_batch_norm", False):
        return None
    model.encoder.pos_conv_embed = _PlacesByRow(model.encoder.pos_conv_embed)
    return model.encoder.pos_conv_embed


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
