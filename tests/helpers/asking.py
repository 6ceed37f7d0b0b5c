"""Rows, prices and settings of the tests that ask a language model."""

import dataclasses
from pathlib import Path

from helpers.llm_server import Running
from helpers.toyclasses import annotations, segment
from mambavl.extract.questions.llm.generate import Outcome, generate_with_llm
from mambavl.extract.questions.llm.options import LLMSettings, Prices

PRICES = Prices(input=2.5, output=10.0)


NARRATIONS = [
    ("cut potato", "cut", "potato"),
    ("take plate", "take", "plate"),
    ("wash knife", "brush", "knife"),
    ("turn tap on", "turn-on", "tap"),
    ("peel potato", "peel", "potato"),
    ("put down plate", "put", "plate"),
]


ROWS = [segment(*words, name=f"P01_01_{number}") for number, words in enumerate(NARRATIONS)]


TWICE = [
    *ROWS,
    *(dataclasses.replace(row, narration_id=f"P01_02_{number}") for number, row in enumerate(ROWS)),
]


def options(server: Running, model: str = "good", **more) -> LLMSettings:
    patience = 0.4 if "hang" in model else 20.0  # a busy machine may be slow to answer
    quick = {
        "concurrency": 3,
        "timeout": patience,
        "backoff": 0.002,
        "max_wait": 0.02,
        "key_variable": "",
        "prices": PRICES,
    }
    return LLMSettings(model=model, base_url=server.url, **(quick | more))


def asked(server: Running, cache: Path, model: str = "good", rows=ROWS, **more) -> Outcome:
    return generate_with_llm(annotations(), rows, options(server, model, **more), cache)
