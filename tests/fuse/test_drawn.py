"""What a sweep tries: products of lists, draws that stay what they are, points written down."""

import itertools
import math
import tomllib
from collections import Counter

import numpy as np
import pytest

from mambavl.configs.errors import UsageError
from mambavl.fuse.drawn import Interval, axes_of, combinations, drawn
from mambavl.fuse.grid import expand

STREAMS = {"video": {"store": "v.zarr", "level": "frame"}}
LR = "train.lr = { low = 1e-4, high = 1e-2, log = true }\n"


def tried(text):
    return combinations(tomllib.loads(text), "mine.toml")


def refused(text):
    with pytest.raises(UsageError) as error:
        tried(text)
    return str(error.value)


def test_what_is_drawn_is_tried_with_every_combination_and_with_every_point_written_down():
    found = tried(
        f"[grid]\ntrain.seed = [0, 1]\n[random]\npoints = 3\n{LR}"
        '[[points]]\nhead.name = "mlp"\n[[points]]\nfusion.share = "none"\ntrain.epochs = 9\n'
    )
    assert len(found) == 2 * 3 * 2
    rates = {values["train.lr"] for values in found}
    assert len(rates) == 3
    written = [{"head.name": "mlp"}, {"fusion.share": "none", "train.epochs": 9}]
    for seed, rate, point in itertools.product([0, 1], rates, written):
        assert {"train.seed": seed, "train.lr": rate, **point} in found


def test_more_points_or_keys_leave_what_was_drawn_before():
    few, many = (tried(f"[random]\npoints = {number}\n{LR}") for number in (3, 8))
    assert many[:3] == few
    more = tried(f"[random]\npoints = 3\nfusion.d_state = {{ low = 2, high = 64 }}\n{LR}")
    assert [values["train.lr"] for values in more] == [values["train.lr"] for values in few]
    assert tried(f"[random]\npoints = 3\nseed = 1\n{LR}") != few


def test_draws_of_two_keys_have_nothing_to_do_with_each_other():
    found = tried(f"[random]\npoints = 400\n{LR}train.lr_ssm = {{ low = 1e-4, high = 1e-2, log = true }}\n")
    pairs = np.log([[values["train.lr"], values["train.lr_ssm"]] for values in found])
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.15  # three deviations of 400 independent pairs


def draws(interval, number=4000):
    return [drawn(interval, [7, draw]) for draw in range(number)]


def test_a_logarithmic_draw_is_as_likely_in_every_decade():
    found = draws(Interval(1e-4, 1e-1, True))
    decades = Counter(math.floor(math.log10(value)) for value in found)
    assert set(decades) <= {-4, -3, -2, -1}
    assert all(abs(decades[decade] - 4000 / 3) < 120 for decade in (-4, -3, -2))  # four deviations


def test_a_plain_draw_is_as_likely_everywhere_and_has_four_digits():
    found = draws(Interval(0.1, 0.5, False))
    assert np.histogram(found, 4, (0.1, 0.5))[0].min() > 1000 - 120
    assert min(found) >= 0.1
    assert max(found) <= 0.5
    assert all(value == float(f"{value:.4g}") for value in found)


@pytest.mark.parametrize("log", [False, True])
def test_whole_numbers_come_up_to_both_ends(log):
    counts = Counter(draws(Interval(1, 4, log)))
    edges = [0.5, 1.5, 2.5, 3.5, 4.5]
    for number in (1, 2, 3, 4):
        low, high = edges[number - 1], edges[number]
        share = math.log(high / low) / math.log(9) if log else 0.25
        assert abs(counts[number] - 4000 * share) < 4 * math.sqrt(4000 * share)
    assert all(isinstance(number, int) for number in counts)


def test_one_of_a_list_is_as_likely_as_another():
    counts = Counter(draws(["a", "b", "c"]))
    assert all(abs(counts[one] - 4000 / 3) < 120 for one in "abc")


def test_points_of_all_sections_become_recipes():
    data = tomllib.loads(
        f"[random]\npoints = 2\n{LR}[[points]]\nhead.name = 'mlp'\n[[points]]\ntrain.epochs = 9"
    )
    points = expand({"streams": STREAMS, **data}, "mine.toml")
    assert [point.recipe.head.name for point in points] == ["mlp", "mambavl", "mlp", "mambavl"]
    assert [point.recipe.train.epochs for point in points] == [30, 9, 30, 9]
    for point in points:
        assert point.recipe.train.lr == point.values["train.lr"]
        assert not point.recipe.is_sweep
        assert f"train.lr={point.values['train.lr']}" in point.name


def test_a_key_that_never_acts_is_refused_with_the_section_that_has_it():
    data = {"streams": STREAMS, "random": {"points": 2, "train.momentum": {"low": 0.1, "high": 0.9}}}
    with pytest.raises(UsageError, match=r"mine.toml \[random\]: train.momentum acts only with"):
        expand(data, "mine.toml")


def test_each_key_is_known_by_its_section():
    data = tomllib.loads(f"[grid]\ntrain.seed = [0]\n[random]\npoints = 1\n{LR}[[points]]\nhead.name = 'mlp'")
    found = axes_of(data)
    assert found["train.seed"] == "[grid]"
    assert found["train.lr"] == "[random]"
    assert found["head.name"] == "[[points]]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "mine.toml: has no [grid]; name keys"),
        (f"[random]\n{LR}", "[random]: points must be a whole number from 1 to 100,000, got None"),
        (f"[random]\npoints = 0\n{LR}", "points must be a whole number from 1 to 100,000, got 0"),
        (f"[random]\npoints = true\n{LR}", "got True"),
        (f"[random]\npoints = 1\nseed = -1\n{LR}", "seed must be a whole number from 0"),
        ("[random]\npoints = 1\n", "[random]: name what is drawn"),
        (
            "[random]\npoints = 1\ntrain.lr = 1e-3",
            "[random]: train.lr must be a list of values, such as 'train.lr=[0.001]', got 0.001",
        ),
        ("[random]\npoints = 1\ntrain.lr = [1e-3, 1e-3]", "train.lr = 0.001 is listed twice"),
        ("[random]\npoints = 1\ntrain.lr = { low = 2, high = 1 }", "train.lr needs numbers low < high"),
        ("[random]\npoints = 1\ntrain.lr = { low = 'a', high = 1 }", "train.lr needs numbers low < high"),
        ("[random]\npoints = 1\ntrain.lr = { low = 1 }", "train.lr needs numbers low < high"),
        ("[random]\npoints = 1\ntrain.lr = { low = 0, high = inf }", "train.lr needs numbers low < high"),
        (
            "[random]\npoints = 1\ntrain.lr = { low = 0, high = 1, log = true }",
            "low must be above 0; it is 0",
        ),
        ("[random]\npoints = 1\ntrain.lr = { low = 1, high = 2, lgo = true }", "did you mean `log`"),
        ("[random]\npoints = 1\nrank_by = ['verb']", "rank_by is for the sweep as a whole"),
        ("[[points]]\nrank_by = 'verb'", "rank_by is for the sweep as a whole"),
        ("points = 3", "[[points]]: write each point as a section of its own"),
        ("[[points]]\ntrain.lr = 1\n[[points]]\ntrain.lr = 1", "is listed twice"),
        ("[grid]\ntrain.lr = [1]\n[[points]]\ntrain.lr = 1", "train.lr is in [grid] and in [[points]]"),
        (f"[grid]\ntrain.lr = [1]\n[random]\npoints = 1\n{LR}", "train.lr is in [grid] and in [random]"),
    ],
)
def test_what_is_not_right_is_refused_by_name(text, said):
    assert said in refused(text)
