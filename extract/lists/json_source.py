"""JSON files read strictly: each value is asked for as what it must be, and has a place for messages."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mambavl.configs.errors import DataError
from mambavl.extract.lists.listing import Names
from mambavl.extract.tables import Tables


class Unfit(ValueError):
    """A value is not what is expected there; the message names its place."""


@dataclass(frozen=True)
class Node:
    """An object or a list of a JSON file."""

    where: str  # file: key[place].key
    value: Any

    def has(self, key: str) -> bool:
        return isinstance(self.value, dict) and self.value.get(key) is not None

    def get(self, key: str) -> "Node":
        if not isinstance(self.value, dict):
            raise Unfit(f"{self.where}: is {_kind(self.value)}, and not an object with {key!r}")
        if key not in self.value:
            raise Unfit(
                f"{self.where}: has no {key!r}; there are {', '.join(map(str, self.value)) or 'no keys'}"
            )
        return Node(f"{self.where}.{key}", self.value[key])

    def items(self) -> Iterator[tuple[str, "Node"]]:
        """Of an object."""
        if not isinstance(self.value, dict):
            raise Unfit(f"{self.where}: is {_kind(self.value)}, and not an object")
        for key, value in self.value.items():
            yield str(key), Node(f"{self.where}.{key}", value)

    def list(self) -> list["Node"]:
        if not isinstance(self.value, list | tuple):
            raise Unfit(f"{self.where}: is {_kind(self.value)}, and not a list")
        return [Node(f"{self.where}[{place}]", value) for place, value in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise Unfit(f"{self.where}: is {_kind(self.value)}, and not a text")
        return self.value.strip()

    def number(self) -> float:
        is_number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if not is_number or not math.isfinite(self.value):
            raise Unfit(f"{self.where}: is {_kind(self.value)}, and not a number")
        return float(self.value)

    def whole(self) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or self.value < 0:
            raise Unfit(f"{self.where}: is {_kind(self.value)}, and not a whole number from 0 on")
        return self.value


def class_of(node: Node, names: Names) -> int:
    """An id of a class. Raises Unfit for one that the list does not have."""
    try:
        return names.known(node.whole())
    except Unfit:
        raise
    except ValueError as error:
        raise Unfit(f"{node.where}: {error}") from None


def read_json(tables: Tables, name: str) -> Node:
    """Raises DataError for what is not JSON, and for an object that names a key twice: one would be lost."""
    path = tables.folder / name
    try:
        return Node(str(path), json.loads(tables.text(name), object_pairs_hook=_once))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error})") from None
    except Unfit as error:
        raise DataError(f"{path}: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise Unfit(f"names {next(key for key in keys if keys.count(key) > 1)!r} twice in one object")
    return found


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)[:60]
    return "a list" if isinstance(value, list) else "an object"
