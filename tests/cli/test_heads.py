"""`mambavl heads convert`, from a file to a file."""

import pytest
import torch

from helpers.cli import call


@pytest.mark.usefixtures("forked_readers")
def test_what_is_no_head_is_said_in_a_line_with_exit_code_2(tmp_path, capsys):
    torch.save({"model_state": {"orvit.weight": torch.ones(2)}}, tmp_path / "encoder.pyth")
    assert call("heads", "convert", tmp_path / "encoder.pyth", "--out", tmp_path / "head.safetensors") == 2
    said = capsys.readouterr().err
    assert "encoder.pyth: these are not the weights of a released MambaVL head: no matrix A_log" in said
    assert not (tmp_path / "head.safetensors").exists()
