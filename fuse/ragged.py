"""Work that need not be done: padding, and rows that say what another one says.

Of 128 real rows with two questions each a third of the text positions are padding, and of the texts a sixth
are there twice; generic questions are the same in every row. What treats each token by itself (norm, MLP,
in_proj) runs on the valid tokens of the distinct rows alone; what goes from token to token sees them padded.

B rows, U of them distinct, L tokens, T of them valid, C channels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ODD = 0x9E3779B97F4A7C15 - 2**64  # as a signed number; its multiples are spread over all 64 bits


class Ragged(NamedTuple):
    """Which tokens and rows there are to compute."""

    lengths: Tensor  # (U,) tokens of each distinct row
    steps: int  # L
    # (T,) where each valid token of a distinct row comes from in (B * L), and where it is in (U * L); None:
    # there is no other
    source: Tensor | None
    place: Tensor | None
    which: Tensor | None  # (B,) the distinct row that says what each row says; None: all are distinct

    @classmethod
    def of(cls, tokens: Tensor, lengths: Tensor) -> "Ragged":
        """tokens (B, L, C), zeros from each row's length (B,) on; lengths of 0 or more."""
        steps = tokens.shape[1]
        if tokens.device.type == "meta":  # nothing to look at: as many as there may be
            return cls(lengths, steps, None, None, None)
        first, which = torch.arange(len(tokens), device=tokens.device), None
        if found := equal_rows(tokens, lengths):
            first, which = found
        lengths = lengths[first]
        row, step = (torch.arange(steps, device=lengths.device) < lengths[:, None]).nonzero().unbind(1)
        if len(row) == len(tokens) * steps:
            return cls(lengths, steps, None, None, None)
        return cls(lengths, steps, first[row] * steps + step, row * steps + step, which)

    def pack(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (T, C), the valid tokens of the distinct rows; (B, L, C) where there is no other."""
        return x if self.source is None else x.flatten(0, 1).index_select(0, self.source)

    def pad(self, x: Tensor) -> Tensor:
        """What became of `pack` -> (U, L, C), zeros from each row's length on."""
        if self.place is None:
            return x
        zeros = x.new_zeros(len(self.lengths) * self.steps, x.shape[1])
        return zeros.index_copy(0, self.place, x).unflatten(0, (-1, self.steps))

    def unpad(self, x: Tensor) -> Tensor:
        """(U, L, C) -> the valid tokens, as `pad` takes them."""
        return x if self.place is None else x.flatten(0, 1).index_select(0, self.place)

    def spread(self, x: Tensor) -> Tensor:
        """(U, C) -> (B, C)."""
        return x if self.which is None else x.index_select(0, self.which)


def equal_rows(tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor] | None:
    """The first row of each kind (U,) and the kind of each row (B,), for tokens (B, L, C) and lengths (B,).
    None where all rows differ.
    """
    if not tokens.numel():
        return None
    rows = torch.arange(len(tokens), device=tokens.device)
    kinds, kind = torch.unique(_keys(tokens, lengths), return_inverse=True)
    if len(kinds) == len(rows):
        return None
    first = rows.new_full((len(kinds),), len(rows)).scatter_reduce(0, kind, rows, "amin")
    again = (first[kind] != rows).nonzero()[:, 0]
    like = first[kind[again]]
    # equal keys may be chance, in theory
    are_equal = torch.equal(lengths[again], lengths[like]) and torch.equal(tokens[again], tokens[like])
    return (first, kind) if are_equal else None


def _keys(tokens: Tensor, lengths: Tensor) -> Tensor:
    """(B,) int64, of each row's length and its first and last token: in a text, every token knows of all."""
    last = (lengths - 1).clamp(min=0)
    ends = torch.cat([tokens[:, 0], tokens[torch.arange(len(tokens), device=tokens.device), last]], 1)
    bits = ends.detach().float().contiguous().view(torch.int32).to(torch.int64)
    places = torch.arange(1, bits.shape[1] + 1, device=bits.device) * ODD  # overflows, as it may
    return (bits * places).sum(1) + lengths
