"""The reader: its guesses are those of the rule, worked out by hand."""

import numpy as np
import pytest

from helpers.toyaudit import DATA


def test_the_reader_guesses_what_its_rule_says(toy_audit):
    """Of the rows take is `retrieve`, peel and cut are `split`, turn-on is `access`; their nouns tell nothing
    of them.
    """
    clean = toy_audit[0]["files"][0]
    test = [s for s in DATA.segments if s.split == "validation"]
    train = [s for s in DATA.segments if s.split == "train"]
    best_split = max(("cut", "peel"), key=lambda verb: sum(s.verb == verb for s in train))
    by_hand = np.mean([s.verb in ("take", "turn-on", best_split) for s in test])
    assert clean["reader"]["top1"]["verb"]["percent"] == pytest.approx(100 * by_hand)
    assert clean["reader"]["mean_compatible"]["verb"] <= 3
    assert clean["hints"]["verb_question"]["distinct"] == 3
    leaking = toy_audit[0]["files"][1]
    assert leaking["reader"]["own_class_is_named"]["verb"] == 1  # so the named class is the guess
    assert leaking["reader"]["top1"]["verb"]["percent"] == 100
