"""`python llm_kills.py URL LOG FOLDER KILLS SEED`: runs that ask a server, killed at random moments and
resumed.

All children are forks of this process, which has imported everything and runs no thread. The last line is
JSON. What is checked after each run: replies that had to be accepted were sent at most once per request and
once more per call that a kill cut off, which are never more than `concurrency` a kill; what the books say is
never below what the server was paid; and the questions are those of a run that nobody killed.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import openai  # noqa: F401, before the forks

from helpers.llm_patience import quick
from helpers.llm_runs import ROWS, TWICE, settings
from helpers.llm_server import BAD, SOUND, Running, sound
from helpers.toyclasses import annotations
from mambavl.extract.questions.file import read_questions, write_questions
from mambavl.extract.questions.llm.generate import generate_with_llm
from mambavl.extract.questions.llm.ledger import Ledger
from mambavl.extract.questions.llm.replies import judge_questions
from mambavl.extract.questions.llm.requests import Reply

CONCURRENCY = 3
KNOBS = {"concurrency": CONCURRENCY, "attempts": 30, "retries": 30}


def child(server: Running, folder: Path, model: str) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            found = generate_with_llm(
                annotations(), TWICE, settings(server, model, **KNOBS), folder / "cache"
            )
            write_questions(folder / "q.jsonl", found.written.questions)
            code = int(bool(found.written.failures))
        finally:
            os._exit(code)
    return pid


def warm_up() -> None:
    """Have the forms of all classes in memory: else every child spends most of its time on them."""
    for row in ROWS:
        text = json.dumps(sound({"verb": row.verb, "noun": row.noun}))
        judge_questions(Reply(text, "stop"), annotations(), row)


def trial(
    server: Running, folder: Path, model: str, dice: random.Random, seconds: float
) -> tuple[int, list[str]]:
    """(kills, what went wrong)"""
    folder.mkdir(parents=True)
    before, killed = len(server.lines()), 0
    for _ in range(dice.randint(1, 4)):
        pid = child(server, folder, model)
        time.sleep(dice.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    code = os.waitstatus_to_exitcode(os.waitpid(child(server, folder, model), 0)[1])
    lines = server.lines()[before:]
    accepted = [line["key"] for line in lines if line["what"] in SOUND]
    requests = 2 * len(ROWS)
    unknown = CONCURRENCY * killed
    wrong = [f"{model}: ended with {code}"] * bool(code)
    if len(accepted) > requests + unknown or len(set(accepted)) != requests:
        wrong.append(
            f"{model}: {len(accepted)} accepted replies of {len(set(accepted))} requests after {killed} kills"
        )
    ledger = Ledger(folder / "cache")
    kept = sum(len(replies) for replies in ledger.replies.values())
    paid = sum(line["what"] in SOUND or line["what"] in BAD for line in lines)
    if not kept <= paid <= kept + unknown:
        wrong.append(f"{model}: {paid} replies were sent, {kept} are in the books, after {killed} kills")
    cheapest = min(
        settings(server).cost(r.tokens_in, r.tokens_out)
        for replies in ledger.replies.values()
        for r in replies
    )
    if ledger.spent < paid * cheapest:
        wrong.append(f"{model}: the books say {ledger.spent}, at least {paid * cheapest} was paid")
    if not code and len(read_questions(folder / "q.jsonl")) != len(TWICE):
        wrong.append(f"{model}: some rows have no question")
    return killed, wrong


def main(url: str, log: Path, folder: Path, kills: int, seed: int) -> dict:
    server = Running(url, log)
    warm_up()
    (folder / "whole").mkdir(parents=True)
    since = time.monotonic()
    os.waitpid(child(server, folder / "whole", "good:whole@0.01"), 0)
    seconds = time.monotonic() - since
    dice, killed, trials, wrong = random.Random(seed), 0, 0, []
    while killed < kills and trials < 10 * kills:
        model = f"good:{trials}@0.01" if trials % 2 else f"faulty:{seed}-{trials}:0.3@0.01"
        more, faults = trial(server, folder / str(trials), model, dice, seconds)
        killed, trials, wrong = killed + more, trials + 1, wrong + faults
    return {"killed": killed, "trials": trials, "seconds": seconds, "wrong": wrong}


if __name__ == "__main__":
    url, log, folder, kills, seed = sys.argv[1:]
    with quick():
        found = main(url, Path(log), Path(folder), int(kills), int(seed))
    print(json.dumps(found))
