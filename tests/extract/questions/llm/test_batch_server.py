"""A server's batch interface: pages of a list, servers without files, answers outside the protocol."""

import pytest

from helpers.llm_runs import ROWS, TWICE, run
from helpers.llm_server import Running
from mambavl.configs.errors import DataError
from mambavl.extract.questions.llm.generate import Outcome
from mambavl.extract.questions.llm.ledger import Ledger

pytest.importorskip("openai", reason="needs the `llm` extra: pip install -e '.[llm]'")


def batched(server: Running, cache, model: str = "good", rows=TWICE, **more) -> Outcome:
    return run(server, cache, model, rows, mode="batch", **more)


def test_the_batch_is_found_on_a_later_page_of_the_list(server, tmp_path):
    assert not batched(server, tmp_path / "other", "good:o").written.failures
    assert not batched(server, tmp_path / "more", "good:m", rows=ROWS[:2]).written.failures
    server.trouble("create-lost")
    assert not batched(server, tmp_path / "cache", rows=ROWS[:3]).written.failures
    assert len(server.lines("batch")) == 6


def test_a_server_without_files_is_told_so(server, tmp_path):
    server.trouble("file-404")
    with pytest.raises(DataError, match=r"takes no files, so no batches .*; leave mode at live"):
        batched(server, tmp_path)
    assert Ledger(tmp_path).spent == 0.0


@pytest.mark.parametrize(
    "troubles",
    [
        ["file-html"],
        ["file-badjson"],
        ["create-html"],
        ["create-latin1"],
        ["retrieve-html"],
        ["list-html", "create-lost"],
    ],
)
def test_what_is_no_answer_of_the_protocol_is_a_fault(server, tmp_path, troubles):
    server.trouble(*troubles)
    with pytest.raises(
        DataError,
        match=r"not of the expected form .*; (run the same command again|look at the provider's page)",
    ):
        batched(server, tmp_path, retries=1)
    server.trouble()
    assert not batched(server, tmp_path).written.failures
