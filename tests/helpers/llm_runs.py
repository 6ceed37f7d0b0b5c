"""Rows, prices and settings of the tests that have a language model write questions."""

import dataclasses
import traceback
from pathlib import Path

from helpers.llm_server import Running
from helpers.toyclasses import annotations, segment
from mambavl.extract.questions.llm.generate import Outcome, generate_with_llm
from mambavl.extract.questions.llm.options import LLMSettings, Prices

PRICES = Prices(input=2.5, output=10.0)
CANARY = "sk-canary-0123456789abcdefghij"  # a key that must stand nowhere

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


def settings(server: Running, model: str = "good", **more) -> LLMSettings:
    """Settings for the scripted server. The timeout is never met: `hang` ends a call by itself."""
    quick = {
        "concurrency": 3,
        "backoff": 0.002,
        "max_wait": 0.02,
        "batch_poll": 0.01,
        "key_variable": "",
        "prices": PRICES,
    }
    return LLMSettings(model=model, base_url=server.url, **(quick | more))


def run(server: Running, cache: Path, model: str = "good", rows=ROWS, **more) -> Outcome:
    """A whole run against the scripted server."""
    return generate_with_llm(annotations(), rows, settings(server, model, **more), cache)


def all_texts_of(error: BaseException | None) -> str:
    """Whatever an error and its causes can be made to show."""
    text = ""
    while error is not None:
        text += f"{error} {error!r} {vars(error)} {''.join(traceback.format_exception(error))}"
        error = error.__cause__ or error.__context__
    return text
