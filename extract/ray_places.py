"""Where on a Ray cluster the workers of a command have a place, and what each of them is given there."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mambavl.configs.errors import UsageError

Nodes = Sequence[Mapping[str, float]]  # what each node has: CPU, GPU, ...


@dataclass(frozen=True)
class Places:
    """One on each GPU of the cluster, or on each node where none had a GPU when the command began: features
    of a CPU and of a GPU are not the same to the bit. Nodes may come and go.
    """

    look: Callable[[], Nodes]  # the nodes as they are now
    workers: int | None  # that somebody asked for; None: one for each place
    on_gpus: bool

    def another(self, at_work: int) -> dict[str, float] | None:
        """What Ray should give another worker beside so many: num_gpus, and its part of a node's cores
        num_cpus. None where there are enough, or no node has a place.
        """
        nodes = _able(self.look(), self.on_gpus)
        places = sum(int(node["GPU"]) for node in nodes) if self.on_gpus else len(nodes)
        wanted = self.workers or places
        if not nodes or at_work >= wanted:
            return None
        if self.on_gpus:
            return {"num_gpus": 1, "num_cpus": max(1, min(node["CPU"] // node["GPU"] for node in nodes))}
        on_each = math.ceil(wanted / len(nodes))
        return {"num_gpus": 0, "num_cpus": max(1, min(node["CPU"] for node in nodes) // on_each)}


def places(look: Callable[[], Nodes], workers: int | None) -> Places:
    """The places of a cluster as it is when a command begins. Raises UsageError where it has none."""
    nodes = _able(look(), on_gpus=False)
    if not nodes:
        raise UsageError("--engine ray: no node of the cluster has a core to compute with (`ray status`)")
    return Places(look, workers, any(_able(nodes, on_gpus=True)))


def _able(nodes: Nodes, on_gpus: bool) -> Nodes:
    """Those that can compute."""
    return [node for node in nodes if node.get("CPU") and (node.get("GPU") or not on_gpus)]
