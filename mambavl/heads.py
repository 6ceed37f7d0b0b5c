"""Heads that the paper's authors trained: their released checkpoints, as heads of this project.

mambavl heads convert FILE --out HEAD.safetensors     once, strict in every key and shape
load(HEAD.safetensors)                                the head, with fusion.preset = "released"

A checkpoint also holds the encoder that was trained with the head, and RoBERTa; both are left out. ORViT's
`pre_logits` goes with the head, for which every token runs through it; AVION has none. Names and shapes are
known from the released code's modules; no released file has been read here.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.published.checkpoints import convert_checkpoint
from mambavl.extract.encoders.published.keys import pairs, to_ours
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import StreamShape

MADE_BY = "mambavl_head"  # in a converted file's metadata
WHAT = "a released MambaVL head"
NAMES = {  # ours -> theirs
    "project.text.*.": "txt_proj.*.",
    "project.video.*.": "pre_logits.fc.",
    "a_log.shared": "A_log",
    "mixer.video.": "mamba_video.",
    "mixer.text.": "mamba_text.",
    "d_skip.video": "mamba_video.D",
    "d_skip.text": "mamba_text.D",
    "verb_head.": "head0.",
    "noun_head.": "head1.",
}
# how the names of its tensors begin
OF_HEAD = ("txt_proj", "pre_logits.", "A_log", "mamba_", "head0.", "head1.")


def convert(file: Path, out: Path) -> dict[str, Any]:
    """Write the head of a released checkpoint as safetensors under our names, with its config; say what was
    in the file.

    The file is read without running what is in it. Raises UsageError, and writes nothing, where it is
    damaged, no such checkpoint, or holds NaN or infinity.
    """

    def ours_of(state: Mapping[str, Tensor]) -> tuple[dict[str, str], dict[str, Tensor]]:
        config, ours = converted(state)
        return {MADE_BY: config.model_dump_json()}, ours

    return convert_checkpoint(file, out, ours_of)


def converted(state: Mapping[str, Tensor]) -> tuple[FusionConfig, dict[str, Tensor]]:
    """The released head that a checkpoint's tensors are of, and those tensors under our names. Raises
    UsageError unless all of them are there, in the shapes that its width asks for, and no other.
    """
    theirs = {name: tensor for name, tensor in state.items() if name.startswith(OF_HEAD)}
    config = _config_of(theirs)
    with torch.device("meta"):
        head = SSMFusion(config)
    return config, to_ours(theirs, pairs(head.state_dict(), NAMES, {}), WHAT)


def load(path: Path) -> SSMFusion:
    """The head of a file that `convert` wrote, in evaluation. Raises UsageError for any other file."""
    try:
        with safe_open(path, "pt") as opened:
            config = (opened.metadata() or {}).get(MADE_BY)
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from None
    if config is None:
        raise UsageError(f"{path}: was not written by `mambavl heads convert`")
    head = SSMFusion(FusionConfig.model_validate(json.loads(config)))
    head.load_state_dict(state)
    return head.eval()


def _config_of(theirs: Mapping[str, Tensor]) -> FusionConfig:
    """From the shapes that tell sizes; what does not fit them, `to_ours` says."""
    ends = {"A_log": 2, "txt_proj.0.weight": 2, "head0.weight": 2, "head1.weight": 2}
    missing = [name for name, axes in ends.items() if name not in theirs or theirs[name].ndim != axes]
    if missing:
        raise UsageError(f"these are not the weights of {WHAT}: no matrix {', '.join(missing)}")
    width = theirs["head0.weight"].shape[1]
    text = StreamShape(width=theirs["txt_proj.0.weight"].shape[1])
    return FusionConfig(
        preset="released",
        pre_logits=any(name.startswith("pre_logits.") for name in theirs),
        d_model=width,
        streams={"video": StreamShape(width=width), "verb_question": text, "noun_question": text},
        targets={"verb": theirs["head0.weight"].shape[0], "noun": theirs["head1.weight"].shape[0]},
    )
