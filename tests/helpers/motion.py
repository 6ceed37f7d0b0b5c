"""TODO say what this is"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from mambavl.extract.encoders.published.motionformer import MotionformerConfig

SMALL = MotionformerConfig(
    width=24, depth=2, heads=3, patch_size=32, frames=6, image_size=96, num_classes=(5, 7), query_chunk=1000
)  # 3 steps of 3 x 3 patches


def error(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def redrawn(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter drawn anew, so that no bias, table or norm is silent."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(offset + 0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)


def clips(config: MotionformerConfig, count: int, seed: int = 1) -> Tensor:
    shape = (count, 3, config.frames, config.image_size, config.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fixture_of(folder: Path, name: str) -> tuple[MotionformerConfig, dict[str, Tensor], dict[str, Tensor]]:
    """The configuration, published state dict and tensors of one recorded run."""
    sizes = json.loads((folder / f"{name}.json").read_text())["config"]
    tensors = load_file(folder / f"{name}.safetensors")
    state = {
        key.removeprefix("state/"): tensor for key, tensor in tensors.items() if key.startswith("state/")
    }
    config = MotionformerConfig(
        width=sizes["embed_dim"],
        depth=sizes["depth"],
        heads=sizes["num_heads"],
        mlp_ratio=sizes["mlp_ratio"],
        patch_size=sizes["patch_size"],
        tubelet=sizes["patch_size_temp"],
        frames=sizes["frames"],
        image_size=sizes["crop_size"],
        num_classes=(sizes["num_classes"]["verb"], sizes["num_classes"]["noun"]),
        unused_stem="patch_embed.proj.weight" in state,
        query_chunk=24,  # 64 patches: chunks that end within a step, and a short last one
    )
    return config, state, tensors
