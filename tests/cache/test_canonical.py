"""Canonical JSON: the same bytes for the same content, and digests of it."""

import hashlib

import pytest

from mambavl.cache.canonical import (
    canonical_json,
    differences,
    digest,
    file_sha256,
    pretty_json,
    sha256,
)


def test_the_order_of_keys_changes_no_byte():
    assert canonical_json({"b": 1, "a": [1.0, "é"]}) == '{"a":[1.0,"é"],"b":1}'.encode()
    assert canonical_json({"a": [1.0, "é"], "b": 1}) == canonical_json({"b": 1, "a": [1.0, "é"]})
    assert pretty_json({"b": 1, "a": {}}) == b'{\n "a": {},\n "b": 1\n}\n'
    assert digest({"b": 1, "a": 2}) == hashlib.sha256(b'{"a":2,"b":1}').hexdigest()


@pytest.mark.parametrize("write", [canonical_json, pretty_json])
def test_numbers_that_json_does_not_have_are_refused(write):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write({"a": float("nan")})


def test_differences_name_the_field_and_both_values():
    old, new = {"a": {"b": 1, "c": [1]}, "same": 0}, {"a": {"b": 2, "c": [1]}, "new": "x", "same": 0}
    assert differences(old, new) == ["a.b: 1 -> 2", "new: None -> 'x'"]
    assert differences(old, old) == []
    assert differences({"a": {"b": 1}}, {"a": 1}) == ["a: {'b': 1} -> 1"]


def test_a_file_has_the_digest_of_its_bytes(tmp_path):
    data = bytes(range(256)) * 1000
    (tmp_path / "f").write_bytes(data)
    assert file_sha256(tmp_path / "f") == sha256(data) == hashlib.sha256(data).hexdigest()
