"""Settings of every test run. Threads are held at one: a second busy core makes OpenMP spin."""

import os

from helpers.paths import SHARED

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import itertools
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, settings

from helpers import forks
from helpers.browser import why_no_browser
from mambavl.configs import untrusted
from mambavl.extract.annotations import Annotations, read_annotations

if not torch.cuda.is_available():
    # Triton's kernels then run on the CPU; read when they are first imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

# hypothesis by itself fails what takes long on a busy machine
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

COUNT = "count: "
EK100 = SHARED / "data" / "ek100"
RAY_NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


def asks_for(item: pytest.Item, fixture: str) -> bool:
    """Whether a test asks for a fixture, itself or through another; a parameter of that name is none."""
    parameters = getattr(item, "callspec", None)
    is_parameter = parameters is not None and fixture in parameters.params
    return fixture in getattr(item, "fixturenames", ()) and not is_parameter


def missing(item: pytest.Item, config: pytest.Config) -> str:
    """What a test needs and does not find here; empty where it can run."""
    if item.get_closest_marker("shared") and not EK100.is_dir():
        return f"needs EK100's annotations and real clips in {SHARED}, next to the checkout"
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        return "needs a CUDA GPU"
    if item.get_closest_marker("browser") and (reason := why_no_browser()):
        return reason
    if item.get_closest_marker("soak") and "soak" not in config.getoption("markexpr"):
        return "a long test; run with `pytest -m soak`"
    return ""


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test that asks for `shared`, itself or through a fixture, carries the marker. What cannot run is
    skipped before any fixture is set up: a module's fixture would fail where its file is missing.
    """
    for item in items:
        if asks_for(item, "shared"):
            item.add_marker("shared")
        if reason := missing(item, config):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def count(record_property) -> Callable[[str, int], None]:
    """Say how much was tried: `count("crash states", 1234)`. The run ends with the sums of all tests."""
    return lambda what, number: record_property(f"{COUNT}{what}", number)


def pytest_terminal_summary(terminalreporter) -> None:
    sums = Counter()
    for report in itertools.chain(*terminalreporter.stats.values()):
        if getattr(report, "when", None) == "call":
            for name, number in report.user_properties:
                if name.startswith(COUNT):
                    sums[name.removeprefix(COUNT)] += number
    if sums:
        terminalreporter.section("faults tried")
        for what, number in sums.items():
            terminalreporter.line(f"{number:>9,} {what}")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real annotations, clips and recorded outputs next to the checkout. A test that asks for
    it is skipped where there is none; `-m shared` runs those tests alone.
    """
    return SHARED


@pytest.fixture(scope="session")
def ek100(shared: Path) -> Annotations:
    """All 76,885 rows of training and validation."""
    return read_annotations(EK100)


@pytest.fixture(scope="session")
def ek100_validation(shared: Path) -> Annotations:
    """The 9,668 rows of validation."""
    return read_annotations(EK100, ("validation",))


@pytest.fixture(scope="session")
def stores(tmp_path_factory) -> Path:
    """A folder with finished stores of the same rows: video.zarr and text.zarr."""
    from helpers.tiny import ROWS, make_dense_store, make_text_store

    folder = tmp_path_factory.mktemp("stores")
    make_dense_store(folder / "video.zarr", ROWS)
    make_text_store(folder / "text.zarr", ROWS)
    return folder


@pytest.fixture
def forked_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child that reads a stranger's file (configs.untrusted) is a fork: as apart and as limited, but it
    need not import torch first.
    """

    def start(command: list[str], *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[2] == untrusted.__file__
        return forks.run(lambda: untrusted.main(*command[3:]), env)

    found = SimpleNamespace(run=start, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(untrusted, "subprocess", found)


@pytest.fixture(scope="session")
def road(tmp_path_factory) -> Path:
    """A folder with a toy data set, questions, stores v.zarr and t.zarr, mine.toml and its run."""
    from helpers.road import make_road

    return make_road(tmp_path_factory.mktemp("road"))


@pytest.fixture(scope="session")
def mixable(tmp_path_factory) -> Path:
    """Runs whose scores can be mixed, see `make_mixable`; not to be changed."""
    from helpers.mixing import make_mixable

    return make_mixable(tmp_path_factory.mktemp("mixable"))


@pytest.fixture
def spoilable(mixable, tmp_path) -> Path:
    """A copy of them to spoil; its runs name the stores of the first."""
    shutil.copytree(mixable, tmp_path / "copy", ignore=shutil.ignore_patterns("*.zarr"))
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def cluster():
    """A Ray in one machine: a head with one core, where the command is, and this module is its driver."""
    ray = pytest.importorskip("ray", reason="needs the package of the `ray` extra")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        found = Cluster(initialize_head=True, head_node_args={**RAY_NODE, "include_dashboard": False})
        patch.setenv("RAY_ADDRESS", found.address)
        from mambavl.extract import ray_engine

        ray_engine._connect()
        yield found
        ray.shutdown()
        found.shutdown()


@pytest.fixture
def add_node(cluster):
    return lambda: cluster.add_node(**RAY_NODE)


@pytest.fixture
def node(cluster, add_node):
    """The second node, a new one where a test has killed it."""
    found = next((node for node in cluster.list_all_nodes() if node is not cluster.head_node), None)
    found = found or add_node()
    cluster.wait_for_nodes()
    return found
