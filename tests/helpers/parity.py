"""Recorded runs of the originals, and what the tests of avion.py and lavila.py do with them."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}  # of max |a - b| / max |b|


class Fixture:
    """One recorded run: `fixture["output/tokens"]`, and its state dict."""

    def __init__(self, file: Path) -> None:
        self.tensors = load_file(file.with_suffix(".safetensors"))
        self.config = json.loads(file.with_suffix(".json").read_text())["config"]
        self.state = self.group("state/")

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def group(self, prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }


def error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return ((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max()).item()


def manifest(shared: Path, name: str) -> tuple[dict[str, Tensor], dict]:
    """The state dict of a full-size model, on the meta device, and what else is known of it."""
    found = json.loads((shared / "parity" / "manifests" / f"{name}.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in found["keys"].items()}, found


def recorded_inputs_and_outputs(
    model: nn.Module, video: Tensor, names: list[str]
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


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
