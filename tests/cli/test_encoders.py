"""The list of encoders, and the check of one's own."""

from rich.console import Console

from helpers.cli import call
from mambavl.cli import encoders
from mambavl.extract.encoders.registry import ENCODERS, FAMILIES


def test_every_encoder_and_every_family_is_listed(capsys):
    assert call("encoders", "list") == 0
    listed = capsys.readouterr().out
    for name in (*ENCODERS, *(family.name for family in FAMILIES)):
        assert name in listed


def test_an_address_that_does_not_fit_is_folded_and_not_cut(monkeypatch, capsys):
    monkeypatch.setattr(encoders, "out", Console(width=70))
    assert call("encoders", "list") == 0
    listed = capsys.readouterr().out
    assert "…" not in listed


def test_a_check_says_ok_and_an_encoder_that_is_not_there_is_refused(capsys):
    assert call("encoders", "check", "timm:test_resnet", "--weights", "random", "--frames", 2) == 0
    said = capsys.readouterr().out
    assert said.endswith("timm:test_resnet: can be extracted with\n")
    assert "ok     " in said
    assert call("encoders", "check", "minilmm") == 2
    assert "did you mean `minilm`" in capsys.readouterr().err


def test_an_encoder_that_is_shown_is_described(capsys):
    assert call("encoders", "show", "minilm") == 0
    assert "384" in capsys.readouterr().out
    assert call("encoders", "show", "timm:test_resnet") == 2
    assert "`mambavl encoders check timm:test_resnet` builds it" in capsys.readouterr().err
