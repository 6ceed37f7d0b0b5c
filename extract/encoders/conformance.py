"""Does an encoder keep what extraction relies on? Tried on random clips, or on a few short texts, one
property after the other.

    ok        held
    note      allowed, and worth knowing
    failed    features of this encoder would be wrong, or not the same twice
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from mambavl.configs.errors import UsageError
from mambavl.extract.causality import T_OBS, what_later_pictures_reach
from mambavl.extract.encoders import own_source, registry
from mambavl.extract.encoders.base import Encoder, TextEncoder, VideoEncoder
from mambavl.extract.encoders.published import orvit, table
from mambavl.extract.encoders.text_trials import TextTrials
from mambavl.extract.encoders.trials import FIRST, Fault, Trials, Verdict
from mambavl.extract.encoders.video_trials import VideoTrials
from mambavl.extract.options import VideoExtraction

FRAMES = 8  # of a clip, where neither the caller nor the encoder says


@dataclass(frozen=True)
class Finding:
    """What came of trying one property."""

    name: str
    verdict: Verdict
    text: str


def check_encoder(
    name: str, *, weights: str | None = None, frames: int | None = None, causal: bool = False
) -> Iterator[Finding]:
    """Build the encoder `name` and try every property, one finding each, while they are found.

    frames: of the clips; default: what the encoder was made for, else 8. causal: try also whether later
    frames reach the features, within a clip and over a video file. An own encoder that cannot be built is a
    finding; a name that leads nowhere, weights that are missing, and `causal` for text raise UsageError.
    """
    sizes: dict[str, Any] = {}
    if name in table.PUBLISHED and isinstance(table.PUBLISHED[name].config, orvit.ORViTConfig):
        sizes["boxes"] = "none"
    if registry.is_own(name):
        own_source.find(name)  # where there is no such function, the call is wrong, not the encoder
    build = partial(registry.build, name, weights=weights, **sizes)
    try:
        encoder = build()
    except UsageError as error:
        if not registry.is_own(name):
            raise
        yield Finding("build", "failed", str(error))
        return
    trials = _trials(encoder, build, frames)
    if causal:
        if not isinstance(trials, VideoTrials):
            raise UsageError(f"encoder {name} reads {encoder.kind}; --causal is about the frames of videos")
        options = _extraction(name, weights, trials.encoder, trials.frames, sizes)
        device = trials.properties.pop("device")  # it may leave the encoder on a GPU
        trials.properties |= {
            "streaming": trials.streaming,
            "anticipation": partial(_anticipation, options),
            "device": device,
        }
    for title, trial in trials.properties.items():
        try:
            verdict, text = trial()
        except Fault as fault:
            verdict, text = "failed", str(fault)
        # whatever somebody's code raises is what this looks for, and the finding says it
        except Exception as error:
            verdict, text = "failed", own_source.described(error)
        yield Finding(title, verdict, text)
        if title == FIRST and verdict == "failed":
            return  # every other line would say the same


def _trials(encoder: Encoder, build: "partial[Encoder]", frames: int | None) -> Trials:
    if isinstance(encoder, TextEncoder):
        return TextTrials(encoder, build)
    if isinstance(encoder, VideoEncoder):
        return VideoTrials(encoder, build, frames or encoder.frames or FRAMES)
    raise UsageError(
        f"encoder {encoder.name} reads neither video nor text; there is no conformance test for its kind"
    )


def _extraction(
    name: str, weights: str | None, encoder: VideoEncoder, frames: int, sizes: dict[str, Any]
) -> VideoExtraction:
    """How features are extracted with the encoder, in every level but grid, which is made of patch."""
    levels = ["clip", "frame", "patch", *(["cls"] if encoder.has_class_token else [])]
    settings = {
        "encoder": name,
        "weights": weights,
        "levels": levels,
        "sampling": {"frames": frames},
        **sizes,
    }
    if encoder.state is None:
        settings["weights_state"] = "random"  # nobody reads what it says
    return VideoExtraction.model_validate({**settings, "device": "cpu"})


def _anticipation(options: VideoExtraction) -> tuple[Verdict, str]:
    """Over a video file, nothing after t_obs = start - tau_a reaches the features of a row."""
    reached = what_later_pictures_reach(options)
    film = f"over a video file with other pictures after {T_OBS:g} s"
    for row, levels in reached.items():
        if row != "late" and levels:
            raise Fault(
                f"{film}: level {levels[0]} changed in a row that observes none of them. Rows of a batch "
                "leak into each other, or features are not repeatable: see `rows`, `batch`, `repeatable`"
            )
    for level in options.levels:
        if level not in reached["late"]:
            raise Fault(
                f"{film}: level {level} did not change even in a row that observes them, so nothing was "
                "found out"
            )
    return "ok", (
        f"{film}: rows that observe none of them are the same to the bit, a row that does is not (levels "
        f"{', '.join(options.levels)})"
    )
