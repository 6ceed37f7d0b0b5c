"""README and docs say what benchmarks/results holds, and a number that differs is seen."""

import json
import subprocess
import sys

import pytest

from helpers.benchmarks import BENCHMARKS, load
from helpers.paths import ROOT


@pytest.fixture(scope="module")
def readme():
    return load("readme")


def test_the_pages_say_what_was_measured():
    command = [sys.executable, BENCHMARKS / "readme.py", "--check"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("One takes 27 ms, 1,234 rows.\n\n| a | 2.5 | – |\n| b | 2.5 | 7 |\n")
    return path


def test_numbers_are_found_by_the_words_around_them_and_written(readme, page):
    n = readme.n
    texts = [
        ("page.md", f"One takes {n(30.4)} ms, {n(12345, ',')} rows."),
        ("page.md", f"| a | {n(2.5, '.1f')} | {n(-8)} |"),
        ("page.md", f"| b | {n(2.54, '.1f')} | {n(None)} |"),
    ]
    before = page.read_text()
    faults = readme.renew(texts, page.parent, write=False)
    assert page.read_text() == before
    assert faults == [
        "page.md: says\n    One takes 27 ms, 1,234 rows.\n"
        "  and measured was\n    One takes 30 ms, 12,345 rows.",
        "page.md: says\n    | a | 2.5 | – |\n  and measured was\n    | a | 2.5 | -8 |",
        "page.md: says\n    | b | 2.5 | 7 |\n  and measured was\n    | b | 2.5 | – |",
    ]
    assert readme.renew(texts, page.parent, write=True) == []
    assert page.read_text() == "One takes 30 ms, 12,345 rows.\n\n| a | 2.5 | -8 |\n| b | 2.5 | – |\n"
    assert readme.renew(texts, page.parent, write=False) == []


def test_what_a_page_says_in_other_words_or_twice_is_refused(readme, page):
    n = readme.n
    page.write_text(page.read_text() * 2)
    texts = [("page.md", f"Two take {n(27)} ms"), ("page.md", f"One takes {n(27)} ms")]
    for write in (True, False):
        assert readme.renew(texts, page.parent, write=write) == [
            "page.md: says 0 times, with whatever numbers: Two take 27 ms",
            "page.md: says 2 times, with whatever numbers: One takes 27 ms",
        ]


def test_a_changed_result_is_seen_in_every_page(readme, tmp_path, monkeypatch):
    """Each page that numbers are put into, with one result file at a time left as it is."""
    results = {path.stem: path for path in (BENCHMARKS / "results").glob("*.json")}

    def grown(value):
        if isinstance(value, dict):
            return {key: grown(one) for key, one in value.items()}
        if isinstance(value, list):
            return [grown(one) for one in value]
        return value * 3 if isinstance(value, int | float) and not isinstance(value, bool) else value

    read = {name: json.loads(path.read_bytes()) for name, path in results.items()}
    for name in read:
        changed = read | {name: grown(read[name])}
        if list(readme.texts(changed)) == list(readme.texts(read)):
            assert name in ("kernels", "scaling")  # no number is said of one; the other is in docs/scale.md
            continue
        assert readme.renew(list(readme.texts(changed)), ROOT, write=False), name
