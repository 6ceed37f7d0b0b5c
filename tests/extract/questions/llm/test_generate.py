"""The commands, from annotations to a question file."""

from helpers.cli import call
from helpers.dataset import make_dataset
from helpers.llm_runs import CANARY
from mambavl.extract.questions import read_questions


def test_the_commands_plan_generate_fail_and_resume(server, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    folder = make_dataset(tmp_path / "data", videos=2)
    out = tmp_path / "q.jsonl"
    where = ("--annotations", folder / "annotations", "--out", out, "--base-url", server.url)
    where += ("--set", "prices.input=2.5", "--set", "prices.output=10", "--set", "backoff=0.001")
    assert call("questions", "plan", *where, "--model", "good") == 0
    assert "4 for descriptions, 4 for questions" in capsys.readouterr().out
    generate = ("questions", "generate", *where, "--backend", "llm")
    assert call(*generate, "--model", "always:refused") == 1
    said = capsys.readouterr()
    assert said.out.count(": failed: description: 3 replies rejected") == 10
    assert "10 of 10 rows failed" in said.err
    assert not out.exists()
    assert call(*generate, "--model", "good", "--budget", "0.001") == 1
    assert "could exceed the budget of 0.001" in capsys.readouterr().out
    assert call(*generate, "--model", "good", "--budget", "5") == 0
    assert "wrote 10 question pairs (oracle protocol, llm backend, good)" in capsys.readouterr().out
    assert len(read_questions(out)) == 10
    assert CANARY not in (tmp_path / "q.jsonl.toml").read_text()
    assert (tmp_path / "q.jsonl.cache").is_dir()
    for words, message in (
        (("--backend", "llm"), "--backend llm needs --model"),
        (("--model", "good"), "the templates use no model"),
        (("--backend", "llm", "--model", "good", "--protocol", "none"), "makes no 'none' questions"),
        (("--backend", "llm", "--model", "good", "--set", "bugdet=2"), "did you mean `budget`"),
        (("--backend", "local", "--model", tmp_path), "holds no *.safetensors"),
        (
            ("--backend", "llm", "--model", "good", "--videos", tmp_path / "none", "--set", "frames=2"),
            "no such folder",
        ),
    ):
        template = (
            "questions",
            "generate",
            "--annotations",
            folder / "annotations",
            "--out",
            tmp_path / "x.jsonl",
        )
        assert call(
            *(template if "--backend" not in words else (*template, "--base-url", server.url)), *words
        ) == (1 if message == "no such folder" else 2)
        assert message in capsys.readouterr().err, message
