"""MambaVL's fusion head: MLP -> Conv1d -> selective SSM per modality, one state matrix A for all, pool, sum, two heads.

    eq. 5     u^m = Conv1d(MLP(x^m))                        per modality m: video, text, audio, ...
    eq. 2, 3  h_t = exp(delta_t A) h_{t-1} + Bbar_t u_t,  y_t = C_t h_t;  delta, B, C from u^m, A shared
    then      verb = head(mean(y^V) + mean(y^verb question)),  noun = head(mean(y^V) + mean(y^noun question))

Sharing A gives no forward path from one modality to the other: the sum is the only place where they meet.
Hence the controls: `share = "none"`, video only, text only. B batch, L tokens, d model width, D = expand d
inner width, N states, R rank of delta.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from mambavl.fuse.conv import causal_conv
from mambavl.fuse.head import (
    PRESETS,
    HeadConfig,
    Streams,
    check_streams,
    count_params,
    modalities_of,
    projection,
    routes,
)
from mambavl.fuse.scan import ScanInputs, pick, pooled_selective_scans, require, selective_scan


class FusionConfig(HeadConfig):
    """Knobs of SSMFusion. `preset` sets the defaults of the others; keys given beside it win."""

    preset: Literal["default", "paper", "released"] = "default"
    mixer: Literal["mamba", "plain"] = "mamba"  # plain: no in and out projections, no gate; D = d
    d_state: int = Field(default=16, ge=1, le=256)
    d_conv: int = Field(default=4, ge=1, le=16)
    expand: int = Field(default=2, ge=1, le=8)
    dt_rank: int | None = Field(default=None, ge=1)  # absent: ceil(d_model / 16)
    share: Literal["A", "none", "A+D", "all"] = "A"
    zoh: bool = False  # exact zero-order hold for B in place of delta B
    # above 0: questions are padded or cut to it and padding counts (released)
    pad_text_to: int = Field(default=0, ge=0)
    init: Literal["mamba", "released"] = "mamba"
    scan: str = "auto"

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        preset = data.get("preset", "default")
        return {**(PRESETS.get(preset, {}) if isinstance(preset, str) else {}), **data}

    @property
    def d_inner(self) -> int:
        return self.expand * self.d_model if self.mixer == "mamba" else self.d_model

    @property
    def rank(self) -> int:
        return self.dt_rank or math.ceil(self.d_model / 16)


class SSMFusion(nn.Module):
    """Selective SSMs with one state transition matrix: A is shared, the projections are not (Algorithm 1)."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        self.routes = routes(config.streams, config.question_routing)
        modalities = modalities_of(config.streams)
        self.project = nn.ModuleDict({m: projection(config, m, width) for m, width in modalities.items()})
        owners = {m: "all" if config.share == "all" else m for m in modalities}
        self._owner = owners
        self._a_owner = {m: m if config.share == "none" else "shared" for m in modalities}
        self._d_owner = {m: "shared" if config.share in ("A+D", "all") else m for m in modalities}
        self.mixer = nn.ModuleDict({owner: Mixer(config) for owner in dict.fromkeys(owners.values())})
        # S4D-real: A = -1 .. -N
        a_log = torch.log(torch.arange(1.0, config.d_state + 1)).repeat(config.d_inner, 1)
        self.a_log = nn.ParameterDict(
            {owner: nn.Parameter(a_log.clone()) for owner in dict.fromkeys(self._a_owner.values())}
        )
        self.d_skip = nn.ParameterDict(
            {
                owner: nn.Parameter(torch.ones(config.d_inner))
                for owner in dict.fromkeys(self._d_owner.values())
            }
        )
        self.dropout = nn.Dropout(config.dropout)
        self.verb_head = nn.Linear(config.d_model, config.num_verbs)
        self.noun_head = nn.Linear(config.d_model, config.num_nouns)
        require(config.scan)  # a backend that is not here is refused now, not in the first step
        if config.init == "released":
            reset_like_release(self)

    def forward(self, streams: Streams) -> dict[str, Tensor]:
        """streams: name -> (tokens (B, L, D), lengths (B,)). Returns {"verb": (B, verbs), "noun": (B, nouns)} logits."""
        check_streams(streams, self.config.streams)
        modalities = modalities_of(self.config.streams)
        names = {
            m: [name for name, shape in self.config.streams.items() if shape.modality == m]
            for m in modalities
        }
        scans: dict[str, ScanInputs] = {}  # modality -> what its SSM scans
        for m in modalities:
            tokens, lengths = self._batched([streams[name] for name in names[m]], m)
            x = self.project[m](tokens)  # MLP (eq. 5)
            scans[m] = self.mixer[self._owner[m]].stream(x, lengths, self.d_skip[self._d_owner[m]])
        pooled: dict[str, Tensor] = {}  # stream -> (B, d)
        # modalities that share A are scanned together, and give one dA
        for owner, a_log in self.a_log.items():
            members = [m for m in modalities if self._a_owner[m] == owner]
            a = -torch.exp(a_log.float())  # (D, N); negative, so the state decays
            means = pooled_selective_scans(
                [scans[m] for m in members], a, True, zoh=self.config.zoh, backend=self.config.scan
            )
            for m, mean in zip(members, means, strict=True):  # (streams * B, D)
                mean = self.mixer[self._owner[m]].out_proj(mean)
                pooled.update(zip(names[m], mean.chunk(len(names[m])), strict=True))
        sums = {
            target: torch.stack([pooled[name] for name in names]).sum(0)
            for target, names in self.routes.items()
        }
        return {
            "verb": self.verb_head(self.dropout(sums["verb"])),
            "noun": self.noun_head(self.dropout(sums["noun"])),
        }

    @property
    def scan_backend(self) -> str:
        """What computes the scans where the head is now."""
        return pick(self.config.scan, self.verb_head.weight.device, self.verb_head.weight.dtype)

    def _batched(self, streams: list[tuple[Tensor, Tensor]], modality: str) -> tuple[Tensor, Tensor]:
        """Streams of one modality in one batch: (streams * B, L, D), right-padded with zeros to the longest."""
        pad_to = self.config.pad_text_to if modality == "text" else 0
        longest = pad_to or max(1, *(tokens.shape[1] for tokens, _ in streams))
        tokens = torch.cat([_fit_length(tokens, longest) for tokens, _ in streams])
        lengths = torch.cat([lengths for _, lengths in streams])
        return tokens, torch.full_like(lengths, pad_to) if pad_to else lengths

    def num_params(self, *, heads: bool = True) -> int:
        """Trainable parameters, with or without the two classifiers."""
        return count_params(self, heads)


class Mixer(nn.Module):
    """A selective SSM for one modality.

    `mamba`: in_proj, causal Conv1d, SiLU, scan, gate, out_proj; `plain`: Conv1d, SiLU, scan.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        d_model, d_inner, rank = config.d_model, config.d_inner, config.rank
        self.gated = config.mixer == "mamba"
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False) if self.gated else nn.Identity()
        self.conv1d = nn.Conv1d(d_inner, d_inner, config.d_conv, groups=d_inner, padding=config.d_conv - 1)
        self.x_proj = nn.Linear(d_inner, rank + 2 * config.d_state, bias=False)
        self.dt_proj = nn.Linear(rank, d_inner)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False) if self.gated else nn.Identity()
        self._init_delta(rank)

    def _init_delta(self, rank: int) -> None:
        """Mamba's start: softplus(bias) is log-uniform in [1e-3, 1e-1], so that channels remember for 10 to
        1,000 steps.
        """
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        step = torch.exp(
            torch.rand(self.dt_proj.out_features) * math.log(1e-1 / 1e-3) + math.log(1e-3)
        ).clamp(min=1e-4)
        with torch.no_grad():
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus

    def forward(self, x: Tensor, lengths: Tensor | None, a: Tensor, d_skip: Tensor) -> Tensor:
        """x (B, L, d), a (D, N), d_skip (D,) -> (B, L, d)."""
        stream = self.stream(x, lengths, d_skip)
        y = selective_scan(
            **stream._asdict(), A=a, delta_softplus=True, zoh=self.config.zoh, backend=self.config.scan
        )
        return self.out_proj(y)

    def pooled(self, x: Tensor, lengths: Tensor | None, a: Tensor, d_skip: Tensor) -> Tensor:
        """The mean of `forward` over each row's valid steps, (B, d); it commutes with out_proj, so one vector
        is projected.
        """
        stream = self.stream(x, lengths, d_skip)
        [mean] = pooled_selective_scans([stream], a, True, zoh=self.config.zoh, backend=self.config.scan)
        return self.out_proj(mean)

    def stream(self, x: Tensor, lengths: Tensor | None, d_skip: Tensor) -> ScanInputs:
        """x (B, L, d) -> what the SSM scans (eq. 5's Conv1d; delta, B and C follow the input), with softplus still to come."""
        inner = self.in_proj(x)
        u, z = inner.chunk(2, dim=-1) if self.gated else (inner, None)
        u = F.silu(causal_conv(u, self.conv1d.weight, self.conv1d.bias))
        delta, b, c = self.x_proj(u).split(
            [self.config.rank, self.config.d_state, self.config.d_state], dim=-1
        )
        delta = F.linear(delta, self.dt_proj.weight)  # its bias is added inside the scan, in float32
        return ScanInputs(u, delta, b, c, d_skip, z, self.dt_proj.bias, lengths)


def reset_like_release(head: nn.Module) -> None:
    """What the released code does to every parameter after building.

    Xavier on all matrices, A_log and Conv1d included; zero biases in linear layers; fresh norms. A becomes
    about -1 everywhere and delta starts at softplus(0) = 0.69.
    """
    for parameter in head.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
    for module in head.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()


def _fit_length(tokens: Tensor, length: int) -> Tensor:
    return F.pad(tokens, (0, 0, 0, length - tokens.shape[1]))  # a negative amount cuts
