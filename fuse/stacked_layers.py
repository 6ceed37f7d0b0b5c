"""What heads of all kinds that lie side by side (`stacked`) are made of: their linear layers, as products
batched over the heads, and the norm before the first, whose scale and shift are folded into it.

T tokens or rows, K heads.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mambavl.fuse.head import Head

Weights = dict[str, Tensor]  # by name, (K, *shape)
# by modality or stream: tokens (T, width), after the norm but for its scale and shift, and which they are
Read = dict[str, tuple[Tensor, Any]]


class Norm(NamedTuple):
    """What a layer norm does last, of all heads: scale and shift (K, width)."""

    scale: Tensor
    shift: Tensor


class Layer(NamedTuple):
    """A linear layer of all heads: weight (K, out, in), bias (K, out)."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, w: Weights, name: str) -> "Layer":
        return cls(w[f"{name}.weight"], w.get(f"{name}.bias"))

    def __call__(self, x: Tensor) -> Tensor:
        """x (T, K, in), or (T, in) that all heads read -> (T, K, out)."""
        heads, out = self.weight.shape[:2]
        if x.ndim == 2:
            own = None if self.bias is None else self.bias.flatten()
            return F.linear(x, self.weight.flatten(0, 1), own).unflatten(1, (heads, out))
        x, weight = x.transpose(0, 1), self.weight.mT
        y = torch.bmm(x, weight) if self.bias is None else torch.baddbmm(self.bias[:, None], x, weight)
        return y.transpose(0, 1)

    def after(self, norm: Norm) -> "Layer":
        """The layer on x * scale + shift."""
        moved = (self.weight * norm.shift[:, None]).sum(-1)  # no product: autocast would round it
        return Layer(self.weight * norm.scale[:, None], moved if self.bias is None else self.bias + moved)

    def before(self, weight: Tensor) -> "Layer":
        """The layer and a product with (K, more, out) behind it, as one."""
        with torch.autocast(weight.device.type, enabled=False):  # which would round the weights twice
            bias = None if self.bias is None else (weight * self.bias[:, None]).sum(-1)
            return Layer(torch.bmm(weight, self.weight), bias)

    def halves(self) -> list["Layer"]:
        """The layers of the first and of the second half of what it gives, which lie apart then."""
        biases = (None, None) if self.bias is None else self.bias.chunk(2, 1)
        return [Layer(*half) for half in zip(self.weight.chunk(2, 1), biases, strict=True)]


def normed(head: Head, modality: str, x: Tensor) -> Tensor:
    """The first thing that `Head.project` does, without the norm's own weights."""
    first = next(iter(head.project[modality].children()), None)
    return F.layer_norm(x, x.shape[-1:], eps=first.eps) if isinstance(first, nn.LayerNorm) else x


def projection_of(head: Head, w: Weights, modality: str) -> tuple[Norm | None, list[Layer]]:
    """What `Head.project` of a modality does after `normed`: the linear layers, with a ReLU between two of
    them; and scale and shift, where there is no layer to fold them into.
    """
    norm, layers = None, []
    for number, module in head.project[modality].named_children():
        at = f"project.{modality}.{number}"
        if isinstance(module, nn.LayerNorm):
            norm = Norm(w[f"{at}.weight"], w[f"{at}.bias"])
        elif isinstance(module, nn.Linear):
            layer = Layer.of(w, at)
            layers.append(layer.after(norm) if norm else layer)
            norm = None
    return norm, layers


def projected(head: Head, w: Weights, modality: str, x: Tensor) -> Tensor:
    """`Head.project` of a modality, after `normed`: (T, width), which all heads read -> (T, K, d)."""
    norm, layers = projection_of(head, w, modality)
    x = through(layers, x)
    return of_each(x[:, None] * norm.scale + norm.shift if norm else x, w)


def through(layers: list[Layer], x: Tensor) -> Tensor:
    """x through some layers with a ReLU between two."""
    for number, layer in enumerate(layers):
        x = layer(x.relu() if number else x)
    return x


def of_each(x: Tensor, w: Weights) -> Tensor:
    """(T, C) that all heads have, or (T, K, C) -> (T, K, C)."""
    return x if x.ndim == 3 else x[:, None].expand(-1, len(next(iter(w.values()))), -1)
