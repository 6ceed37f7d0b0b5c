"""State dicts published elsewhere, under our names and back. A conversion only renames and reshapes, so it is
exact both ways.

A table pairs our names with theirs: {"blocks.*.mlp.up.": "visual.blocks.*.mlp.fc1."}. `*` stands for a
number, and what follows an entry (`weight`, `bias`) is kept.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from mambavl.configs.errors import UsageError, some

Key = tuple[str, tuple[int, ...]]  # a name and the shape of its tensor
Pairs = list[tuple[Key, Key]]  # our key, the published one


def pairs(
    ours: Mapping[str, Tensor], table: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> Pairs:
    """(our key, their key) for each of our tensors (on the meta device is enough). shapes: theirs where it is
    not ours.
    """
    found = []
    for name, tensor in ours.items():
        shape = tuple(tensor.shape)
        found.append(((name, shape), (_renamed(name, table), shapes.get(name, shape))))
    return found


def _renamed(name: str, table: Mapping[str, str]) -> str:
    number = re.search(r"\.(\d+)\.", name)
    starred = name.replace(number[0], ".*.", 1) if number else name
    entry = max((start for start in table if starred.startswith(start)), key=len)
    return (table[entry] + starred.removeprefix(entry)).replace("*", number[1] if number else "*")


def to_ours(state: Mapping[str, Tensor], keys: Pairs, what: str) -> dict[str, Tensor]:
    """A published state dict under our names and in our shapes. Raises UsageError unless it fits exactly."""
    return _convert(state, [(their, our) for our, their in keys], what)


def to_theirs(state: Mapping[str, Tensor], keys: Pairs, what: str) -> dict[str, Tensor]:
    """Our state dict under the published names and in their shapes. Raises UsageError unless it fits
    exactly.
    """
    return _convert(state, keys, f"{what}, under our names")


def _convert(state: Mapping[str, Tensor], keys: Pairs, what: str) -> dict[str, Tensor]:
    """`state`, whose names and shapes are the first ones of the pairs, under the second ones; views, not
    copies.
    """
    wanted = dict(source for source, _ in keys)
    problems = {
        "missing": [name for name in wanted if name not in state],
        "not known": [name for name in state if name not in wanted],
        "of another shape": [
            f"{name} {tuple(state[name].shape)}, expected {shape}"
            for name, shape in wanted.items()
            if name in state and tuple(state[name].shape) != shape
        ],
    }
    if any(problems.values()):
        found = [f"{len(names)} {problem} ({some(names)})" for problem, names in problems.items() if names]
        raise UsageError(f"these are not the weights of {what}: {'; '.join(found)}")
    return {name: state[source].reshape(shape) for (source, _), (name, shape) in keys}


def without_parts(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Without the tensors whose names start so, such as those of a text tower."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def without_module(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the `module.` that distributed training puts before every name."""
    if state and all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return dict(state)
