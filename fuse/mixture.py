"""A head whose SSMs choose how long they remember: a mixture of A matrices for each row.

    gamma = softmax(W mean_t(u_t))                  (K,), of a row's own tokens behind the Conv1d
    A     = sum_k gamma_k A_k                       (D, N), the row's; A_k = -exp(a_log_k)

and the rest as in fusion.py. In Mamba delta, B and C follow the input and A does not; that it may is MixANT's
(arXiv 2509.11394), whose gate is the same and whose matrices are those of a Mamba that anticipates over
minutes. Here the K matrices are shared between modalities, as the one A is, and each stream of a row has
weights of its own. The matrices begin as multiples of one another, from half of Mamba's start to twice it: if
all began alike, nothing would ever tell them apart. One matrix is the head `mambavl`.

B rows, L steps, D channels, N states, K matrices.
"""

import math
from collections.abc import Callable, Iterable

import torch
from pydantic import Field
from torch import Tensor, nn

from mambavl.configs import Config
from mambavl.fuse.fusion import FusionConfig, K, SSMFusion
from mambavl.fuse.head import masked_mean, valid_tokens
from mambavl.fuse.released import reset_like_release
from mambavl.fuse.scan import pooled_selective_scan
from mambavl.fuse.scan.inputs import ScanInputs


class MixtureSettings(Config):
    """MixtureFusion's own settings, besides those of all heads with an SSM."""

    matrices: int = Field(default=4, ge=1)  # A matrices that a row's own is mixed from


class MixtureConfig(FusionConfig, MixtureSettings):
    """All settings of MixtureFusion."""


class MixtureFusion(SSMFusion):
    """SSMFusion with several A, mixed for each row of each stream."""

    config: MixtureConfig

    def __init__(self, config: MixtureConfig) -> None:
        super().__init__(config)
        self.a_log = nn.ParameterDict(
            {key: nn.Parameter(_several(a_log.detach(), config)) for key, a_log in self.a_log.items()}
        )
        linear = lambda: nn.Linear(config.d_inner, config.matrices, bias=False)
        self.router = nn.ModuleDict({key: linear() for key in self.mixer})
        if config.init == "released":
            reset_like_release(self.router)

    def _means(self, scans: dict[K, ScanInputs], modality_of: Callable[[K], str] = str) -> dict[K, Tensor]:
        return {one: self._mean(scan, modality_of(one)) for one, scan in scans.items()}

    def _mean(self, scan: ScanInputs, modality: str) -> Tensor:
        """(rows, D): the mean of a modality's outputs over each row's steps."""
        assert scan.lengths is not None  # a head's scans have them
        router = self.router[self._mixer_of[modality]]
        weights = router(masked_mean(scan.u, scan.lengths)).float().softmax(-1)  # (rows, K)
        matrices = -torch.exp(self.a_log[self._a_of[modality]].float())  # (K, D, N)
        a = torch.einsum("bk,kdn->bdn", weights, matrices)
        return pooled_scan_by_row(scan, a, zoh=self.config.zoh, backend=self.config.scan)

    @property
    def cannot_step(self) -> str:
        return "how long it remembers depends on the mean of all tokens; train the head mambavl"

    def ssm_parameters(self) -> Iterable[nn.Parameter]:
        return [*super().ssm_parameters(), *self.router.parameters()]


def _several(a_log: Tensor, config: MixtureConfig) -> Tensor:
    """a_log (D, N) -> (K, D, N): A times 1/2 to 2, in equal ratios; each drawn anew in the released start."""
    number = config.matrices
    if config.init == "released":
        return torch.stack([nn.init.xavier_uniform_(a_log.clone()) for _ in range(number)])
    steps = torch.linspace(-1, 1, number) if number > 1 else torch.zeros(1)
    return a_log + math.log(2) * steps[:, None, None]


def pooled_scan_by_row(scan: ScanInputs, a: Tensor, *, zoh: bool = False, backend: str = "auto") -> Tensor:
    """`pooled_selective_scan`, delta through a softplus, with an A for each row, (B, D, N).

    In one scan of a single row that has the channels of all, B D of them, with a group for each row's B and
    C. u and C are zero from a row's length on, and so is y: the sum over all steps is that over its own.
    """
    assert scan.lengths is not None
    rows, steps, channels = scan.u.shape
    valid = valid_tokens(scan.u, scan.lengths)
    side_by_side = lambda x: torch.where(valid, x, 0.0).transpose(0, 1).reshape(1, steps, rows * channels)
    groups = lambda x: torch.where(valid, x, 0.0).transpose(0, 1)[None]  # (1, L, B, N)
    for_each = lambda x: None if x is None else x.repeat(rows)
    mean = pooled_selective_scan(
        side_by_side(scan.u),
        side_by_side(scan.delta),
        a.flatten(0, 1),
        groups(scan.B),
        groups(scan.C),
        for_each(scan.D),
        None if scan.z is None else side_by_side(scan.z),
        for_each(scan.delta_bias),
        True,
        zoh=zoh,
        backend=backend,
    )
    share = steps / scan.lengths.clamp(min=1)[:, None]
    return mean.view(rows, channels) * share.to(mean.dtype)
