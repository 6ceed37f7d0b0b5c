"""What is packed comes back, by a reader that is written out here."""

import base64
import json
import zlib

import numpy as np
import pytest

from mambavl.fuse.report.packing import answers, coarse, pack, pack_json, planes, ranks, width_of


def unpack(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def test_bytes_and_json_come_back():
    data = bytes(range(256)) * 3
    assert unpack(pack(data)) == data
    found = {"a": ["<script>", "\u2028", "\ud800", "é"], "b": [1, -1]}
    assert json.loads(unpack(pack_json(found))) == found
    assert set(pack_json(found)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")
    with pytest.raises(ValueError, match="JSON"):
        pack_json([float("nan")])


@pytest.mark.parametrize(("names", "width"), [(0, 1), (254, 1), (255, 1), (256, 2), (65_535, 2), (65_536, 3)])
def test_a_number_has_room_for_the_one_after_the_last_name(names, width):
    assert width_of(names) == width
    assert names < 256 ** width_of(names)


def test_numbers_lie_by_byte():
    numbers = np.array([1, 258, 70_000])
    assert planes(numbers, 3) == bytes([1, 2, 112, 0, 1, 17, 0, 0, 1])


def test_a_probability_comes_back_within_0_4_points():
    """And within sqrt(p) / 255, so that small ones keep some of their digits."""
    exact = np.linspace(0, 1, 100_001)
    back = (coarse(exact) / 255.0) ** 2
    assert np.abs(back - exact).max() <= 0.004
    assert (np.abs(back - exact) <= np.sqrt(np.maximum(exact, back)) / 255 + 1e-9).all()
    assert coarse(np.array([0.0, 1.0, 1.0000001, -1e-9])).tolist() == [0, 255, 255, 0]


def test_answers_lie_class_by_class():
    numbers, shares = np.array([[1, 300], [2, 0]]), np.array([[1.0, 0.0], [0.25, 1.0]])
    half = round(255 * 0.5)
    assert list(answers(numbers, 2, shares, np.array([0.0, 1.0]))) == [
        *(1, 2, 0, 0, 300 % 256, 0, 1, 0),  # numbers: of the first class low, high; of the second low, high
        *(255, half, 0, 255),  # probabilities
        *(0, 255),  # of the label
    ]
    assert list(ranks(numbers[:, :1], 1)) == [1, 2]
    assert list(ranks(numbers, 2)) == [1, 2, 0, 0, 44, 0, 1, 0]


def test_a_product_of_two_comes_back_within_0_8_points():
    exact = np.linspace(0, 1, 1001)
    back = (coarse(exact) / 255.0) ** 2
    assert np.abs(np.outer(back, back) - np.outer(exact, exact)).max() <= 0.008
