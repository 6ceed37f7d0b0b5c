"""Programs of benchmarks/, as modules."""

import importlib
import os
from types import ModuleType

import pytest

from helpers.paths import ROOT

BENCHMARKS = ROOT / "benchmarks"


def load(name: str) -> ModuleType:
    """One of them by name; while it loads, it finds those beside it that it imports, as when it runs. What it
    sets in the environment for itself is taken back.
    """
    before = dict(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        try:
            return importlib.import_module(name)
        finally:
            os.environ.clear()
            os.environ.update(before)
