"""MambaVL's fusion head: a selective SSM for each modality, with one state transition matrix A for all.

    eq. 5     u^m = Conv1d(MLP(x^m))                        per modality m: video, text, audio, ...
    eq. 2, 3  h_t = exp(delta_t A) h_{t-1} + Bbar_t u_t,  y_t = C_t h_t;  delta, B, C from u^m, A shared
    then      verb = head(mean(y^V) + mean(y^verb question)),  noun = head(mean(y^V) + mean(y^noun question))

Sharing A gives no forward path from one modality to the other: the sum is the only place where they meet.
Hence the controls: `share = "none"`, video only, text only. B batch, L tokens, d model width, D = expand d
inner width, N states, R rank of delta.
"""

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from mambavl.configs import Config
from mambavl.fuse.conv import causal_conv
from mambavl.fuse.head import Head, HeadConfig, Streams, without_padding
from mambavl.fuse.ragged import Ragged
from mambavl.fuse.released import reset_like_release
from mambavl.fuse.scan import pick, pooled_selective_scans, require, selective_scan
from mambavl.fuse.scan.inputs import ScanInputs
from mambavl.fuse.stepwise import SSMState

K = TypeVar("K")
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The text of the paper: two-layer MLPs, Conv1d right after them (eq. 5), exact ZOH (eq. 2), no gate, no
    # projections.
    "paper": {"mixer": "plain", "zoh": True, "input_norm": False, "dropout": 0.0},
    # The authors' later code: no MLP on video, three layers on text, full Mamba blocks, padding counted in
    # the mean, and an initialisation that overwrites A's spectrum and delta's bias (it loops over all
    # matrices after building).
    "released": {
        "video_mlp_layers": 0,
        "text_mlp_layers": 3,
        "input_norm": False,
        "pad_text_to": 40,
        "init": "released",
        "dropout": 0.0,
    },
}


class FusionSettings(Config):
    """SSMFusion's own settings. `preset` sets the defaults of the others, and of what all heads have in
    common; keys given as well take precedence.
    """

    # default: ours; paper: as its text describes; released: as the authors' code computes
    preset: Literal["default", "paper", "released"] = "default"
    # mamba: a Mamba block; plain: Conv1d and SSM alone, without gate, in and out projection (D = d_model)
    mixer: Literal["mamba", "plain"] = "mamba"
    d_state: int = Field(default=16, ge=1, le=256)  # states of each channel, N
    d_conv: int = Field(default=4, ge=1, le=16)  # taps of the causal Conv1d, in tokens
    expand: int = Field(default=2, ge=1, le=8)  # channels inside a Mamba block, in multiples of d_model
    # rank of delta's projection; absent: d_model / 16, rounded up
    dt_rank: int | None = Field(default=None, ge=1)
    # what modalities share. A: the state matrix, as in the paper; none: nothing; A+D: also the skip D; all:
    # also the mixer, which is all but the MLP
    share: Literal["A", "none", "A+D", "all"] = "A"
    zoh: bool = False  # exact zero-order hold for B (eq. 2) in place of Mamba's delta B
    # above 0: questions are padded or cut to so many tokens, and the padding counts (as in the released code)
    pad_text_to: int = Field(default=0, ge=0)
    # a Linear and a tanh on every video token before its Conv1d, as the released code has them on ORViT's
    pre_logits: bool = False
    # mamba: A from -1 to -N, delta from 0.001 to 0.1; released: Xavier on every matrix, A_log included
    init: Literal["mamba", "released"] = "mamba"
    # backend of the selective scan: auto, reference, chunked, cpu, triton or mamba; auto takes the fastest
    scan: str = "auto"

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {**preset_of(data, cls.model_fields), **data}


def preset_of(settings: dict[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """What the preset of `settings` gives to some `keys`; nothing for a preset that there is not."""
    preset = settings.get("preset", "default")
    values = PRESETS.get(preset, {}) if isinstance(preset, str) else {}
    return {key: value for key, value in values.items() if key in keys}


class FusionConfig(HeadConfig, FusionSettings):
    """All settings of SSMFusion."""

    @property
    def d_inner(self) -> int:
        return self.expand * self.d_model if self.mixer == "mamba" else self.d_model

    @property
    def rank(self) -> int:
        return self.dt_rank or math.ceil(self.d_model / 16)


class SSMFusion(Head):
    """Selective SSMs with one state transition matrix: A is shared, the projections are not (Algorithm 1)."""

    config: FusionConfig

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        if config.pre_logits and "video" in self.modalities:
            layers = self.project["video"].children()
            pre_logits = nn.Linear(config.d_model, config.d_model), nn.Tanh()
            self.project["video"] = nn.Sequential(*layers, *pre_logits)
        require(config.scan)  # a backend that is not here is refused now, not in the first step
        modalities, share = list(self.modalities), config.share
        # modality -> the key of its mixer, its A and its D; equal keys are shared
        self._mixer_of = {m: "all" if share == "all" else m for m in modalities}
        self._a_of = {m: m if share == "none" else "shared" for m in modalities}
        self._d_of = {m: "shared" if share in ("A+D", "all") else m for m in modalities}
        self.mixer = nn.ModuleDict({key: Mixer(config) for key in _distinct(self._mixer_of)})
        # S4D-real: A = -1 .. -N
        a_log = torch.log(torch.arange(1.0, config.d_state + 1)).repeat(config.d_inner, 1)
        self.a_log = nn.ParameterDict({key: nn.Parameter(a_log.clone()) for key in _distinct(self._a_of)})
        ones = torch.ones(config.d_inner)
        self.d_skip = nn.ParameterDict({key: nn.Parameter(ones.clone()) for key in _distinct(self._d_of)})
        self.add_classifiers()
        if config.init == "released":
            reset_like_release(self)

    def fuse(self, streams: Streams, keys: Tensor | None = None) -> dict[str, Tensor]:
        """Algorithm 1: name -> (tokens (B, L, width), lengths (B,)) to (B, d) by target."""
        scans, ragged = {}, {}
        for m in self.modalities:
            scans[m], ragged[m] = self._scan_inputs(m, streams)
        pooled: dict[str, Tensor] = {}  # stream -> (B, d)
        for m, mean in self._means(scans).items():
            pooled |= self._by_stream(m, ragged[m].spread(self._mixer(m).out_proj(mean)))
        return self._met(pooled)

    def _means(self, scans: dict[K, ScanInputs], modality_of: Callable[[K], str] = str) -> dict[K, Tensor]:
        """What is scanned -> the mean of its outputs (eq. 2, 3) over each row's steps, (rows, D). modality_of
        a key tells which A it has; without it keys are modalities.
        """
        found: dict[K, Tensor] = {}
        for key, a_log in self.a_log.items():  # one A, unless nothing is shared
            members = [one for one in scans if self._a_of[modality_of(one)] == key]
            a = -torch.exp(a_log.float())  # (D, N); negative, so the state decays
            # in one call, which gives one dA
            means = pooled_selective_scans(
                [scans[one] for one in members], a, True, zoh=self.config.zoh, backend=self.config.scan
            )
            found |= zip(members, means, strict=True)
        return found

    def _by_stream(self, modality: str, x: Tensor) -> dict[str, Tensor]:
        """(streams of a modality * B, d) -> (B, d) by stream."""
        names = self._names_of(modality)
        return dict(zip(names, x.chunk(len(names)), strict=True))

    def _met(self, pooled: dict[str, Tensor]) -> dict[str, Tensor]:
        """(B, d) by stream -> by target: the only place where modalities meet."""
        return {
            target: torch.stack([pooled[name] for name in names]).sum(0)
            for target, names in self.routes.items()
        }

    @property
    def cannot_step(self) -> str | None:
        """Nothing in it looks ahead: convolution, scan and mean are all carried from step to step."""
        return None

    def step(
        self, streams: Streams, state: dict[str, SSMState] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, SSMState]]:
        self._refuse_step(streams)
        streams = without_padding(streams)
        states = {m: self._advanced(m, streams, state[m] if state else None) for m in self.modalities}
        dtype = next(iter(streams.values()))[0].dtype
        pooled: dict[str, Tensor] = {}
        for m, after in states.items():
            pooled |= self._by_stream(m, self._mixer(m).out_proj(after.mean(dtype)))
        fused = self._met(pooled)
        logits = {name: self._classify(one, fused[name], None) for name, one in self.classifiers.items()}
        return logits, states

    def _advanced(self, modality: str, streams: Streams, before: SSMState | None) -> SSMState:
        """A modality's SSM after some more tokens. Raises ValueError for tokens behind counted padding."""
        has_more = any(streams[name][0].shape[1] for name in self._names_of(modality))
        if before and not has_more:
            return before
        if before and modality == "text" and self.config.pad_text_to:
            raise ValueError(
                f"questions are padded to fusion.pad_text_to = {self.config.pad_text_to} tokens, so all of "
                "them are given in the first step"
            )
        tokens, lengths = self._batched(modality, streams)
        x = self.project[modality](tokens)
        mixer, config = self._mixer(modality), self.config
        before = before or SSMState.empty(x, config.d_inner, config.d_state, config.d_conv - 1)
        inputs, taps = mixer.step_inputs(x, lengths, self.d_skip[self._d_of[modality]], before.taps)
        y, h = selective_scan(
            **inputs._replace(initial_state=before.h)._asdict(),
            A=-torch.exp(self.a_log[self._a_of[modality]].float()),
            delta_softplus=True,
            return_last_state=True,
            zoh=config.zoh,
            backend=config.scan,
        )
        return before.after(y, taps, h, lengths)

    def _scan_inputs(self, modality: str, streams: Streams) -> tuple[ScanInputs, Ragged]:
        """What a modality's SSM scans, behind its Conv1d (eq. 5): the distinct rows of all its streams
        (distinct rows, L, ...).
        """
        x, ragged = self._projected(modality, streams)
        d_skip = self.d_skip[self._d_of[modality]]
        return self._mixer(modality).scan_inputs(x, ragged.lengths, d_skip, ragged.pad), ragged

    def _projected(self, modality: str, streams: Streams) -> tuple[Tensor, Ragged]:
        """A modality's tokens through its MLP (eq. 5), as `Ragged.pack` has them."""
        tokens, lengths = self._batched(modality, streams)
        ragged = Ragged.of(tokens, lengths)
        return self.project[modality](ragged.pack(tokens)), ragged

    def _batched(self, modality: str, streams: Streams) -> tuple[Tensor, Tensor]:
        """All streams of a modality in one batch: (streams * B, L, width), zeros after a shorter one, and the
        lengths (streams * B,).
        """
        own = [streams[name] for name in self._names_of(modality)]
        pad_to = self.config.pad_text_to if modality == "text" else 0
        longest = pad_to or max(1, *(tokens.shape[1] for tokens, _ in own))
        tokens = torch.cat([_fit_length(tokens, longest) for tokens, _ in own])
        lengths = torch.cat([lengths for _, lengths in own])
        if pad_to:
            lengths = torch.where(lengths < 0, 0, pad_to)
        return tokens, lengths.clamp(min=0)  # no step of a stream that a row does not have: a mean of 0

    def _names_of(self, modality: str) -> list[str]:
        return [name for name, shape in self.config.streams.items() if shape.modality == modality]

    def _mixer(self, modality: str) -> "Mixer":
        mixer = self.mixer[self._mixer_of[modality]]
        assert isinstance(mixer, Mixer)  # a ModuleDict has no type of its values
        return mixer

    @property
    def scan_backend(self) -> str:
        weight = next(self.parameters())
        return pick(self.config.scan, weight.device, weight.dtype)

    def ssm_parameters(self) -> Iterable[nn.Parameter]:
        return [*self.mixer.parameters(), *self.a_log.parameters(), *self.d_skip.parameters()]

    def undecayed_matrices(self) -> Iterable[nn.Parameter]:
        return self.a_log.parameters()  # decay would pull A to -1 in every channel and state


def _distinct(key_of: dict[str, str]) -> list[str]:
    return list(dict.fromkeys(key_of.values()))


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
        drawn = torch.rand(self.dt_proj.out_features)
        step = torch.exp(drawn * math.log(1e-1 / 1e-3) + math.log(1e-3)).clamp(min=1e-4)
        with torch.no_grad():
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus

    def forward(self, x: Tensor, lengths: Tensor | None, a: Tensor, d_skip: Tensor) -> Tensor:
        """x (B, L, d), a (D, N), d_skip (D,) -> (B, L, d)."""
        inputs = self.scan_inputs(x, lengths, d_skip)
        y = selective_scan(
            **inputs._asdict(), A=a, delta_softplus=True, zoh=self.config.zoh, backend=self.config.scan
        )
        return self.out_proj(y)

    def scan_inputs(
        self, x: Tensor, lengths: Tensor | None, d_skip: Tensor, pad: Callable[[Tensor], Tensor] | None = None
    ) -> ScanInputs:
        """x (B, L, d) -> what the SSM scans: u (B, L, D), its Conv1d (eq. 5); delta (before bias and
        softplus), B and C, all linear in u. pad: `Ragged.pad`, where x is (T, d), of valid tokens alone.
        """
        u, z = self._inner(x, pad)
        return self._inputs(self._convolved(u), z, lengths, d_skip)

    def step_inputs(
        self, x: Tensor, lengths: Tensor, d_skip: Tensor, taps: Tensor
    ) -> tuple[ScanInputs, Tensor]:
        """As `scan_inputs`, of steps that follow others. taps (B, K - 1, D): the last inputs of the
        convolution before them; those after them come back.
        """
        u, z = self._inner(x)
        u = torch.cat([taps, u], 1)
        kept = torch.arange(taps.shape[1], device=u.device) + lengths[:, None]  # a row's own last ones
        after = u.take_along_dim(kept[..., None], 1)
        return self._inputs(self._convolved(u)[:, taps.shape[1] :], z, lengths, d_skip), after

    def _inner(
        self, x: Tensor, pad: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """x (B, L, d) -> the inputs of the convolution and of the gate, (B, L, D) each."""
        inner = self.in_proj(x)
        inner = pad(inner) if pad else inner
        if not self.gated:
            return inner, None
        u, z = inner.chunk(2, dim=-1)
        return u, z

    def _convolved(self, u: Tensor) -> Tensor:
        assert self.conv1d.bias is not None
        return causal_conv(u, self.conv1d.weight, self.conv1d.bias)

    def _inputs(self, u: Tensor, z: Tensor | None, lengths: Tensor | None, d_skip: Tensor) -> ScanInputs:
        """u (B, L, D): what the convolution gave."""
        u = F.silu(u)
        delta, b, c = self.x_proj(u).split(
            [self.config.rank, self.config.d_state, self.config.d_state], dim=-1
        )
        delta = F.linear(delta, self.dt_proj.weight)  # its bias is added inside the scan, in float32
        return ScanInputs(u, delta, b, c, d_skip, z, self.dt_proj.bias, lengths)


def _fit_length(tokens: Tensor, length: int) -> Tensor:
    return F.pad(tokens, (0, 0, 0, length - tokens.shape[1]))  # a negative amount cuts
