"""A command's processes: their devices, their cores, and who opens failed rows again."""

import os
import time

import pytest

from mambavl.cache.fill import FillResult
from mambavl.cli.crew import Crew
from mambavl.configs.errors import UsageError
from mambavl.configs.progress import never, unseen
from mambavl.extract.options import VideoExtraction
from mambavl.extract.workers import Worker


def worker(number, is_successor=False):
    return Worker(number, is_successor, unseen, never)


@pytest.fixture
def four(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(18)))


def test_one_process_takes_the_settings_as_they_are():
    options = VideoExtraction(encoder="timm:test_vit")
    assert Crew(None, retry_failed=False).settings(worker(0), options) == options


def test_each_gets_a_gpu_and_its_part_of_the_cores(four):
    crew = Crew("all", retry_failed=False)
    found = [crew.settings(worker(number), VideoExtraction(encoder="x")) for number in range(4)]
    assert [options.device for options in found] == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    assert [options.readers for options in found] == [4] * 4
    assert Crew("3", False).settings(worker(1), VideoExtraction(encoder="x")).readers == 6
    assert crew.settings(worker(0), VideoExtraction(encoder="x", readers=1)).readers == 1
    with pytest.raises(UsageError, match="leave out device = cpu"):
        crew.settings(worker(0), VideoExtraction(encoder="x", device="cpu"))


def test_one_opens_failed_rows_again_and_not_after_a_crash():
    crew = Crew(None, retry_failed=True)
    assert crew.retries(worker(0))
    assert not crew.retries(worker(1))
    assert not crew.retries(worker(0, is_successor=True))
    assert not Crew(None, retry_failed=False).retries(worker(0))


def test_failed_rows_are_opened_again_before_the_other_processes_begin(four, tmp_path):
    def work(worker):
        (tmp_path / str(worker.number)).touch()
        if worker.number == 0:
            time.sleep(0.3)
            seen = len(os.listdir(tmp_path))
            worker.progress(0, 9)
            return [FillResult(rows=seen)]
        return [FillResult()]

    (found,) = Crew("3", retry_failed=True).run(work)
    assert found.rows == 1


def test_rays_workers_take_their_part_of_the_cores_and_the_gpu_that_ray_shows_them():
    crew = Crew(None, False, "ray", 3)
    eight = Worker(2, False, unseen, never, cores=8)
    options = crew.settings(eight, VideoExtraction(encoder="x"))
    assert (options.device, options.readers) == ("auto", 8)
    assert crew.settings(eight, VideoExtraction(encoder="x", readers=1)).readers == 1
    with pytest.raises(UsageError, match="--engine ray gives each process its device"):
        crew.settings(eight, VideoExtraction(encoder="x", device="cuda:1"))


def test_an_engine_is_not_given_what_the_other_has():
    with pytest.raises(UsageError, match="--engine ray takes --workers N"):
        Crew("all", False, "ray")
    with pytest.raises(UsageError, match="--workers goes with --engine ray"):
        Crew(None, False, "processes", 2)
