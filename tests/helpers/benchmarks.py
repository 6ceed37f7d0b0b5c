"""Programs of benchmarks/, as modules."""

import importlib
from types import ModuleType

import pytest

from helpers.paths import ROOT

BENCHMARKS = ROOT / "benchmarks"


def load(name: str) -> ModuleType:
    """One of them by name; while it loads, it finds those beside it that it imports, as when it runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module(name)
