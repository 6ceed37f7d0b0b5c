"""A head with several SSM layers, one above the other.

    x <- x + SSM(LayerNorm(x))        for each layer before the last, step by step
    pooled = mean_t SSM(x)_t          the last, as in fusion.py; there is neither norm nor residual

The layers of Mamba (arXiv 2312.00752), where the paper has one and no residual. A is one for all layers and
modalities, as far as `fusion.share` says; each layer has a mixer and a skip D of its own for each modality,
or one for all where the mixer is shared. One layer is the head `mambavl`.
"""

from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor, nn

from mambavl.configs import Config
from mambavl.fuse.fusion import FusionConfig, Mixer, SSMFusion
from mambavl.fuse.head import Streams
from mambavl.fuse.ragged import Ragged
from mambavl.fuse.released import reset_like_release
from mambavl.fuse.scan import selective_scan


class DeepSettings(Config):
    """DeepFusion's own settings, besides those of all heads with an SSM."""

    layers: int = Field(default=2, ge=1)  # SSMs that a token passes, the last one included


class DeepConfig(FusionConfig, DeepSettings):
    """All settings of DeepFusion."""


class DeepFusion(SSMFusion):
    """SSMFusion behind some more SSMs with norms and residuals."""

    config: DeepConfig

    def __init__(self, config: DeepConfig) -> None:
        super().__init__(config)
        layers = lambda: nn.ModuleList([Layer(config) for _ in range(config.layers - 1)])
        self.layer = nn.ModuleDict({key: layers() for key in self.mixer})
        if config.init == "released":
            reset_like_release(self.layer)

    def _projected(self, modality: str, streams: Streams) -> tuple[Tensor, Ragged]:
        """A modality's tokens through its MLP and all layers but the last, as `Ragged.pack` has them."""
        x, ragged = super()._projected(modality, streams)
        a = -torch.exp(self.a_log[self._a_of[modality]].float())
        for layer in self._layers(modality):
            x = layer(x, ragged, a)
        return x, ragged

    def _layers(self, modality: str) -> nn.ModuleList:
        layers = self.layer[self._mixer_of[modality]]
        assert isinstance(layers, nn.ModuleList)  # a ModuleDict has no type of its values
        return layers

    @property
    def cannot_step(self) -> str | None:
        if self.config.layers == 1:
            return None
        return "what its lower layers remember is not carried from step to step; train the head mambavl"

    def ssm_parameters(self) -> Iterable[nn.Parameter]:
        layers = [part for part in self.layer.modules() if isinstance(part, Layer)]
        own = [parameter for layer in layers for parameter in (*layer.mixer.parameters(), layer.d_skip)]
        return [*super().ssm_parameters(), *own]


class Layer(nn.Module):
    """A pre-norm residual SSM."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(config.d_model)
        self.mixer = Mixer(config)
        self.d_skip = nn.Parameter(torch.ones(config.d_inner))

    def forward(self, x: Tensor, ragged: Ragged, a: Tensor) -> Tensor:
        """x as `Ragged.pack` has it, (T, d), a (D, N) -> what x is."""
        inputs = self.mixer.scan_inputs(self.norm(x), ragged.lengths, self.d_skip, ragged.pad)
        y = selective_scan(
            **inputs._asdict(), A=a, delta_softplus=True, zoh=self.config.zoh, backend=self.config.scan
        )
        assert isinstance(y, Tensor)  # no last state was asked for
        return x + self.mixer.out_proj(ragged.unpad(y))
