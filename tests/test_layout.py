"""The arrows between the rooms: configs <- cache <- {extract, fuse} <- mambavl; and the package list names every folder."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "configs": {"configs"},
    "cache": {"configs", "cache"},
    "extract": {"configs", "cache", "extract"},
    "fuse": {"configs", "cache", "fuse"},
    "mambavl": {"configs", "cache", "extract", "fuse", "mambavl"},
}
RAW_WRITES = {
    "write_bytes",
    "write_text",
    "unlink",
    "rmdir",
    "mkdir",
    "rename",
    "replace",
    "rmtree",
    "truncate",
    "fsync",
    "touch",
}


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported_rooms(path: Path) -> set[str]:
    """Rooms of this package that a module imports; `import mambavl` itself, for the version, is free."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module] if node.module != "mambavl" else [f"mambavl.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] in MAY_IMPORT and parts[0] != "mambavl":
                raise AssertionError(f"{path}: imports {name}; write mambavl.{name}")
            if parts[0] == "mambavl" and len(parts) > 1:
                rooms.add(parts[1] if parts[1] in MAY_IMPORT else "mambavl")
    return rooms


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_follow_the_arrows(room):
    for path in modules(room):
        beyond = imported_rooms(path) - MAY_IMPORT[room]
        assert not beyond, f"{path.relative_to(ROOT)} imports {beyond}"


def test_every_package_folder_is_listed_and_mapped():
    """setuptools takes what is listed and nothing else: a forgotten folder is missing from every wheel."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for room in MAY_IMPORT for path in (ROOT / room).rglob("__init__.py")}
    names = {"mambavl" if folder == Path("mambavl") else "mambavl." + ".".join(folder.parts): str(folder) for folder in folders}
    assert set(settings["packages"]) == names.keys()
    assert settings["package-dir"] == names


def test_the_store_touches_the_file_system_through_fsops_alone():
    for path in [*modules("cache"), ROOT / "fuse" / "checkpoint.py"]:
        if path.name == "fsops.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in RAW_WRITES:
                owner = node.func.value
                through_fsops = isinstance(owner, ast.Name) and owner.id == "fsops"
                is_text = node.func.attr == "replace"  # str.replace; os.replace would come with an import of os
                assert through_fsops or is_text, f"{path.name}:{node.lineno} calls {node.func.attr} itself"


def test_importing_a_room_pulls_in_no_optional_package():
    import subprocess
    import sys

    code = (
        "import sys, mambavl.cli, mambavl.fuse.train, mambavl.extract.job\n"
        "print([m for m in ('mamba_ssm', 'decord', 'matplotlib', 'timm', 'efficientnet_lite_pytorch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
