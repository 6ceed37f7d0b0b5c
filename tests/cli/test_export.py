"""`mambavl export`, from the shell."""

from helpers.cli import call


def test_a_run_is_written_with_its_licence_and_a_wrong_call_says_what_to_type(mixable, tmp_path, capsys):
    assert call("export", mixable / "mlp", "--out", tmp_path / "out", "--licence", "mit") == 0
    assert f"to {tmp_path / 'out'}, licence mit" in capsys.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert call("export", mixable / "mlp", "--out", tmp_path / "new") == 2
    assert "say with --licence" in capsys.readouterr().err
