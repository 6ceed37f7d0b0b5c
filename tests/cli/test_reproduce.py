"""`mambavl reproduce`: what the options come to."""

from pathlib import Path

from helpers.cli import call
from mambavl.reproduce import history


def test_options_reach_the_work(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(history, "run", lambda *words, **settings: calls.append((words, settings)))
    assert call("reproduce", "history", "--annotations", tmp_path) == 0
    own = ("--encoder", "hf:mine", "--weights", tmp_path / "w", "--weights-state", "random", "--workers", 2)
    assert call("reproduce", "history", "--annotations", tmp_path, "--out", tmp_path / "o", *own) == 0
    text = {"encoder": "hf:mine", "weights": str(tmp_path / "w"), "weights_state": "random"}
    assert calls == [
        ((tmp_path, Path("history")), {"text": {"encoder": "minilm"}, "workers": None}),
        ((tmp_path, tmp_path / "o"), {"text": text, "workers": 2}),
    ]


def test_a_folder_without_lists_is_named(tmp_path, capsys):
    assert call("reproduce", "history", "--annotations", tmp_path, "--out", tmp_path / "o") != 0
    assert str(tmp_path) in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
