"""Triton's kernels, compiled ahead of time for GPUs that need not be here."""

import json
import os
import subprocess
import sys

import pytest

from helpers.paths import ROOT
from mambavl.fuse.scan import triton

KERNELS = ROOT / "benchmarks" / "kernels.py"


@pytest.mark.skipif(bool(triton.unavailable()), reason=str(triton.unavailable()))
def test_every_kernel_compiles_for_three_generations_of_gpus_and_spills_nothing():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, KERNELS], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "spilled_bytes": 0,
        "most_registers": pytest.approx(255, abs=200),
        "compiled": 24,
    }
