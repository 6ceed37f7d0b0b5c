"""`mambavl reproduce`: what the options come to."""

from pathlib import Path

from helpers.cli import call
from mambavl.reproduce import history, tables
from mambavl.reproduce.rows import table
from mambavl.reproduce.tables import Asked


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


def test_options_of_the_tables_reach_the_work(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(tables, "run", lambda *words, **more: calls.append((*words, more)))
    monkeypatch.setattr(tables, "plan", lambda asked: calls.append(asked))
    assert call("reproduce", "table1", "--stores", tmp_path) == 0
    own = ("--stores", "a", "--stores", "b", "--inputs", "released", "--out", "o", "--seeds", 6)
    more = ("--row", "MambaVL", "--set", "train.lr=1", "--allow-random", "orvit", "--workers", 2)
    assert call("reproduce", "table3", *own, *more) == 0
    assert call("reproduce", "table2", "--plan") == 0
    first, second, third = calls
    assert first == (Asked(table(1, "matched"), [tmp_path], [], [], 3, []), Path("table1"), {"workers": None})
    asked = Asked(table(3, "released"), [Path("a"), Path("b")], ["MambaVL"], ["train.lr=1"], 6, ["orvit"])
    assert second == (asked, Path("o"), {"workers": 2})
    assert third == Asked(table(2, "matched"), [], [], [], 3, [])
    assert call("reproduce", "table1", "--inputs", "mached") == 2
