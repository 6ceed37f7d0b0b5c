"""A head whose modalities meet inside their SSMs: what one remembers is read out by what the other says.

For a stream s of a target, with streams r of other modalities that reach the same target:

    h_t  = exp(delta_t A) h_{t-1} + delta_t B_t u_t            from s alone, as in fusion.py
    Cbar = mean over r of the mean of C^r over r's tokens       (N,), one vector a row and target
    swap:   y_t = Cbar h_t (+ D u_t, gated)
    gated:  y_t = ((1 - g_t) C_t + g_t Cbar) h_t,   g_t = sigmoid(W u_t + b), (N,), which begins at 1/2

and then means over steps, a sum over streams and classifiers, as in fusion.py. Each y is a product of two
modalities, where a sum of streams cannot hold what only both together tell.

Ours. That C is exchanged is after the Cross Mamba block of Sigma (arXiv 2404.04256), whose two streams have
as many steps and exchange it step by step; a video and a question have neither as many nor steps that belong
together, so C is the other's mean. Streams that a row does not have, or has without tokens, are not among the
r; without any r a stream reads itself, C_t as it is. The scan of a stream is computed for each set of others
that it meets: a video once for each target's question.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mambavl.configs import Config
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import Streams, masked_mean
from mambavl.fuse.ragged import Ragged
from mambavl.fuse.scan.inputs import ScanInputs


class CrossSettings(Config):
    """CrossFusion's own settings, besides those of all heads with an SSM."""

    gated: bool = False  # each step and state weighs the other modality's read-out against its own


class CrossConfig(FusionConfig, CrossSettings):
    """All settings of CrossFusion."""


class Reading(NamedTuple):
    """A stream that is read out by others."""

    stream: str
    others: tuple[str, ...]


class CrossFusion(SSMFusion):
    """SSMFusion with the read-out C exchanged between the modalities of a target."""

    config: CrossConfig

    def __init__(self, config: CrossConfig) -> None:
        super().__init__(config)
        self.gate = nn.ModuleDict()
        if config.gated:
            for key in self.mixer:
                self.gate[key] = nn.Linear(config.d_inner, config.d_state)
                for parameter in self.gate[key].parameters():
                    nn.init.zeros_(parameter)  # own and other count alike
        self._readings = {target: self._readings_of(names) for target, names in self.routes.items()}

    def _readings_of(self, names: list[str]) -> list[Reading]:
        modality = {name: self.config.streams[name].modality for name in names}
        return [
            Reading(name, tuple(other for other in names if modality[other] != modality[name]))
            for name in names
        ]

    def fuse(self, streams: Streams, keys: Tensor | None = None) -> dict[str, Tensor]:
        inputs: dict[str, ScanInputs] = {}
        for m in self.modalities:
            inputs |= self._rows_of(m, *self._scan_inputs(m, streams))
        readings = {reading for of_target in self._readings.values() for reading in of_target}
        scans = {reading: self._read_by_others(reading, inputs) for reading in sorted(readings)}
        projected = {}
        for reading, mean in self._means(scans, lambda reading: self._modality(reading.stream)).items():
            projected[reading] = self._mixer(self._modality(reading.stream)).out_proj(mean)
        return {
            target: torch.stack([projected[reading] for reading in of_target]).sum(0)
            for target, of_target in self._readings.items()
        }

    def _rows_of(self, modality: str, scan: ScanInputs, ragged: Ragged) -> dict[str, ScanInputs]:
        """The scans of a modality's distinct rows -> by stream, of each row: two rows that ask the same are
        read by two videos.
        """
        names = self._names_of(modality)
        parts = {
            field: ragged.spread(value).chunk(len(names))
            for field, value in scan._asdict().items()
            if value is not None and field not in ("D", "delta_bias")
        }
        return {
            name: scan._replace(**{field: chunks[i] for field, chunks in parts.items()})
            for i, name in enumerate(names)
        }

    def _read_by_others(self, reading: Reading, inputs: dict[str, ScanInputs]) -> ScanInputs:
        """The inputs of a stream's scan with the C that reads it."""
        own = inputs[reading.stream]
        if not reading.others:
            return own
        means, counts = [], []
        for other in reading.others:
            lengths = inputs[other].lengths
            assert lengths is not None  # a head's scans have them
            means.append(masked_mean(inputs[other].C, lengths))  # (B, N); 0 without tokens
            counts.append(lengths > 0)
        count = torch.stack(counts).sum(0)[:, None]  # (B, 1)
        read_out = (torch.stack(means).sum(0) / count.clamp(min=1).to(own.C.dtype))[:, None]  # (B, 1, N)
        if self.config.gated:
            gate = self.gate[self._mixer_of[self._modality(reading.stream)]]
            read_out = torch.lerp(own.C, read_out.expand_as(own.C), torch.sigmoid(gate(own.u)))
        return own._replace(C=torch.where(count[..., None] > 0, read_out, own.C))

    def _modality(self, stream: str) -> str:
        return self.config.streams[stream].modality

    @property
    def cannot_step(self) -> str:
        return (
            "what it remembers of one stream is read out by the whole of another, which is not there yet; "
            "train the head mambavl"
        )

    def ssm_parameters(self) -> Iterable[nn.Parameter]:
        return [*super().ssm_parameters(), *self.gate.parameters()]
