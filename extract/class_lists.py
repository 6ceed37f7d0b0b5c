"""The classes of a target, as a file lists them: keys, other words for each, categories."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from mambavl.configs.errors import DataError
from mambavl.extract.tables import Row, Tables


@dataclass(frozen=True)
class ClassList:
    """The classes of one kind. Ids may have gaps; `size` is what a head needs: the largest id plus one."""

    keys: dict[int, str]
    instances: dict[int, tuple[str, ...]]
    categories: dict[int, str]

    @classmethod
    def of(cls, keys: Mapping[int, str]) -> "ClassList":
        """Of names alone, by id."""
        ordered = dict(sorted(keys.items()))
        return cls(ordered, {number: (key,) for number, key in ordered.items()}, dict.fromkeys(ordered, ""))

    @property
    def size(self) -> int:
        return max(self.keys) + 1

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every key and instance of every class."""
        names: list[str] = []
        for class_id, key in self.keys.items():
            names += [key, *self.instances[class_id]]
        return tuple(names)

    def words(self, class_id: int) -> str:
        """The key as a person would say it: `turn-on` -> `turn on`, `board:chopping` -> `chopping board`."""
        return spoken(self.keys[class_id])


def read_classes(tables: Tables, name: str, required: tuple[str, ...]) -> ClassList:
    """The class list in a file: columns id and key; instances and category where it has them. Raises
    DataError for a list without a class.
    """
    keys: dict[int, str] = {}
    instances: dict[int, tuple[str, ...]] = {}
    categories: dict[int, str] = {}
    places: dict[int, str] = {}
    for row in tables.rows(name, required):
        class_id = row.integer("id", 0, 99_999)
        words = row.words("instances") if "instances" in row.cells else [row["key"]]
        if not row.text("key"):
            row.problem("key is blank")
        if class_id is None or words is None:
            continue
        if (first := places.setdefault(class_id, row.where)) != row.where:
            row.problem(f"class {class_id} occurs twice, first in {first}")
        keys[class_id] = row["key"]
        instances[class_id] = tuple(words)
        categories[class_id] = row.get("category")
    tables.finish()
    if not keys:
        raise DataError(f"{tables.folder / name}: lists no class")
    return ClassList(keys, instances, categories)


def known_class(row: Row, column: str, classes: ClassList) -> int | None:
    """A cell that names a class; one that the list does not have is a problem."""
    value = row.integer(column, 0, 10**6)
    if value is not None and value not in classes.keys:
        row.problem(f"{column} {value} is not in the class file (0 to {classes.size - 1})")
        return None
    return value


def spoken(key: str) -> str:
    """A class key or instance in speaking order: nouns are stored head first (`bottle:water`), verbs with
    hyphens.
    """
    return " ".join(reversed(key.split(":"))).replace("-", " ")
