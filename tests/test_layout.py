"""The arrows between the rooms: configs <- cache <- {extract, fuse} <- mambavl; and the package list names
every folder.
"""

import ast
import os
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
    "rmtree",
    "truncate",
    "fsync",
    "touch",
    "chmod",
}
HARMLESS = {
    "getpid",
    "fork",
    "kill",
    "waitpid",
    "waitstatus_to_exitcode",
    "WIFSIGNALED",
    "_exit",
    "pipe",
    "read",
    "close",
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
            names = (
                [node.module]
                if node.module != "mambavl"
                else [f"mambavl.{alias.name}" for alias in node.names]
            )
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


def test_every_package_folder_is_listed_and_linked():
    """setuptools takes what is listed and nothing else: a forgotten folder is missing from every wheel."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        path.parent.relative_to(ROOT) for room in MAY_IMPORT for path in (ROOT / room).rglob("__init__.py")
    }
    names = {
        ".".join(folder.parts if folder.parts[0] == "mambavl" else ("mambavl", *folder.parts))
        for folder in folders
    }
    assert set(settings["packages"]) == names
    assert "package-dir" not in settings


@pytest.mark.parametrize("room", [room for room in MAY_IMPORT if room != "mambavl"])
def test_what_is_imported_as_mambavl_is_found_there(room):
    """`mambavl.cache` is `mambavl/cache`, a link to the folder at the top: editors and readers find it
    without any setting.
    """
    assert os.readlink(ROOT / "mambavl" / room) == f"../{room}"


def writes(path: Path) -> list[str]:
    """Calls of a module that create, change or delete files other than through fsops."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = (
            node.func.value.id
            if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)
            else ""
        )
        modes = [
            a.value for a in (*node.args, *(k.value for k in node.keywords)) if isinstance(a, ast.Constant)
        ]
        opens_to_write = name == "open" and any(
            isinstance(m, str) and set(m) & set("wax+") and len(m) < 4 for m in modes
        )
        touches_os = owner in ("os", "shutil") and name not in HARMLESS
        if touches_os or (owner != "fsops" and (name in RAW_WRITES or opens_to_write)):
            found.append(f"{path.name}:{node.lineno} {owner}.{name}")
    return found


def test_the_store_touches_the_file_system_through_fsops_alone():
    for path in [*modules("cache"), ROOT / "fuse" / "checkpoint.py"]:
        assert path.name == "fsops.py" or writes(path) == []


def test_a_write_of_any_kind_would_be_seen(tmp_path):
    calls = [
        "os.replace(a, b)",
        "os.makedirs(a)",
        "p.chmod(1)",
        "open(p, 'w')",
        "p.open('wb')",
        "shutil.rmtree(p)",
        "p.write_text('')",
    ]
    for call in calls:
        (tmp_path / "x.py").write_text(call)
        assert writes(tmp_path / "x.py"), call


def test_importing_a_room_pulls_in_no_optional_package():
    import subprocess
    import sys

    code = (
        "import sys, mambavl.cli.app, mambavl.fuse.train, mambavl.extract.job\n"
        "print([m for m in ('mamba_ssm', 'decord', 'matplotlib', 'timm', 'efficientnet_lite_pytorch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
