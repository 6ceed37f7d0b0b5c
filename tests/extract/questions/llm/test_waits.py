"""Waits: they grow, are spread, and honour the server up to a limit."""

import asyncio
import random

from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.extract.questions.llm.waits import Pace, backoff, wait


def test_waits_grow_are_spread_and_honour_the_server_up_to_a_limit():
    knobs, dice = LLMSettings(model="m", backoff=1.0, max_wait=20.0), random.Random(0)
    waits = [[backoff(knobs, call, None, dice) for _ in range(200)] for call in range(8)]
    for call, drawn in enumerate(waits):
        most = min(20.0, 2.0**call)
        assert most / 2 <= min(drawn) < max(drawn) <= most
        assert max(drawn) - min(drawn) > most / 4
    asked_for = [backoff(knobs, 0, 7.0, dice) for _ in range(200)]
    assert 7.0 <= min(asked_for) < max(asked_for) <= 8.0
    assert max(backoff(knobs, 0, float("inf"), dice) for _ in range(200)) <= 21.0


def test_a_pace_spreads_an_amount_evenly():
    pace = Pace(1_000, lambda: 0.0)
    assert [pace.delay(500) for _ in range(4)] == [0.0, 30.0, 60.0, 90.0]
    assert Pace(None, lambda: 0.0).delay(1e9) == 0.0


def test_a_long_wait_is_slept_in_pieces_that_a_signal_ends():
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    asyncio.run(wait(1.2, lambda: False, sleep))
    assert sum(slept) == 1.2
    assert max(slept) <= 0.5
    slept.clear()
    asyncio.run(wait(100.0, lambda: len(slept) == 3, sleep))
    assert sum(slept) == 1.5
