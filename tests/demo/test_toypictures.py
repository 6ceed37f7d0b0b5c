"""The drawings: decided by the seed, and each action different from every other in a single frame."""

from random import Random

import numpy as np
import pytest

from mambavl.demo import toykitchen, toypictures


def test_the_seed_decides_every_pixel():
    film = toykitchen.plan(24, 0)[0]
    first, again, other = (
        np.stack([np.asarray(f) for f in toypictures.draw_film(film, seed)]) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("noun", toykitchen.NOUNS, ids=lambda noun: noun.key)
def test_actions_on_one_object_differ_in_a_single_frame(noun):
    """At one moment, in one kitchen, only the verb differs; a reversed pair is compared off its middle."""
    kitchen = toypictures.Kitchen("P01", "P01_101", 0)
    frames = []
    for verb in toykitchen.VERBS:
        stage = toypictures.Stage(kitchen, noun, None, Random(0))
        frames.append(np.asarray(kitchen.shot(stage.picture(verb, 0.9), 1.0), dtype=np.float32))
    for i, first in enumerate(frames):
        for second in frames[:i]:
            assert np.abs(first - second).mean() > 2
