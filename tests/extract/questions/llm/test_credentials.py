"""The key: where it goes, and that it stands nowhere else."""

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.dataset import make_dataset
from helpers.llm_runs import CANARY, ROWS, all_texts_of, run, settings
from helpers.llm_server import Running
from helpers.toyclasses import annotations
from mambavl.configs.errors import DataError, MambaVLError, UsageError
from mambavl.extract.questions.llm.credentials import Credentials
from mambavl.extract.questions.llm.generate import generate_with_llm, write_outcome
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.extract.questions.llm.replies import Rejected, judge_description
from mambavl.extract.questions.llm.requests import Reply
from mambavl.extract.questions.llm.server import Endpoint

pytest.importorskip("openai", reason="needs the `llm` extra: pip install -e '.[llm]'")


@pytest.fixture
def canary(monkeypatch):
    monkeypatch.setenv("KITCHEN_KEY", CANARY)
    return CANARY


@pytest.mark.parametrize(
    "model",
    [
        "good",
        "always:500",
        "always:401",
        "always:400",
        "always:cut",
        "always:hang",
        "once:429",
        "once:malformed",
        "always:echo",
    ],
)
def test_the_key_is_sent_and_stands_nowhere_else(server, tmp_path, canary, model, capfd):
    """The server says the Authorization header back in each of its errors, and as `echo` in its replies."""
    knobs = settings(server, model, key_variable="KITCHEN_KEY", retries=1)
    shown = ""
    try:
        found = generate_with_llm(annotations(), ROWS, knobs, tmp_path / "cache")
        shown += repr(found) + str(found.written.failures)
        write_outcome(tmp_path / "q.jsonl", found.written, knobs)
    except MambaVLError as error:
        shown += all_texts_of(error)
    sent = {line["authorization"] for line in server.lines()}
    assert sent == {hashlib.sha256(f"Bearer {CANARY}".encode()).hexdigest()}
    assert CANARY not in shown + repr(knobs)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".journal" for path in files)
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
    said = capfd.readouterr()
    assert CANARY not in said.out + said.err


BOTH = """
import json, sys
from mambavl.cli import app
for words in json.loads(sys.argv[1]):
    sys.argv = ["mambavl", *words]
    code = app.run()
    for stream in (sys.stdout, sys.stderr):
        print(f"--- ended with {code}", file=stream, flush=True)
"""


@pytest.fixture(scope="module")
def logged(process, tmp_path_factory):
    """By model: how the command ended, what it and its client's log said, its folder, what was sent. One
    process runs both, since its start takes longer than its work.
    """
    process.forget()
    folder = tmp_path_factory.mktemp("logged")
    data = make_dataset(folder / "data", videos=2)
    commands = []
    for model in ("good", "always:401"):
        (folder / model).mkdir()
        words = ["questions", "generate", "--annotations", data / "annotations"]
        words += ["--out", folder / model / "q.jsonl", "--backend", "llm", "--model", model]
        words += ["--base-url", process.url, "--set", "key_variable=OPENAI_API_KEY"]
        words += ["--set", "backoff=0.001", "--set", "retries=1"]
        commands.append([str(word) for word in words])
    environment = {**os.environ, "OPENAI_API_KEY": CANARY, "OPENAI_LOG": "debug", "PYTHONFAULTHANDLER": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BOTH, json.dumps(commands)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    outs, errors = (re.split(r"--- ended with (\d)\n", text) for text in (done.stdout, done.stderr))
    sent = {line["authorization"] for line in process.lines()}
    return {
        model: (int(outs[2 * n + 1]), outs[2 * n], errors[2 * n], folder / model, sent)
        for n, model in enumerate(("good", "always:401"))
    }


@pytest.mark.parametrize(("model", "code"), [("good", 0), ("always:401", 1)])
def test_the_command_tells_nobody_the_key_even_when_the_client_logs_all(logged, model, code):
    ended, out, log, folder, sent = logged[model]
    assert ended == code, log
    assert "HTTP Request: POST" in log  # the client logs indeed
    assert CANARY not in out + log
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
    assert (folder / "q.jsonl").exists() is (code == 0)
    assert sent == {hashlib.sha256(f"Bearer {CANARY}".encode()).hexdigest()}


@pytest.mark.parametrize("model", ["always:400-pieces", "always:401-pieces", "always:500-pieces"])
def test_no_piece_of_the_key_is_told_in_either_case(server, tmp_path, canary, model):
    knobs = settings(server, model, key_variable="KITCHEN_KEY", retries=0)
    shown = ""
    try:
        shown += str(generate_with_llm(annotations(), ROWS, knobs, tmp_path / "cache").written.failures)
    except MambaVLError as error:
        shown += all_texts_of(error)
    assert "HTTP" in shown
    shown += "".join(path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*.journal"))
    pieces = {canary[start : start + 8] for start in range(len(canary) - 7)}
    assert not [piece for piece in pieces if piece in shown.lower()]


def test_a_short_key_is_cut_out_as_it_is_only(monkeypatch):
    """A stand-in for a key that local servers are sent, such as EMPTY, may be a word of replies too."""
    monkeypatch.setenv("KITCHEN_KEY", "EMPTY")
    knobs = LLMSettings(model="m", base_url="http://127.0.0.1:9/v1", key_variable="KITCHEN_KEY")
    assert Credentials(knobs).redact("EMPTY the empty bowl") == "[key] the empty bowl"


def test_a_server_cannot_write_to_the_terminal(server, tmp_path):
    shown = list(run(server, tmp_path, "always:400-escape").written.failures.values())
    assert all("red" in text and text.isprintable() for text in shown)
    reply = Reply("\x1b]0;title\x07 \ud800", "stop", refusal="I \x1b[31mwill not")
    for given in (
        reply,
        dataclasses.replace(reply, refusal=None),
        dataclasses.replace(reply, finish_reason="\x1b"),
    ):
        with pytest.raises(Rejected) as rejected:
            judge_description(given)
        assert str(rejected.value).isprintable()


def test_openais_key_goes_to_no_other_server_unless_it_is_named(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    bare = LLMSettings(model="always:401", base_url=server.url)
    with pytest.raises(
        DataError,
        match=r"a call without a key; to send it the key of OPENAI_API_KEY, add --set key_variable=",
    ):
        generate_with_llm(annotations(), ROWS, bare, tmp_path)
    nothing = hashlib.sha256(b"Bearer none").hexdigest()
    assert {line["authorization"] for line in server.lines()} == {nothing}
    assert Endpoint(LLMSettings(model="m")).client.api_key == CANARY
    assert (
        Endpoint(LLMSettings(model="m", base_url=server.url, key_variable="OPENAI_API_KEY")).client.api_key
        == CANARY
    )
    with pytest.raises(DataError, match="the server refuses the key of the variable OPENAI_API_KEY"):
        generate_with_llm(
            annotations(),
            ROWS,
            LLMSettings(model="always:401", base_url=server.url, key_variable="OPENAI_API_KEY"),
            tmp_path,
        )


def test_keys_that_cannot_be_are_refused_without_being_said(server, monkeypatch):
    for value in (f"{CANARY}\nX-Evil: 1", f"{CANARY} b", f"{CANARY}é"):
        monkeypatch.setenv("KITCHEN_KEY", value)
        with pytest.raises(UsageError, match="KITCHEN_KEY holds characters that no key has") as refused:
            Endpoint(settings(server, key_variable="KITCHEN_KEY"))
        assert CANARY not in all_texts_of(refused.value)
    monkeypatch.setenv("KITCHEN_KEY", CANARY)
    with pytest.raises(UsageError, match=r"unencrypted to example\.org") as refused:
        Endpoint(settings(Running("http://example.org/v1", Path()), key_variable="KITCHEN_KEY"))
    assert CANARY not in all_texts_of(refused.value)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UsageError, match="variable OPENAI_API_KEY holds no key"):
        Endpoint(LLMSettings(model="m"))
