"""What the keys of a settings record are, read from the record itself, so that it is never out of date.

A field says what it does in a comment: at the end of its line, or on the lines directly above it. The other
facts are its own: which values it takes, its default.

    for setting in settings_of(Recipe): print(setting.key, setting.default, setting.meaning)
"""

import ast
import inspect
import io
import json
import textwrap
import tokenize
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

REQUIRED, ABSENT = "required", "absent"


@dataclass(frozen=True)
class Setting:
    """One key of a record, in words."""

    key: str  # as `--set` takes it: `sampling.frames`; NAME stands for a name of the user's own
    values: str  # which values it takes
    default: str  # as a recipe would say it, or `absent`, or `required`, perhaps with a condition
    meaning: str  # the field's comment; empty where it has none


def settings_of(record: type[BaseModel], prefix: str = "", required: str = REQUIRED) -> list[Setting]:
    """Every key of `record` and of the records inside it; fields left out of its dumps are not keys.

    prefix: put before each key. required: what a key without a default has in place of one.
    """
    meanings = comments_of(record)
    found = []
    for name, field in record.model_fields.items():
        if field.exclude:
            continue
        key = prefix + name
        inner, is_named = _record_in(field.annotation)
        if inner is not None:
            # an optional record need not be there, but its own keys are required once it is
            needed = f"{REQUIRED} once {key} is set" if _is_optional(field) else required
            found += settings_of(inner, f"{key}.NAME." if is_named else f"{key}.", needed)
        else:
            found.append(Setting(key, _values(field), _default(field, required), meanings.get(name, "")))
    return found


def comments_of(record: type[BaseModel]) -> dict[str, str]:
    """Field -> its comment, in `record` and what it inherits from; fields without one are absent."""
    found: dict[str, str] = {}
    for owner in reversed(record.__mro__):
        if issubclass(owner, BaseModel) and owner.__module__.startswith(record.__module__.partition(".")[0]):
            found |= _own_comments(owner)
    return found


def _own_comments(record: type[BaseModel]) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(record))
    on_line: dict[int, str] = {}  # all comments
    alone: set[int] = set()  # lines that hold nothing else
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line = token.start[0]
            on_line[line] = token.string.removeprefix("#").strip()
            if token.line.strip() == token.string:
                alone.add(line)
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while first - 1 in alone:
                first -= 1
            lines = range(first, (node.end_lineno or node.lineno) + 1)
            comment = " ".join(on_line[line] for line in lines if line in on_line)
            if comment:
                found[node.target.id] = comment
    return found


def _record_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The record that a field holds, alone or optional, or by names of the user's own (True); else None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    if get_origin(annotation) is dict:
        inner, _ = _record_in(get_args(annotation)[1])
        return inner, True
    if get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            inner, is_named = _record_in(member)
            if inner is not None:
                return inner, is_named
    return None, False


def _is_optional(field: FieldInfo) -> bool:
    return not field.is_required() and field.default is None


def _default(field: FieldInfo, required: str) -> str:
    if field.is_required():
        return required
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is None:
        return ABSENT
    if isinstance(default, str) and default:
        return default
    return json.dumps(default, default=str)


def _values(field: FieldInfo) -> str:
    return _words(field.annotation, tuple(field.metadata))


def _words(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """What a value of this type is: `crop or squash`, `whole number (1 to 1,024)`, `list of path`."""
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(members[0], members[1:])
    if origin is Literal:
        return _listed([_plain(member) for member in members])
    if origin in (Union, UnionType):
        return _listed([_words(member, metadata) for member in members if member is not type(None)])
    if origin in (tuple, list):
        return f"list of {_words(members[0])}"
    if origin is dict:
        return f"section of {_words(members[0])} = {_words(members[1])}"
    names = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}
    name = names.get(annotation, "value")
    bounds = _bounds(metadata)
    return f"{name} ({bounds})" if bounds and annotation in (int, float) else name


def _bounds(metadata: tuple[Any, ...]) -> str:
    """`1 to 1,024`, from the limits among a field's metadata."""
    low = high = ""
    for limit in metadata:
        if isinstance(limit, FieldInfo):  # of a member of a union
            return _bounds(tuple(limit.metadata))
        if isinstance(limit, Ge):
            low = _number(limit.ge)
        elif isinstance(limit, Gt):
            low = f"above {_number(limit.gt)}"
        elif isinstance(limit, Le):
            high = _number(limit.le)
        elif isinstance(limit, Lt):
            high = f"below {_number(limit.lt)}"
    if low and high:
        return f"{low} to {high}"
    if low and not low.startswith("above"):
        low = f"{low} or more"
    return low or high


def _number(limit: object) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _listed(words: list[str]) -> str:
    """`a, b or c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} or {words[-1]}"
