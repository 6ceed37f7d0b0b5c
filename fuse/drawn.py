"""What a sweep tries: [grid], every combination of lists; [random], draws; [[points]], each written down.
What [search] proposes is in `study`.

A recipe may have several of them: every draw is then tried with every combination, and so on.

    [random]
    points = 20
    train.lr = { low = 1e-4, high = 1e-2, log = true }
    fusion.d_state = { low = 4, high = 32 }            # whole numbers, both ends among them
    head.dropout = [0.1, 0.3, 0.5]                     # one of these

A value depends on `seed`, the number of the draw and its key alone: with more points, or one key more, those
drawn before stay what they are.
"""

import itertools
import math
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from mambavl.configs import list_meant
from mambavl.configs.errors import UsageError, did_you_mean
from mambavl.fuse.idle import flatten

SECTIONS = ("grid", "random", "points", "search")  # of a recipe, that say what is tried
DIGITS = 4  # of a number that is drawn: it becomes part of a folder's name
OF_DRAWS = ("points", "seed")  # keys of [random] itself
MOST = 100_000  # draws


class Interval(NamedTuple):
    """Where a number is drawn from."""

    low: float
    high: float
    log: bool  # every factor is as likely as another, not every difference

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def draw(self, random: np.random.Generator) -> float:
        """Whole numbers have the same chance each, or that of their logarithms' interval."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.is_whole else (self.low, self.high)
        share = random.random()
        return self.rounded(low * (high / low) ** share if self.log else low + (high - low) * share)

    def rounded(self, value: float) -> float:
        """The nearest value that is drawn."""
        if self.is_whole:
            return min(max(round(value), int(self.low)), int(self.high))
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


Choice = Interval | list[Any]


def has_points(data: dict[str, Any]) -> bool:
    """Whether a recipe is a sweep's."""
    return any(data.get(section) for section in SECTIONS)


def combinations(data: dict[str, Any], source: str) -> list[dict[str, Any]]:
    """key -> value of everything that `data` says is to be tried, as it stands there. Raises UsageError,
    which names `source`, where it says nothing or a section is not right.
    """
    parts = {
        "[grid]": list(_grid(data.get("grid") or {}, f"{source} [grid]")),
        "[random]": list(_random(data.get("random") or {}, f"{source} [random]")),
        "[[points]]": list(_points(data.get("points") or [], f"{source} [[points]]")),
    }
    tried = {section: found for section, found in parts.items() if found}
    if not tried:
        raise UsageError(
            f"{source}: has no [grid]; name keys and lists of values there, e.g. train.lr = [1e-3, 3e-3], "
            "or draw values in [random], let [search] propose them, or write points down in [[points]]"
        )
    keys = {section: {key for values in found for key in values} for section, found in tried.items()}
    for one, other in itertools.combinations(tried, 2):
        if both := keys[one] & keys[other]:
            raise UsageError(f"{source}: {min(both)} is in {one} and in {other}; leave it out of one of them")
    return [
        {key: value for values in several for key, value in values.items()}
        for several in itertools.product(*tried.values())
    ]


def axes_of(data: dict[str, Any]) -> dict[str, str]:
    """key that `data` tries values of -> the section that says so, right or not."""
    points = data.get("points")
    tables = points if isinstance(points, list) else []
    found = {key: "[[points]]" for point in tables if isinstance(point, dict) for key in flatten(point)}
    for name in ("random", "search", "grid"):
        section = data.get(name)
        for key in flatten(section) if isinstance(section, dict) else ():
            found[key.removesuffix(".low").removesuffix(".high").removesuffix(".log")] = f"[{name}]"
    return found


def _refuse_key_of_sweep(keys: set[str], where: str) -> None:
    for key in ("rank_by", "select_on"):
        if key in keys:
            raise UsageError(f"{where}: {key} is for the sweep as a whole; move it above the first section")


def _grid(section: dict[str, Any], where: str) -> Iterator[dict[str, Any]]:
    axes = flatten(section)
    _refuse_key_of_sweep(set(axes), where)
    for key, values in axes.items():
        _check_values(key, values, where)
    if axes:
        yield from (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))


def _check_values(key: str, values: Any, where: str) -> None:
    if not isinstance(values, list) or not values:
        meant = f", such as '{key}={list_meant(values)}'" if isinstance(values, str | int | float) else ""
        raise UsageError(f"{where}: {key} must be a list of values{meant}, got {values!r}")
    for number, value in enumerate(values):
        if value in values[:number]:
            raise UsageError(f"{where}: {key} = {value} is listed twice")


def _random(section: dict[str, Any], where: str) -> Iterator[dict[str, Any]]:
    if not section:
        return
    number, seed = whole(section, "points", where, least=1), whole(section, "seed", where, default=0)
    choices = choices_of({key: value for key, value in section.items() if key not in OF_DRAWS}, where)
    for draw in range(number):
        yield {key: drawn(choice, [seed, draw, zlib.crc32(key.encode())]) for key, choice in choices.items()}


def whole(
    section: dict[str, Any], key: str, where: str, *, least: int = 0, default: int | None = None
) -> int:
    """A whole number in a section. Raises UsageError where it is none, or too small or large."""
    value = section.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
        raise UsageError(f"{where}: {key} must be a whole number from {least} to {MOST:,}, got {value!r}")
    return value


def choices_of(section: dict[str, Any], where: str) -> dict[str, Choice]:
    """key -> what its values are drawn from. Raises UsageError where there is none, or one is not right."""
    found: dict[str, Choice] = {}

    def read(part: dict[str, Any], prefix: str) -> None:
        for name, value in part.items():
            key = f"{prefix}{name}"
            if isinstance(value, dict) and not {"low", "high"} & value.keys():
                read(value, f"{key}.")
            elif isinstance(value, dict):
                found[key] = _interval(key, value, where)
            else:
                _check_values(key, value, where)
                found[key] = value

    read(section, "")
    _refuse_key_of_sweep(set(found), where)
    if not found:
        raise UsageError(
            f"{where}: name what is drawn, e.g. train.lr = {{ low = 1e-4, high = 1e-2, log = true }}"
        )
    return found


def _interval(key: str, given: dict[str, Any], where: str) -> Interval:
    for name in given:
        if name not in Interval._fields:
            hint = did_you_mean(name, list(Interval._fields))
            raise UsageError(f"{where}: {key} has an interval of low, high and log, and no {name!r}{hint}")
    low: Any = given.get("low")
    high: Any = given.get("high")
    log = given.get("log", False)
    if not (_is_number(low) and _is_number(high) and low < high and isinstance(log, bool)):
        raise UsageError(f"{where}: {key} needs numbers low < high, and log true or false; got {given}")
    if log and low <= 0:
        raise UsageError(f"{where}: {key} has log = true, so low must be above 0; it is {low}")
    return Interval(low, high, log)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def drawn(choice: Choice, entropy: list[int]) -> Any:
    """A value, a pure function of the arguments."""
    random = np.random.default_rng(entropy)
    return choice.draw(random) if isinstance(choice, Interval) else choice[int(random.integers(len(choice)))]


def _points(given: Any, where: str) -> Iterator[dict[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(point, dict) and point for point in given):
        raise UsageError(f"{where}: write each point as a section of its own, [[points]] and keys = values")
    found: list[dict[str, Any]] = []
    for point in map(flatten, given):
        _refuse_key_of_sweep(set(point), where)
        if point in found:
            raise UsageError(f"{where}: {point} is listed twice")
        found.append(point)
    yield from found
