"""Models of the paper next to recorded runs of the originals: the recordings, small models of either family,
and how two results are compared.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mambavl.extract.encoders.base import VideoEncoder
from mambavl.extract.encoders.published.keys import without_module
from mambavl.extract.encoders.published.motionformer import MotionformerConfig
from mambavl.extract.encoders.published.orvit import ORViTConfig

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}  # of max |a - b| / max |b|
# 3 steps of 3 x 3 patches
SMALL_MOTIONFORMER = MotionformerConfig(
    width=24, depth=2, heads=3, patch_size=32, frames=6, image_size=96, num_classes=(5, 7), query_chunk=1000
)
# 3 steps of 3 x 3 patches and 2 objects
SMALL_ORVIT = ORViTConfig(
    width=24,
    depth=3,
    heads=3,
    patch_size=32,
    frames=6,
    image_size=96,
    num_classes=(5, 7),
    orvit_layers=(1,),
    objects=2,
)


class Recording:
    """One recorded run of an original: `recording["output/tokens"]`, its config and its state dict."""

    def __init__(self, file: Path) -> None:
        self.tensors = load_file(file.with_suffix(".safetensors"))
        self.config = json.loads(file.with_suffix(".json").read_text())["config"]
        self.state = self.group("state/")

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def group(self, prefix: str) -> dict[str, Tensor]:
        found = {}
        for name, tensor in self.tensors.items():
            if name.startswith(prefix):
                found[name.removeprefix(prefix)] = tensor
        return found


def motionformer_config(recording: Recording) -> MotionformerConfig:
    """The config of a recorded Motionformer, or of the Motionformer in a recorded ORViT."""
    sizes = recording.config
    return MotionformerConfig(
        width=sizes["embed_dim"],
        depth=sizes["depth"],
        heads=sizes["num_heads"],
        mlp_ratio=sizes["mlp_ratio"],
        patch_size=sizes["patch_size"],
        tubelet=sizes["patch_size_temp"],
        frames=sizes["frames"],
        image_size=sizes["crop_size"],
        num_classes=(sizes["num_classes"]["verb"], sizes["num_classes"]["noun"]),
        unused_stem="patch_embed.proj.weight" in recording.state,
        query_chunk=24,  # 64 patches: chunks that end within a step, and a short last one
    )


def manifest(shared: Path, name: str) -> tuple[dict[str, Tensor], dict]:
    """The state dict of a full-size model, on the meta device, and what else is known of it."""
    found = json.loads((shared / "parity" / "manifests" / f"{name}.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in found["keys"].items()}, found


def error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest number of `theirs`."""
    assert ours.shape == theirs.shape
    ours, theirs = ours.double(), theirs.double()
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def classified(model: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    """What Motionformer's family makes of its tokens, by the names of the recordings."""
    features = model.pool(tokens)
    verb, noun = model.classify(features)
    return {
        "tokens": tokens,
        "cls_normed": tokens[:, 0],
        "features": features,
        "logits.verb": verb,
        "logits.noun": noun,
        "prob.verb": verb.softmax(-1),
        "prob.noun": noun.softmax(-1),
    }


def redrawn(model: nn.Module) -> nn.Module:
    """Every parameter drawn again, so that no bias, table or norm is silent."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(offset + 0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)


def clips(config: MotionformerConfig, count: int, seed: int = 1) -> Tensor:
    """Random clips (count, 3, T, S, S)."""
    shape = (count, 3, config.frames, config.image_size, config.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def recorded_inputs_and_outputs(
    model: VideoEncoder, video: Tensor, names: list[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """What went into and came out of the named modules of a model as it made tokens of a video."""
    seen = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _, x, y, name=name: seen.update({name: (x[0], y)})
        )
        for name in names
    ]
    model.tokens(video)
    for hook in hooks:
        hook.remove()
    return seen


def outputs_of_blocks(model: VideoEncoder) -> dict[str, Tensor]:
    """Filled while a Motionformer runs: `block.0`, `block.0.attn`, ... as the recordings name them."""
    seen = {}
    for index, block in enumerate(model.blocks):
        for module, name in ((block, f"block.{index}"), (block.attn, f"block.{index}.attn")):
            module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    return seen


def names_under(state: dict[str, Tensor], prefixes: tuple[str, ...]) -> list[str]:
    """Names of a published state dict that start so: its text tower, which is not converted."""
    return [name for name in without_module(state) if name.startswith(prefixes)]


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
