"""How many workers a cluster has places for, and what each is given."""

import pytest

from mambavl.configs.errors import UsageError
from mambavl.extract.ray_places import places

EIGHT, FOUR = {"CPU": 8.0}, {"CPU": 4.0}
GPUS = {"CPU": 16.0, "GPU": 2.0}
BROKER = {"memory": 1e9}  # a head that computes nothing


def all_of(found):
    """What workers are given, one after another, until there are enough."""
    given = []
    while (share := found.another(len(given))) and len(given) < 20:
        given.append((share["num_gpus"], share["num_cpus"]))
    return given


@pytest.mark.parametrize(
    ("nodes", "workers", "given"),
    [
        ([EIGHT, BROKER], None, [(0, 8)]),
        ([EIGHT, FOUR], None, [(0, 4)] * 2),
        ([EIGHT, FOUR], 3, [(0, 2)] * 3),
        ([FOUR], 6, [(0, 1)] * 6),
        ([EIGHT, GPUS], None, [(1, 8)] * 2),
        ([GPUS, {"CPU": 6.0, "GPU": 1.0}], None, [(1, 6)] * 3),
        ([GPUS], 1, [(1, 8)]),
        ([{"CPU": 2.0, "GPU": 4.0}], None, [(1, 1)] * 4),
    ],
)
def test_a_worker_for_each_gpu_or_for_each_node_or_as_many_as_asked_for(nodes, workers, given):
    assert all_of(places(lambda: nodes, workers)) == given


def test_a_node_that_joins_gets_a_worker_that_fits_it():
    """What the first was given, all of a larger node, would not."""
    nodes = [EIGHT]
    found = places(lambda: nodes, None)
    assert found.another(0) == {"num_gpus": 0, "num_cpus": 8}
    assert found.another(1) is None
    nodes.append(FOUR)
    assert found.another(1) == {"num_gpus": 0, "num_cpus": 4}


@pytest.mark.parametrize("workers", [None, 3])
def test_while_no_node_has_a_place_none_begins(workers):
    nodes = [EIGHT]
    found = places(lambda: nodes, workers)
    nodes.clear()
    assert found.another(0) is None
    nodes.append(FOUR)
    assert found.another(0)


def test_a_command_that_began_on_gpus_does_not_go_on_without():
    nodes = [EIGHT, GPUS]
    found = places(lambda: nodes, None)
    nodes.remove(GPUS)
    assert found.another(0) is None
    nodes = [EIGHT]
    found = places(lambda: nodes, None)
    nodes.append(GPUS)
    assert all_of(found) == [(0, 8)] * 2


def test_a_cluster_that_can_compute_nothing_is_refused():
    with pytest.raises(UsageError, match="no node of the cluster has a core"):
        places(lambda: [BROKER], 2)
