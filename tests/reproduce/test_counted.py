"""`mambavl reproduce table4`: counts beside print, and what it refuses."""

import json

import pytest

from helpers.cli import call
from mambavl.configs.errors import DataError
from mambavl.reproduce import counted

PRINTED = {"orvit": (405, 148), "transformer_12x12": (413.5, 242), "mambavl": (413, 157)}  # the paper's page


def test_table_4_is_counted_and_compared(tmp_path, capsys):
    assert call("reproduce", "table4", "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "parameters exact, multiply-adds within 0.2 % of print" in said
    found = json.loads((tmp_path / "out/results.json").read_bytes())
    assert {
        name: (row["printed_gflops"], row["printed_million_parameters"]) for name, row in found.items()
    } == PRINTED
    for name, (gflops, millions) in PRINTED.items():
        assert abs(found[name]["gmacs"] - gflops) <= 0.002 * gflops
        assert round(found[name]["parameters"] / 1e6) == millions
    text = (tmp_path / "out/results.md").read_text()
    assert "| mambavl | 413 | 412.47 | -0.13 % | 157 M | 156,966,541 |" in text


def test_a_count_that_is_off_is_a_fault():
    sound = {
        "orvit": {
            "printed_gflops": 405,
            "gmacs": 405.2,
            "printed_million_parameters": 148,
            "parameters": 147_678_349,
        }
    }
    assert counted.faults_of(sound) == []
    for key, value, said in (
        ("gmacs", 405 * 1.0021, "more than 0.2 % away"),
        ("gmacs", 405 * 0.9979, "more than 0.2 % away"),
        ("parameters", 147_678_350, "147,678,350 parameters, the released model has 147,678,349"),
        ("printed_million_parameters", 147, "are not the printed 147 M"),
    ):
        [fault] = counted.faults_of({"orvit": sound["orvit"] | {key: value}})
        assert said in fault


def test_nothing_is_written_unless_a_folder_is_named_and_a_fault_ends_with_1(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(counted.RELEASED_PARAMETERS, "orvit", 1)
    with pytest.raises(DataError, match="orvit: 147,678,349 parameters, the released model has 1"):
        counted.run()
    assert list(tmp_path.iterdir()) == []
