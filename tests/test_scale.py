"""docs/scale.md is what benchmarks/scale.py makes of the results, and its arithmetic is right."""

import json
import sys

import pytest

from helpers.benchmarks import load


@pytest.fixture(scope="module")
def scale():
    return load("scale")


RATES = {
    "reading": {"1080p": 2.0, "456x256": 40.0}, "encoding": 0.5, "texts": 10.0, "step": 1.5, "batch": 0.003,
    "cores": 2, "macs": 5e11,
}  # fmt: skip


def test_the_page_is_what_the_results_come_to(scale):
    results = {path.stem: json.loads(path.read_bytes()) for path in scale.RESULTS.glob("*.json")}
    assert scale.PAGE.read_text(encoding="utf-8") == scale.page(results)
    assert results["job"]["conditions"]["cores"] == results["step"]["conditions"]["threads"] == 2


def test_an_estimate_by_hand(scale):
    """72,000 rows: 36,000 s of reading 1080p, 144,000 s of encoding, both on two cores."""
    data = scale.DataSet("x", 72_000, "made up", texts=3_600, gpus=4)
    found = scale.Estimate.of(data, scale.Rates(**RATES))
    assert found.reading == {"1080p": 20.0, "456x256": 1.0}
    assert (found.encoding, found.texts) == (80.0, 0.2)
    assert found.frame == 72_000 * 24_576  # 16 x 768 float16
    assert found.grid == 16 * found.frame
    assert found.patch == 196 * found.frame
    assert found.text == pytest.approx(72_000 * 2 * 21.4 * 1_536)
    assert found.gpu == pytest.approx(0.2)  # 72,000 x 1e12 / 1e14 = 720 s
    assert found.wall == pytest.approx(0.05)
    assert found.readers["1080p"] == pytest.approx(400)
    assert found.epoch == pytest.approx(72_000 / 128 * 1.5 * 2 / 3_600)
    assert found.loading == pytest.approx(0.002)


def test_what_was_not_measured_says_so(scale):
    results = {path.stem: json.loads(path.read_bytes()) for path in scale.RESULTS.glob("*.json")}
    lines = [line for line in scale.page(results).splitlines() if "GPU" in line and line.startswith("|")]
    assert lines
    for line in lines:
        assert "assumed" in line or line.startswith("| GPUs |"), line


def test_what_was_measured_against_length_has_a_table_and_a_sentence(scale):
    kinds = ("mambavl", "transformer 6x4")
    points = [
        {
            "kind": kind,
            "x": x,
            "rows": 2,
            "milliseconds": 9.0 * x,
            "fastest": x * factor,
            "megabytes": 10.0 * factor,
        }
        for x in (16, 4096)
        for factor, kind in enumerate(kinds, 1)
    ]
    crossing = {"time, transformer 6x4": 40.6, "memory, transformer 6x4": None}
    found = {"conditions": {"width": 768, "threads": 2}, "length": points, "crossing": crossing}
    text = "\n".join(scale.against_length(found))
    assert "| 4,096 | 4,100 | 8,200 | 10 | 20 |" in text
    assert "in time than transformer 6x4, from 41 tokens on; in memory than transformer 6x4, at no" in text


def test_a_page_that_differs_is_refused(scale, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scale, "PAGE", tmp_path / "scale.md")
    (tmp_path / "scale.md").write_text("another\n")
    monkeypatch.setattr(sys, "argv", ["scale.py", "--check"])
    with pytest.raises(SystemExit, match="is not what the results come to"):
        scale.main()
    assert (tmp_path / "scale.md").read_text() == "another\n"
    monkeypatch.setattr(sys, "argv", ["scale.py"])
    scale.main()
    monkeypatch.setattr(sys, "argv", ["scale.py", "--check"])
    scale.main()


def test_without_questions_there_is_no_text(scale):
    found = scale.Estimate.of(scale.DataSet("x", 10, "made up"), scale.Rates(**RATES))
    assert (found.text, found.texts) == (None, None)
    assert scale._count(None) == "–"
    assert [scale._count(one) for one in (0.1234, 1.26, 12.6, 1_260)] == ["0.12", "1.3", "13", "1,300"]
