"""What holds the house together: the arrows between the rooms (configs <- cache <- {extract, fuse} <-
mambavl), one subject a module, a test for each, and packages that hold everything.
"""

import ast
import functools
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
MAY_IMPORT = {
    "configs": {"configs"},
    "cache": {"configs", "cache"},
    "extract": {"configs", "cache", "extract"},
    "fuse": {"configs", "cache", "fuse"},
    "mambavl": {"configs", "cache", "extract", "fuse", "mambavl"},
}
LINKED = [room for room in MAY_IMPORT if room != "mambavl"]
MAX_LINES = 350
LONGER = {  # module -> why it is one subject all the same
    "mambavl.demo.toypictures": "drawings, each a few lines, of every object of the toy kitchen",
    "mambavl.complexity.count": "one way of counting, for encoders, heads and the paper's Table 4",
}
TESTED_ELSEWHERE = {  # test file -> modules whose promises it holds; why they have no file of their own
    # what an encoder must pass is tried on encoders that break one promise each, through `check_encoder`
    "extract/encoders/test_conformance.py": (
        "extract.encoders.trials",
        "extract.encoders.text_trials",
        "extract.encoders.video_trials",
    ),
}
OTHER_TESTS = {  # test file -> why it belongs to no single module
    "test_anydata.py": "docs/anydata.md, run as it stands",
    "test_benchmarked.py": "benchmarks/readme.py: numbers of the pages, and results",
    "test_docs.py": "the pages for readers",
    "test_loading_benchmark.py": "benchmarks/loading.py, formats.py and workers.py",
    "test_harness.py": "benchmarks/harness.py, and the benchmarks that are run by it",
    "test_plots.py": "benchmarks/plots.py and docs/figures",
    "test_scale.py": "benchmarks/scale.py and docs/scale.md",
    "test_scaling.py": "benchmarks/scaling.py",
    "test_mamba_benchmark.py": "benchmarks/mamba.py",
    "test_training_benchmark.py": "benchmarks/training.py",
    "test_docs_run.py": "the pages' commands and snippets, run as they stand",
    "test_layout.py": "this file",
    "test_mutations.py": "mutations.py: faults that tests must notice",
    "cache/test_faults.py": "every fault of a disk, through journal, writer, reader and repair",
    "extract/test_black_box.py": "what a video shows later, changed in the file, through the real command",
    "extract/test_job_benchmark.py": "benchmarks/job.py, which reaches into the job",
    "extract/test_memory.py": "what a job takes of memory, in a process of its own",
    "extract/test_ray_command.py": "the command over a Ray cluster, from options to stores",
    "extract/test_real_command.py": "the program itself: killed, and with decoders that crash and hang",
    "extract/test_sharing.py": "the same command started several times at once",
    "cache/interchange/test_spoilt_features.py": "features that went wrong, through the whole import",
    "extract/lists/test_spoilt.py": "lists that went wrong, of every layout",
    "extract/encoders/test_numerics.py": "dtypes, batches and compiled graphs of all encoders",
    "fuse/report/test_report_benchmark.py": "benchmarks/report.py, which fills a page of its own",
    "fuse/test_kept.py": "what a finished run keeps, and who reads it",
    "fuse/test_own_targets.py": "targets that are not EK100's, from stores to a page",
    "fuse/test_planted.py": "what each head can learn of a signal in one stream, or in two together",
    "fuse/test_protocols.py": "heads, baselines and protocols through whole runs",
    "fuse/test_recipe_keys.py": "every key that trains, against a loop that is written out",
    "fuse/report/test_in_browser.py": "scripts, keys, widths, themes and printing of the report's page",
    "fuse/scan/test_backends.py": "every backend against the reference",
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


def files_of(room: str) -> list[Path]:
    """The modules of a room; what `mambavl/` links to belongs to the other rooms."""
    return sorted(
        path
        for path in (ROOT / room).rglob("*.py")
        if room != "mambavl" or path.relative_to(ROOT / room).parts[0] not in LINKED
    )


def module_of(path: Path) -> str:
    """cache/journal.py -> mambavl.cache.journal; a package is named by its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts if parts[0] == "mambavl" else ("mambavl", *parts))


MODULES = {module_of(path): path for room in MAY_IMPORT for path in files_of(room)}


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


@functools.cache
def imports(path: Path) -> set[str]:
    """What a file imports, anywhere in it, as full names: `from a import b` is `a.b`."""
    found = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported_modules(path: Path) -> set[str]:
    """The modules of this package among them."""
    found = {name if name in MODULES else name.rpartition(".")[0] for name in imports(path)}
    return found & MODULES.keys()


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "mambavl"


# --- imports


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_follow_the_arrows(room):
    """`import mambavl` itself, for the version, is free."""
    for path in files_of(room):
        rooms = {room_of(module) for module in imported_modules(path) if module != "mambavl"}
        assert rooms <= MAY_IMPORT[room], f"{path.relative_to(ROOT)} imports {rooms - MAY_IMPORT[room]}"


def test_a_room_is_imported_under_the_name_of_the_package():
    for path in [*MODULES.values(), *TESTS.rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        bare = {name for name in imports(path) if name.split(".")[0] in LINKED}
        assert not bare, f"{path.relative_to(ROOT)} imports {bare}; write mambavl.{min(bare)}"


def test_no_imports_go_in_a_circle():
    """Imports inside functions count as well: what needs them to avoid a circle stands in the wrong place."""
    graph = {module: imported_modules(path) - {module} for module, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_no_module_takes_a_private_name_of_another():
    for path in [*MODULES.values(), *TESTS.rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        names = {name for name in imports(path) if name.startswith(("mambavl.", "helpers."))}
        private = {name for name in names if is_private(name.rpartition(".")[2])}
        assert not private, f"{path.relative_to(ROOT)} imports {private}"


def test_no_module_reaches_into_another():
    """`module._name` of an imported module; tests may, to put something else in its place."""
    for path in MODULES.values():
        ours = {name.rpartition(".")[2] for name in imports(path) if name in MODULES}
        for node in nodes_of(path):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                reaches = node.value.id in ours and is_private(node.attr)
                assert not reaches, f"{path.relative_to(ROOT)}:{node.lineno} {node.value.id}.{node.attr}"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_importing_a_room_pulls_in_no_optional_package():
    optional = ("mamba_ssm", "decord", "matplotlib", "timm", "efficientnet_lite_pytorch", "ray", "optuna")
    code = (
        "import sys, mambavl.cli.app, mambavl.fuse.sweep, mambavl.extract.job\n"
        f"print([m for m in {optional} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- modules and their tests


def test_a_module_is_one_page_of_one_subject():
    lines = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    longer = {module for module, number in lines.items() if number > MAX_LINES}
    assert longer == LONGER.keys(), {module: lines.get(module) for module in longer ^ LONGER.keys()}


def mirrored(module: str) -> str:
    """The test file of a module: mambavl.cache.journal -> cache/test_journal.py; a package's bears its name:
    mambavl.fuse.scan -> fuse/scan/test_scan.py.
    """
    parts = module.split(".")[1:]
    if MODULES[module].name == "__init__.py":
        parts.append(parts[-1])
    return "/".join([*parts[:-1], f"test_{parts[-1]}.py"])


def is_a_face(path: Path) -> bool:
    """Whether a package's own module only says what is in it."""
    body = ast.parse(path.read_text()).body
    return path.name == "__init__.py" and not any(
        isinstance(node, ast.FunctionDef | ast.ClassDef) for node in body
    )


def test_each_module_has_its_test_file():
    there = {path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")}
    with_code = {module for module, path in MODULES.items() if not is_a_face(path)}
    without = {module for module in with_code if mirrored(module) not in there}
    elsewhere = {f"mambavl.{module}" for modules in TESTED_ELSEWHERE.values() for module in modules}
    assert without == elsewhere, sorted(without ^ elsewhere)
    of_modules = {mirrored(module) for module in with_code}
    assert there - of_modules == OTHER_TESTS.keys(), sorted((there - of_modules) ^ OTHER_TESTS.keys())


@pytest.mark.parametrize("test", TESTED_ELSEWHERE)
def test_a_test_file_reaches_the_modules_that_it_holds(test):
    reached, ahead = set(), imported_modules(TESTS / test)
    while ahead:
        reached |= ahead
        ahead = {name for module in ahead for name in imported_modules(MODULES[module])} - reached
    assert {f"mambavl.{module}" for module in TESTED_ELSEWHERE[test]} <= reached


def test_no_test_module_imports_a_test_module():
    """What two share is in tests/helpers."""
    for path in TESTS.rglob("*.py"):
        names = {part for name in imports(path) for part in name.split(".")}
        assert not {name for name in names if name.startswith("test_") or name == "conftest"}, path


def test_real_annotations_and_clips_are_reached_through_their_fixture():
    """A test that asks for the fixture `shared` is marked, and skipped where there is no such folder."""
    for path in TESTS.rglob("*.py"):
        if path != TESTS / "conftest.py":
            assert "helpers.paths.SHARED" not in imports(path), path


# --- packages


def test_every_package_folder_is_listed_and_linked():
    """setuptools takes what is listed and nothing else: a forgotten folder is missing from every wheel."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {module for module, path in MODULES.items() if path.name == "__init__.py"}
    assert set(settings["packages"]) == packages
    assert "package-dir" not in settings
    folders = {module_of(path.parent / "__init__.py") for path in MODULES.values()}
    assert folders <= packages, f"without __init__.py: {folders - packages}"


@pytest.mark.parametrize("room", LINKED)
def test_what_is_imported_as_mambavl_is_found_there(room):
    """`mambavl.cache` is `mambavl/cache`, a link to the folder at the top: editors and readers find it
    without any setting.
    """
    assert os.readlink(ROOT / "mambavl" / room) == f"../{room}"


def contents() -> set[str]:
    """What a wheel and a source package must hold: modules, recipes, templates, prompts, C sources, ..."""
    kinds = ("*.py", "*.toml", "*.json", "*.j2", "*.css", "*.js", "*.txt", "*.c", "*.h")
    files = {path for room in MAY_IMPORT for kind in kinds for path in (ROOT / room).rglob(kind)}
    rooms = {path.relative_to(ROOT) for path in files}
    return {(path if path.parts[0] == "mambavl" else "mambavl" / path).as_posix() for path in rooms}


def test_wheel_and_source_package_hold_every_file(tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="building needs setuptools 77 or newer")
    clutter = shutil.ignore_patterns(
        ".git", ".*_cache", "__pycache__", "*.egg-info", "build", "dist", "*.so", "tests", "benchmarks"
    )
    shutil.copytree(ROOT, tmp_path / "copy", symlinks=True, ignore=clutter)
    build = (
        "from setuptools import build_meta\n"
        f"build_meta.build_sdist({str(tmp_path)!r})\nbuild_meta.build_wheel({str(tmp_path)!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", build],
        cwd=tmp_path / "copy",
        env={
            **os.environ,
            "CC": "false",
        },  # the native parts are optional, and compiled at every installation
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        assert contents() <= set(wheel.namelist()), contents() - set(wheel.namelist())
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as source:
        held = {name.partition("/")[2] for name in source.getnames()}
    assert contents() <= held, contents() - held


# --- the store's one door to the file system


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
    for path in [*files_of("cache"), ROOT / "fuse" / "checkpoint.py"]:
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
