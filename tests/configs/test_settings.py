"""Settings explain themselves: from the comments of a record, whatever its fields look like."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from mambavl.configs import Config
from mambavl.configs.settings import comments_of, settings_of


class Inner(Config):
    """A part."""

    depth: int = Field(default=2, ge=1, le=1024)  # of the tree
    # seconds; a long sentence that needs
    # a second line
    wait: float = Field(default=0.5, gt=0)


class Price(Config):
    """A part that need not be there, and is whole if it is."""

    unit: str


class Base(Config):
    """What others inherit."""

    encoder: str  # which one
    weights: str | None = None


class Record(Base):
    """All kinds of fields."""

    weights: Path | None = None  # overrides the base's, which has no comment
    levels: Annotated[tuple[Literal["clip", "frame"], ...], Field(min_length=1)] = ("frame",)  # any of them

    # a comment that stands apart and belongs to nothing

    crops: Literal[1, 3] = 1  # one or three
    temperature: Annotated[float, Field(ge=0, le=2)] | Literal["server"] = 0.7
    published: dict[Literal["verb", "noun"], float] = Field(
        default={},
    )  # behind the last line
    inner: Inner = Inner()
    maybe: Inner | None = None
    named: dict[str, Inner]
    anything: dict[str, Any] = Field(default={})  # a # within stays
    price: Price | None = None
    hidden: int = Field(default=3, exclude=True)

    def method(self) -> int:
        # not of a field
        return 1


FOUND = {setting.key: setting for setting in settings_of(Record)}


def test_every_key_is_listed_as_set_takes_it():
    assert list(FOUND) == [
        "encoder", "weights", "levels", "crops", "temperature", "published", "inner.depth", "inner.wait",
        "maybe.depth", "maybe.wait", "named.NAME.depth", "named.NAME.wait", "anything", "price.unit",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "meaning"),
    [
        ("encoder", "which one"),
        ("weights", "overrides the base's, which has no comment"),
        ("inner.depth", "of the tree"),
        ("inner.wait", "seconds; a long sentence that needs a second line"),
        ("published", "behind the last line"),
        ("anything", "a # within stays"),
        ("temperature", ""),
        ("crops", "one or three"),
    ],
)
def test_a_field_means_what_its_comment_says(key, meaning):
    assert FOUND[key].meaning == meaning


def test_a_comment_set_apart_belongs_to_no_field():
    assert "stands apart" not in str(comments_of(Record))


@pytest.mark.parametrize(
    ("key", "values", "default"),
    [
        ("encoder", "text", "required"),
        ("weights", "path", "absent"),
        ("levels", "list of clip or frame", '["frame"]'),
        ("crops", "1 or 3", "1"),
        ("temperature", "number (0 to 2) or server", "0.7"),
        ("published", "section of verb or noun = number", "{}"),
        ("inner.depth", "whole number (1 to 1,024)", "2"),
        ("inner.wait", "number (above 0)", "0.5"),
        ("price.unit", "text", "required once price is set"),
        ("named.NAME.wait", "number (above 0)", "0.5"),
    ],
)
def test_values_and_defaults_are_the_fields_own(key, values, default):
    assert (FOUND[key].values, FOUND[key].default) == (values, default)
