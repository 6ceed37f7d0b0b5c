"""The data set of the extraction tests: videos that show their own frame numbers, and an encoder that reads
them; and a Ray of two nodes in one machine.
"""

from pathlib import Path

import pytest

from helpers.dataset import barcode_record, make_dataset
from mambavl.extract import ray_engine
from mambavl.extract.encoders import registry

NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty rows of four videos in the EPIC layout; tests that change it take a copy."""
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def barcode(monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder `barcode`, whose tokens are the numbers of the frames."""
    monkeypatch.setitem(registry.ENCODERS, "barcode", barcode_record())


@pytest.fixture(scope="module")
def cluster():
    """A head with one core, where the command is, and this module is its driver."""
    ray = pytest.importorskip("ray", reason="needs the package of the `ray` extra")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        found = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        patch.setenv("RAY_ADDRESS", found.address)
        ray_engine._connect()
        yield found
        ray.shutdown()
        found.shutdown()


@pytest.fixture
def add_node(cluster):
    return lambda: cluster.add_node(**NODE)


@pytest.fixture
def node(cluster, add_node):
    """The second node, a new one where a test has killed it."""
    found = next((node for node in cluster.list_all_nodes() if node is not cluster.head_node), None)
    found = found or add_node()
    cluster.wait_for_nodes()
    return found
