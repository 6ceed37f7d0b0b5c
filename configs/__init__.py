"""Recipes: TOML files checked by pydantic models that live next to what they configure.

An unknown key is refused with the nearest known name; every fault of a recipe is reported at once, each with
its key and file. `--set a.b=value` overrides a key; the resolved recipe is written next to every result.
"""

import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from mambavl.configs.errors import UsageError, did_you_mean


class Config(BaseModel):
    """A frozen record of knobs; unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


ConfigType = TypeVar("ConfigType", bound=Config)


def load(path: Path | str, kind: type[ConfigType], overrides: Iterable[str] = ()) -> ConfigType:
    """Read the recipe at `path` (or the packaged one of that name, `fuse/default`), apply `key=value`
    overrides, check it.

    Raises UsageError naming the file or `--set`, the key and, for an unknown key, the nearest known name.
    """
    source, assignments = find_recipe(path), list(overrides)
    return validate(override(read_toml(source), assignments), kind, source.name, assignments)


def find_recipe(path: Path | str) -> Path:
    """The recipe file: a path, or the name of a packaged recipe with or without `.toml`.

    Raises UsageError where it is neither, with the nearest name or all names of packaged training recipes:
    the commands that take a recipe train or count a head.
    """
    if Path(path).is_file():
        return Path(path)
    packaged = Path(str(resources.files("mambavl.configs")))
    name = str(path).removesuffix(".toml").removeprefix("configs/")
    known = sorted(p.relative_to(packaged).with_suffix("").as_posix() for p in packaged.rglob("*.toml"))
    if name in known:
        return packaged / f"{name}.toml"
    offered = [recipe for recipe in known if recipe.startswith("fuse/")]
    raise UsageError(f"{path}: no such recipe file{did_you_mean(name, offered)}")


def read_toml(path: Path) -> dict[str, Any]:
    """Raises UsageError where the file cannot be read, or is not TOML."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: is not valid TOML: {error}") from None


def override(data: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Apply `a.b=value` assignments to a copy of `data`. A value is read as TOML; what is not TOML is
    taken as text. `a.b=` takes the key out again, so that its default counts: an empty text is `a.b=""`.
    """
    data = _copy(data)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not all(part.strip() for part in key.split(".")):
            raise UsageError(f"--set {assignment!r}: expected key=value, for example --set train.lr=1e-3")
        if text.strip():
            set_key(data, key.strip(), parse_value(text.strip()))
        else:
            _unset_key(data, key.strip())
    return data


def _unset_key(data: dict[str, Any], key: str) -> None:
    *parents, last = key.split(".")
    section: Any = data
    for parent in parents:
        section = section.get(parent) if isinstance(section, dict) else None
    if not isinstance(section, dict) or last not in section:
        raise UsageError(f"--set {key}=: there is no {key} to take out; an empty text is --set {key}='\"\"'")
    del section[last]


def set_key(data: dict[str, Any], key: str, value: Any) -> None:
    """Set `a.b` of `data`, in place; sections that are not there are made. Raises UsageError where `a` is a
    value.
    """
    *parents, last = key.split(".")
    for parent in parents:
        found = data.setdefault(parent, {})
        if not isinstance(found, dict):
            raise UsageError(f"--set {key}: {parent} = {found!r} is a value, not a section; change it first")
        data = found
    data[last] = value


def parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def validate(
    data: dict[str, Any],
    kind: type[ConfigType],
    source: str,
    assignments: Iterable[str] = (),
    *,
    recorded: bool = False,
) -> ConfigType:
    """Validate `data` as `kind`; all faults in one UsageError, a line each.

    A line begins with `source`, or with `--set` where one of the `assignments` (`a.b=value`) gave the key.
    recorded: `data` is the record of a run, not a request for one. Validators find this in their context, and
    let pass what is refused only because nobody should train it.
    """
    assignments = list(assignments)
    try:
        return kind.model_validate(data, context={"recorded": recorded})
    except ValidationError as error:
        lines = []
        for fault in error.errors(include_url=False):
            key = ".".join(map(str, fault["loc"]))
            by_set = is_set(key, assignments) or _is_below(key, fault, assignments)
            lines.append(_explain(fault, kind, "--set" if by_set else source))
        raise UsageError("\n".join(lines)) from None


def is_set(key: str, assignments: Iterable[str]) -> bool:
    """Whether one of the assignments (`a.b=value`) gave the key, or a section that it is in."""
    keys = [assignment.partition("=")[0].strip() for assignment in assignments]
    return any(f"{key}.".startswith(f"{given}.") for given in keys)


def _is_below(key: str, fault: ErrorDetails, assignments: list[str]) -> bool:
    """Whether a section that does not exist was made by `key.a=value`."""
    return fault["type"] == "extra_forbidden" and any(
        one.strip().startswith(f"{key}.") for one in assignments
    )


def dump(config: Config) -> str:
    """The resolved recipe as TOML. Keys whose value is None are left out: TOML has no null, and absence means
    the same.
    """
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def _explain(fault: ErrorDetails, kind: type[Config], source: str) -> str:
    message = fault["msg"].removeprefix("Value error, ")
    if not fault["loc"]:
        return f"{source}: {message}"
    *path, key = (str(part) for part in fault["loc"])
    section = f" [{'.'.join(path)}]" if path else ""
    if fault["type"] == "extra_forbidden":
        owner = _model_at(kind, path)
        places = [] if path else _sections_with(kind, key)
        hint = f"; did you mean `{places[0]}.{key}`?" if len(places) == 1 else ""
        hint = hint or did_you_mean(key, list(owner.model_fields))
        return f"{source}{section}: there is no key `{key}`{hint}"
    if fault["type"] == "missing":
        return f"{source}{section}: the key `{key}` is missing"
    if fault["type"] == "list_type":
        meant = f"--set '{'.'.join([*path, key])}={list_meant(fault['input'])}'"
        return f"{source}{section}: {key} = {fault['input']!r}: expected a list, such as {meant}"
    if fault["type"] in ("model_type", "dict_type"):
        hint = _section_hint(kind, fault["type"], [*path, key])
        return f"{source}{section}: {key} = {fault['input']!r}: {hint}"
    return f"{source}{section}: {key} = {fault['input']!r}: {message}"


def list_meant(given: Any) -> str:
    """The list that was meant where a value was given, as TOML. Of `["a"]` without quotes around it a shell
    leaves `[a]`, which is text.
    """
    items = [given]
    if isinstance(given, str):
        items = [parse_value(item.strip()) for item in given.strip("[]").split(",") if item.strip()]
    return f"[{', '.join(tomli_w.dumps({'it': item})[len('it = ') :].strip() for item in items)}]"


def _sections_with(kind: type[Config], key: str) -> list[str]:
    """The sections of a recipe that have this key."""
    records = {name: model_in(field.annotation) for name, field in kind.model_fields.items()}
    named = {name for name, field in kind.model_fields.items() if get_origin(field.annotation) is dict}
    return [name for name, one in records.items() if one and name not in named and key in one.model_fields]


def _section_hint(kind: type[Config], fault: str, path: list[str]) -> str:
    """What to do where the section `path` of a `kind` recipe was given a value."""
    hint = f"[{'.'.join(path)}] is a section: set its keys"
    record = _model_at(kind, path)
    if fault == "dict_type" and record is _model_at(kind, path[:-1]):  # of values: `published`, `grid`
        return f"{hint}, such as {'.'.join(path)}.NAME"
    names = [*path, "NAME"] if fault == "dict_type" else path
    first = next(name for name, field in record.model_fields.items() if not field.exclude)
    return f"{hint}, such as {'.'.join([*names, first])}"


def _model_at(kind: type[Config], path: list[str]) -> type[Config]:
    """The model that the section `path` of a `kind` recipe is checked by."""
    for part in path:
        field = kind.model_fields.get(part)
        found = model_in(field.annotation) if field else None
        kind = found or kind  # a part that is not a field is the name of an entry in a dict of models
    return kind


def model_in(annotation: Any) -> type[Config] | None:
    """The record that a setting holds, itself or as the items of a dict, list or tuple."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    if get_origin(annotation) in (dict, list, tuple, Union, UnionType):
        return next(filter(None, map(model_in, get_args(annotation))), None)
    return None


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, dict) else value
