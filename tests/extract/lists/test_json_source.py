"""Values of a JSON file are what they are asked for, or named by place."""

import json

import pytest

from mambavl.configs.errors import DataError
from mambavl.extract.lists.json_source import Node, Unfit, read_json
from mambavl.extract.tables import Tables


def test_values_and_their_places(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"a": [{"b": 2.5, "c": " x ", "d": 3, "e": None}]}))
    (one,) = read_json(Tables(tmp_path), "x.json").get("a").list()
    assert (one.get("b").number(), one.get("c").text(), one.get("d").whole()) == (2.5, "x", 3)
    assert one.where == f"{tmp_path / 'x.json'}.a[0]"
    assert (one.has("d"), one.has("e"), one.has("f")) == (True, False, False)
    assert [key for key, _ in one.items()] == ["b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("value", "ask", "said"),
    [
        ("1", "number", "x: is '1', and not a number"),
        (True, "number", "x: is True, and not a number"),
        (float("nan"), "number", "x: is nan, and not a number"),
        (1.0, "whole", r"x: is 1\.0, and not a whole number"),
        (-1, "whole", "x: is -1, and not a whole number"),
        (True, "whole", "x: is True, and not a whole number"),
        (3, "text", "x: is 3, and not a text"),
        ({}, "list", "x: is an object, and not a list"),
    ],
)
def test_a_value_of_another_kind_is_refused(value, ask, said):
    with pytest.raises(Unfit, match=said):
        getattr(Node("x", value), ask)()


def test_items_and_keys_are_of_objects():
    with pytest.raises(Unfit, match="x: is 3, and not an object"):
        list(Node("x", 3).items())
    with pytest.raises(Unfit, match="x: has no 'a'; there are b"):
        Node("x", {"b": 1}).get("a")


def test_a_file_that_is_not_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match=r"x\.json: is not JSON"):
        read_json(Tables(tmp_path), "x.json")
