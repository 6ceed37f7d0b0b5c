"""What is tried of an encoder of any kind, and how two results are compared; `conformance.py` runs the
trials.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

from mambavl.extract.encoders.base import Encoder
from mambavl.extract.encoders.weights import is_sha256

Verdict = Literal["ok", "note", "failed"]
Trial = Callable[[], tuple[Verdict, str]]  # says what it found; raises Fault
SAME = 1e-6  # relative to the largest number: rounding, which another order of summing may bring
LEAK = 1e-3  # above it, neighbours in a batch have a say in a row's features
FIRST = "tokens"  # the property without which no other can be tried

E = TypeVar("E", bound=Encoder)


class Fault(Exception):
    """What is wrong with an encoder, in words for whoever wrote it."""


class Trials(Generic[E]):
    """The properties of an encoder, in the order in which they are tried. A row is one clip or one text."""

    row: str  # what one is called
    properties: dict[str, Trial]

    def __init__(self, encoder: E, build: Callable[..., Encoder]) -> None:
        self.encoder = encoder
        self.build = build  # makes the same encoder again

    def run(self, encoder: E) -> list[Tensor]:
        """Features of all rows, one tensor each."""
        raise NotImplementedError

    def alone(self) -> list[tuple[Tensor, Tensor]]:
        """Features of some rows: encoded alone, and in the batch."""
        raise NotImplementedError

    @cached_property
    def features(self) -> list[Tensor]:
        """Features of all rows, computed once."""
        return self.run(self.encoder)

    def again(self) -> E:
        """The same encoder, built once more."""
        encoder = self.build()
        if not isinstance(encoder, type(self.encoder)):
            raise Fault(f"two builds gave a {type(self.encoder).__name__} and a {type(encoder).__name__}")
        return encoder

    def finite(self) -> tuple[Verdict, str]:
        """No NaN and no infinity."""
        if not all(torch.isfinite(row).all() for row in self.features):
            raise Fault(f"NaN or infinity in the features of a {self.row}")
        largest = max(row.abs().max() for row in self.features if len(row))
        return "ok", f"largest {largest:.3g}"

    def frozen(self) -> tuple[Verdict, str]:
        """No parameter is trained, and nothing is in training mode."""
        trainable = [name for name, parameter in self.encoder.named_parameters() if parameter.requires_grad]
        training = [name or "the encoder" for name, part in self.encoder.named_modules() if part.training]
        if trainable or training:
            raise Fault(f"not frozen: {', '.join((trainable + training)[:5])}")
        return "ok", "no gradients, evaluation mode"

    def repeatable(self) -> tuple[Verdict, str]:
        """The same input gives the same bits."""
        if not _equal(self.run(self.encoder), self.features):
            raise Fault(
                f"the same {self.row}s gave other numbers the second time: "
                "dropout or noise is still on, or it keeps a state"
            )
        return "ok", "the same bits twice"

    def batch(self) -> tuple[Verdict, str]:
        """A row alone and in a batch: the same, up to the order of sums."""
        change = max(relative_difference(alone, together) for alone, together in self.alone())
        differ = f"a {self.row} alone and in a batch differ by {change:.1e}"
        if not change <= LEAK:  # NaN is a fault, too
            raise Fault(f"{differ} of the largest number: rows leak into each other")
        if change > SAME:
            return "note", f"{differ}; extraction fixes the batches, so stores stay the same"
        return "ok", f"{differ} of the largest number"

    def identity(self) -> tuple[Verdict, str]:
        """State and sha256, which a store's spec will name: are they known, and do they name the same numbers
        the next time?
        """
        encoder, again = self.encoder, self.again()
        if not is_sha256(encoder.sha256):
            raise Fault(f"sha256 is {encoder.sha256!r}, not 64 hex digits")
        if (again.sha256, again.state, again.details) != (encoder.sha256, encoder.state, encoder.details):
            raise Fault(
                f"two builds call themselves {encoder.sha256[:16]} {encoder.state} and "
                f"{again.sha256[:16]} {again.state}, or differ in details, so no store could be resumed; "
                "draw untrained weights from torch's generator alone"
            )
        if not _equal(self.run(again), self.features):
            raise Fault(
                "two builds of one sha256 give other features: "
                "something that no state dict holds was drawn at random"
            )
        if encoder.state is None:
            return (
                "note",
                f"sha256 {encoder.sha256[:16]}; says no state, so extraction asks for --set weights_state=",
            )
        return "ok", f"{encoder.state}, sha256 {encoder.sha256[:16]}, the same twice"

    def device(self) -> tuple[Verdict, str]:
        """It runs on every device that there is."""
        devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
        for device in devices:
            for row in self.run_on(device):
                if not torch.isfinite(row).all():
                    raise Fault(f"NaN or infinity on {device}")
        return "ok", f"tried on {' and '.join(devices)}"

    def run_on(self, device: str) -> list[Tensor]:
        """Features of some rows, computed on a device."""
        return self.run(self.encoder.to(device))


def relative_difference(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors of one shape, relative to the largest number of the second."""
    return ((a - b).abs().max().double() / b.abs().max().double().clamp(min=1e-30)).item()


def _equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(map(torch.equal, a, b))
