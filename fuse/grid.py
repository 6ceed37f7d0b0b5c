"""What a sweep's recipe comes to: each combination of values that `drawn` finds in it, with its recipe.

A key that cannot act at a point is left out of it: of six combinations of `head.name` = mambavl, mlp and
`fusion.share` = A, none, all, four differ, for the MLP shares nothing. What acts at no point is refused.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from mambavl.cache import canonical
from mambavl.configs import is_set, override, validate
from mambavl.configs.errors import UsageError
from mambavl.fuse.drawn import SECTIONS, axes_of, combinations
from mambavl.fuse.fusion import preset_of
from mambavl.fuse.head import HeadSettings
from mambavl.fuse.idle import SSM_HEADS, Need, flatten, idle, without
from mambavl.fuse.recipe import WITHOUT_WEIGHT, Recipe, asks, what_decides


class Combination(NamedTuple):
    """A point of the sweep."""

    name: str
    values: dict[str, Any]  # of the axes that act there
    recipe: Recipe


def expand(data: dict[str, Any], source: str, assignments: Sequence[str] = ()) -> list[Combination]:
    """The points of `data`'s [grid], [random] and [[points]] that differ, each with its checked recipe.

    Raises UsageError, which names `source`, or --set where one of the `assignments` already made to `data` is
    at fault: where a recipe is not right, a key acts at no point, a value is listed twice, or a preset would
    set for one head what the others have, too.
    """
    tried = combinations(data, source)
    axes: dict[str, list[Any]] = {}  # key -> its values, in the order in which they come
    for chosen in tried:
        for key, value in chosen.items():
            if value not in axes.setdefault(key, []):
                axes[key].append(value)
    base = _without_sections(data)
    found: dict[str, Combination] = {}
    acting: set[str] = set()  # keys that act at a point
    inert: dict[str, Need] = {}  # keys that cannot at a point
    for chosen in tried:
        raw, no_effect = _apply(base, chosen)
        inert |= no_effect
        acting |= flatten(raw).keys() - no_effect.keys()
        acts = {key: value for key, value in chosen.items() if key not in no_effect}
        point = _point(without(raw, no_effect), acts, source, assignments)
        if not set(axes.get("head.name", ())) <= {*SSM_HEADS}:
            _refuse_preset_of_some_heads(without(raw, no_effect), source)
        by_hand = {key: value for key, value in acts.items() if key in WITHOUT_WEIGHT}
        found.setdefault(canonical.digest([what_decides(point.recipe), by_hand]), point)
    never = {key: need for key, need in inert.items() if key not in acting}
    sections = {key: f"{source} {section}" for key, section in axes_of(data).items()}
    _refuse_what_never_acts(never, axes, sections, flatten(base), source, assignments)
    return list(found.values())


def combination(
    data: dict[str, Any], chosen: dict[str, Any], source: str, assignments: Sequence[str] = ()
) -> Combination:
    """The point at which keys of `data` have chosen values, without those that cannot act there. Raises
    UsageError where its recipe is not right.
    """
    raw, no_effect = _apply(_without_sections(data), chosen)
    acts = {key: value for key, value in chosen.items() if key not in no_effect}
    return _point(without(raw, no_effect), acts, source, assignments)


def _without_sections(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in SECTIONS}


def _apply(base: dict[str, Any], chosen: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Need]]:
    """A recipe with chosen values, and which of its keys cannot act there."""
    # JSON scalars and lists are TOML, too
    raw = override(base, [f"{key}={json.dumps(value)}" for key, value in chosen.items()])
    return raw, idle(raw)


def _point(
    raw: dict[str, Any], values: dict[str, Any], source: str, assignments: Sequence[str]
) -> Combination:
    name = ",".join(f"{key}={_spelt(value)}" for key, value in values.items())
    # runs that differ in their seed alone carry one title
    title = ", ".join(f"{key} = {value}" for key, value in values.items() if key != "train.seed")
    recipe = validate({"title": title, **raw}, Recipe, f"{source} [{name}]", assignments)
    return Combination(name, values, recipe)


def _spelt(value: Any) -> Any:
    """Such as `video+audio` of a list of names: a folder can be called so."""
    is_of_names = isinstance(value, list) and value and all(isinstance(item, str) for item in value)
    return "+".join(value) if is_of_names else value


def _refuse_preset_of_some_heads(raw: dict[str, Any], source: str) -> None:
    """A preset of heads with an SSM gives values to [head]; the other heads of a grid would not get them."""
    fusion, head = raw.get("fusion", {}), raw.get("head", {})
    alone = preset_of(fusion, HeadSettings.model_fields.keys() - head)
    if alone:
        values = ", ".join(f"head.{key} = {json.dumps(value)}" for key, value in alone.items())
        raise UsageError(
            f"{source}: fusion.preset = {fusion['preset']} gives {values} to the heads with an SSM and not "
            "to the others of the sweep; set these keys in [head], for all of them"
        )


def _refuse_what_never_acts(
    never: dict[str, Need],
    axes: dict[str, list[Any]],
    sections: dict[str, str],
    given: dict[str, Any],
    source: str,
    assignments: Sequence[str],
) -> None:
    lines = []
    for key, need in never.items():
        if need.key in axes:
            need = need._replace(found=" or ".join(map(str, axes[need.key])))
        if key in axes:
            lines.append(f"{sections[key]}: {key} {need}")
        elif asks(key, given[key], need):
            lines.append(f"{'--set' if is_set(key, assignments) else source}: {key} = {given[key]} {need}")
    if lines:
        raise UsageError("\n".join(lines))
