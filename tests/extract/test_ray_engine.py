"""A real Ray of two nodes in one machine: they share the work, a node that is lost costs nothing, and stores
are those of one process. What a worker does that a test waits for, it says by files.
"""

import dataclasses
import fcntl
import os
import signal
import sys
import time

import pytest

from helpers.cli import call
from helpers.jobs import tree
from mambavl.configs.errors import DataError, Interrupted, SystemFault, UsageError
from mambavl.configs.progress import never, unseen
from mambavl.extract import ray_engine
from mambavl.extract.annotations import read_annotations
from mambavl.extract.options import VideoExtraction
from mambavl.extract.ray_engine import ray_crew
from mambavl.extract.video_job import extract_video

pytestmark = pytest.mark.timeout(180)
SETTINGS = {"encoder": "timm:test_resnet", "weights": "random", "sampling": {"frames": 2}}
SETTINGS |= {"rows_per_group": 2, "image_size": 32, "readers": 1}
WORDS = ("--encoder", "timm:test_resnet", "--weights", "random", "--set", "sampling.frames=2")
WORDS += ("--set", "rows_per_group=2", "--set", "image_size=32", "--set", "readers=1")
SHARE = {"num_gpus": 0, "num_cpus": 1}


@pytest.fixture(scope="module")
def serial(dataset, tmp_path_factory):
    """The files of the store that one process makes."""
    out = tmp_path_factory.mktemp("serial") / "v.zarr"
    extract_video(read_annotations(dataset / "annotations"), dataset / "videos", out, options())
    return tree(out)


def options():
    return VideoExtraction.model_validate(SETTINGS)


def run(work, workers=None, progress=unseen, should_stop=never):
    with ray_crew(work, workers) as found:
        return found.wait(progress, should_stop)


def extraction(dataset, out, has_locks, prepare):
    """What a worker does: `prepare` takes the worker and gives one that goes to work.

    has_locks: whether the file system's locks reach this worker.
    """
    annotations, settings = read_annotations(dataset / "annotations"), options()

    def work(worker):
        if not has_locks:
            fcntl.flock = lambda descriptor, operation: None
        worker = prepare(worker)
        hooks = {"progress": worker.progress, "should_stop": worker.should_stop}
        return extract_video(annotations, dataset / "videos", out, settings, **hooks)

    return work


def test_the_command_makes_the_same_store(cluster, dataset, serial, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    where = ("--annotations", dataset / "annotations", "--videos", os.path.relpath(dataset / "videos"))
    assert call("extract", "video", *where, *WORDS, "--out", "v.zarr", "--engine", "ray") == 0
    assert tree(tmp_path / "v.zarr") == serial
    assert "wrote 20 rows" in capfd.readouterr().out


@pytest.mark.soak
def test_without_locks_no_row_group_is_made_twice(cluster, node, dataset, serial, tmp_path):
    def prepare(worker):
        def meet(done, total, note=""):
            """Begin when the other worker, too, has seen that nothing is done."""
            (tmp_path / str(worker.number)).touch()
            while not all((tmp_path / str(number)).exists() for number in range(2)):
                time.sleep(0.02)

        return dataclasses.replace(worker, progress=meet)

    out = tmp_path / "v.zarr"
    rows = [result.rows for result in run(extraction(dataset, out, False, prepare))]
    assert len(rows) == 2
    assert sum(rows) == 20
    assert tree(out) == serial


@pytest.mark.soak
def test_what_a_worker_raises_ends_the_command_and_so_does_a_stop(cluster, tmp_path):
    def fails(worker):
        raise SystemFault("the disk is away")

    with pytest.raises(SystemFault, match="the disk is away"):
        run(fails)

    def waits(worker):
        (tmp_path / "begun").touch()
        while not worker.should_stop():
            time.sleep(0.02)
        raise Interrupted("stopped after 3 rows")

    with pytest.raises(Interrupted, match="stopped after 3 rows"):
        run(waits, should_stop=(tmp_path / "begun").exists)


@pytest.mark.soak
def test_workers_that_are_lost_again_and_again_end_the_command(cluster):
    with pytest.raises(DataError, match="3 workers in a row were lost before a row was done"):
        run(lambda worker: os.kill(os.getpid(), signal.SIGKILL))


@pytest.mark.parametrize("has_locks", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_a_node_that_is_killed_leaves_its_row_groups_to_the_others(
    cluster, node, dataset, serial, tmp_path, capfd, has_locks
):
    doomed, marker = node.node_id, tmp_path / "holds"

    def prepare(worker):
        import ray

        def hang(done, total, note=""):
            if done:
                marker.touch()
                signal.pause()

        if ray.get_runtime_context().get_node_id() == doomed:
            return dataclasses.replace(worker, progress=hang)
        while not marker.exists():
            time.sleep(0.02)
        return worker

    def kill_when_it_holds(done, total, note=""):
        if marker.exists() and node in cluster.list_all_nodes():
            cluster.remove_node(node, allow_graceful=False)

    out = tmp_path / "v.zarr"
    run(extraction(dataset, out, has_locks, prepare), progress=kill_when_it_holds)
    assert node not in cluster.list_all_nodes()
    assert tree(out) == serial
    assert "was lost" in capfd.readouterr().err


@pytest.mark.soak
def test_a_node_that_joins_gets_a_worker(cluster, add_node, dataset, serial, tmp_path):
    """The first worker waits with its work until that one has begun, too."""
    for other in set(cluster.list_all_nodes()) - {cluster.head_node}:
        cluster.remove_node(other)

    def prepare(worker):
        def meet(done, total, note=""):
            worker.progress(done, total, note)
            (tmp_path / str(worker.number)).touch()
            while not (tmp_path / "1").exists():
                time.sleep(0.02)

        return dataclasses.replace(worker, progress=meet)

    def join(done, total, note=""):
        if len(cluster.list_all_nodes()) == 1:
            add_node()

    out = tmp_path / "v.zarr"
    rows = [result.rows for result in run(extraction(dataset, out, True, prepare), progress=join)]
    assert len(rows) == 2
    assert sum(rows) == 20
    assert tree(out) == serial


@pytest.mark.soak
def test_failed_rows_are_opened_again_though_the_first_worker_is_lost(cluster, tmp_path):
    """The first knows itself by its number."""

    def work(worker):
        if not (tmp_path / "lost").exists():
            (tmp_path / "lost").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return worker.number

    with ray_crew(work, 2, first_alone=True) as found:
        assert 0 in found.wait(unseen, never)


def lose(found, number, total):
    """As Ray says it of a worker that another takes the place of."""
    found._was_lost(number, total, "why")
    found.started += 1


def test_losses_are_in_vain_where_nothing_came_to_the_disk_between_them(monkeypatch):
    monkeypatch.setattr(ray_engine.RayCrew, "end", lambda self: [])
    found = ray_engine.RayCrew(None, {}.get, None, started=4)
    for number in range(4):  # a rack of nodes at once
        found._was_lost(number, 20, "why")
    found.started = 8
    lose(found, 4, 20)
    lose(found, 8, 12)  # others have written eight rows
    lose(found, 9, 12)
    with pytest.raises(DataError, match="3 workers in a row were lost"):
        lose(found, 10, 12)


def test_the_first_is_alone_until_it_has_said_how_much_there_is_to_do():
    found = ray_engine.RayCrew(None, dict.fromkeys(range(4), SHARE).get, None, first_alone=True)
    assert found._place({}) == SHARE
    found.started, found.tasks = 1, {"task": 0}
    assert found._place({0: (0, 0, "")}) is None
    assert found._place({0: (0, 20, "")}) == SHARE
    found.tasks = {}
    assert not found._is_first_alone({0: (0, 0, "")})  # it has ended
    found.is_all_done = True
    assert found._place({0: (0, 20, "")}) is None


def test_what_the_first_had_to_do_is_the_next_ones_where_it_was_lost_before_it_said_a_number():
    """It may not have opened the failed rows: who comes next does, alone as well."""
    found = ray_engine.RayCrew(None, dict.fromkeys(range(4), SHARE).get, None, first_alone=True, started=1)
    lose(found, 0, 0)
    found.tasks = {"task": 1}
    assert found.first == 1
    assert found._place({0: (0, 0, ""), 1: (0, 0, "")}) is None
    assert found._is_needed(1, {})
    assert found._place({1: (0, 20, "")}) == SHARE
    lose(found, 1, 20)  # they are open
    assert found.first == 1
    assert not found._is_needed(2, {})


def test_rows_are_counted_of_all_that_were_to_be_done():
    """Each worker counts what others have done off its own total, and here it counts."""
    said = []
    found = ray_engine.RayCrew(None, {}.get, None, tasks={"a": 0, "b": 1})
    for heard in (
        {},
        {0: (0, 80, "")},
        {0: (30, 66, "slowest: encode"), 1: (14, 50, "")},
        {0: (44, 44, ""), 1: (40, 36, "2 failed")},  # four rows were made again for a lost worker
    ):
        found._show(heard, lambda *told: said.append(told))
    assert said == [(0, 80, ""), (44, 80, "slowest: encode"), (80, 80, "2 failed")]


def test_why_a_worker_could_not_begin_is_said_and_on_which_host():
    said = pytest.importorskip("ray.exceptions", reason="needs the package of the `ray` extra")
    text = "ray::_serve() (pid=7)\n  File x, line 1\nModuleNotFoundError: No module named 'mambavl'\n"
    error = said.RayTaskError("_serve", text, ImportError("x"), proctitle="ray::_serve", pid=7, ip="10.0.0.7")
    assert ray_engine._why(error) == "10.0.0.7: ModuleNotFoundError: No module named 'mambavl'"
    assert ray_engine._why(said.NodeDiedError("the node is gone\nlogs\n")) == "the node is gone"


def test_an_error_that_the_command_could_not_unpack_goes_in_words():
    class Strange(Exception):
        def __init__(self, *, code):
            super().__init__(f"the model says {code}")

    ours, plain = DataError("no room"), ValueError("no shape")
    assert ray_engine._portable(ours) is ours
    assert ray_engine._portable(plain) is plain
    said = ray_engine._portable(Strange(code=5))
    assert (type(said), str(said)) == (RuntimeError, "Strange: the model says 5")


def test_without_ray_and_without_a_cluster_the_message_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"needs the package ray .*pip install -e '\.\[ray\]'"):
        run(lambda worker: None)
