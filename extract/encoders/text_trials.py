"""What is tried of a text encoder."""

from collections.abc import Callable
from functools import cached_property

from torch import Tensor

from mambavl.extract import MASK
from mambavl.extract.encoders.base import Encoder, TextEncoder
from mambavl.extract.encoders.trials import FIRST, Fault, Trials, Verdict

TEXTS = ("wash the cup", f"which action does the person do to the {MASK}?", "", "cut")


class TextTrials(Trials[TextEncoder]):
    """A row is a text, its features (L, D)."""

    row = "text"

    def __init__(self, encoder: TextEncoder, build: Callable[..., Encoder]) -> None:
        super().__init__(encoder, build)
        self.properties = {
            FIRST: self.shapes,
            "mask": self.mask,
            "empty": self.empty,
            "finite": self.finite,
            "frozen": self.frozen,
            "repeatable": self.repeatable,
            "input": self.input_kept,
            "batch": self.batch,
            "identity": self.identity,
            "device": self.device,
        }

    def run(self, encoder: TextEncoder) -> list[Tensor]:
        return self.encode(self.ids, encoder)

    def encode(self, ids: list[list[int]], encoder: TextEncoder | None = None) -> list[Tensor]:
        """Last hidden states (L, D) of tokenized texts."""
        return (encoder or self.encoder).encode(ids, ("last_hidden",))["last_hidden"]

    @cached_property
    def ids(self) -> list[list[int]]:
        """TEXTS, tokenized."""
        return [self.encoder.tokenize(text) for text in TEXTS]

    def alone(self) -> list[tuple[Tensor, Tensor]]:
        found = []
        for ids, together in zip(self.ids, self.features, strict=True):
            if ids:
                found.append((self.encode([ids])[0], together))
        return found

    def shapes(self) -> tuple[Verdict, str]:
        """One vector a token."""
        for ids, state in zip(self.ids, self.features, strict=True):
            if state.shape != (len(ids), self.encoder.width) or not state.is_floating_point():
                raise Fault(
                    f"a text of {len(ids)} tokens gives {state.dtype} {tuple(state.shape)}, not floats (L, D)"
                )
        lengths = ", ".join(str(len(ids)) for ids in self.ids)
        return "ok", f"{lengths} tokens of {self.encoder.width} channels"

    def mask(self) -> tuple[Verdict, str]:
        """The placeholder is one token, and no word has it."""
        # ☃ is there for the unknown word's token, and a lone space's
        words = self.encoder.tokenize("☃ cut the ☃")
        one = self.encoder.tokenize(f"cut the {MASK}")
        two = self.encoder.tokenize(f"cut {MASK} the {MASK}")
        new = [token for token in one if token not in words]
        if len(new) != 1 or two.count(new[0]) != 2:
            raise Fault(
                f"{MASK} is to be one token that no word has: "
                f"'cut the {MASK}' is {one}, '☃ cut the ☃' is {words}"
            )
        return "ok", f"{MASK} is the token {new[0]}"

    def empty(self) -> tuple[Verdict, str]:
        """An empty text has no tokens and no features."""
        if self.encoder.tokenize("") or self.encode([[]])[0].shape != (0, self.encoder.width):
            raise Fault("an empty text is to have no tokens, and features (0, D)")
        return "ok", "no tokens"

    def input_kept(self) -> tuple[Verdict, str]:
        """Token ids are left as they were."""
        ids = [list(tokens) for tokens in self.ids]
        self.encode(ids)
        if ids != self.ids:
            raise Fault("encode() changes the lists it is given")
        return "ok", "left as it was"
