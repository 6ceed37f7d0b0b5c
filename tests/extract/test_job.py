"""The jobs of stage one: interrupted, killed, shared and resumed, the same bytes come out."""

import os
import shutil
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch

from helpers.dataset import barcode_record, broken_copy
from helpers.forks import fork
from helpers.jobs import OPTIONS, run, tree
from helpers.kill_loop import Extractions, kill_extractions
from mambavl.cache import fsops
from mambavl.cache.layout import records
from mambavl.cache.rows import STATUS
from mambavl.cache.spec import QuestionsProvenance, read_spec
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.demo import toykitchen
from mambavl.extract import clips, job
from mambavl.extract.annotations import read_annotations
from mambavl.extract.encoders import registry
from mambavl.extract.job import OtherRecipe
from mambavl.extract.timeline import VideoError

pytestmark = pytest.mark.usefixtures("barcode")


def test_interrupted_and_resumed_or_split_over_shards_gives_the_same_bytes(dataset, tmp_path):
    run(dataset, tmp_path / "whole.zarr")
    expected = tree(tmp_path / "whole.zarr")
    seen = [0]
    with pytest.raises(Interrupted, match=r"stopped after 8 rows; the same command resumes"):
        run(
            dataset,
            tmp_path / "resumed.zarr",
            progress=lambda done, total, note: seen.append(done),
            should_stop=lambda: seen[-1] >= 11,  # three rows of the second row group
        )
    assert run(dataset, tmp_path / "resumed.zarr").rows == 12
    assert tree(tmp_path / "resumed.zarr") == expected
    assert not run(dataset, tmp_path / "sharded.zarr", shard=(1, 2)).finalized
    assert run(dataset, tmp_path / "sharded.zarr", shard=(0, 2)).finalized
    assert tree(tmp_path / "sharded.zarr") == expected
    again = run(dataset, tmp_path / "sharded.zarr")
    assert (again.rows, again.finalized) == (0, True)


def test_videos_that_are_not_there_stop_the_job_before_any_work(dataset, tmp_path):
    copy = broken_copy(dataset, tmp_path)
    with pytest.raises(DataError, match=r"1 of 4 videos are not there \(P01_102\)"):
        run(copy, tmp_path / "v.zarr")
    assert not (tmp_path / "v.zarr").exists()


def test_features_that_are_to_be_like_others_are_made_alike_or_not_at_all(dataset, tmp_path):
    run(dataset, tmp_path / "v.zarr")
    like = read_spec(tmp_path / "v.zarr").recipe
    asked = replace(like, questions=QuestionsProvenance(protocol="generic"))  # those are never compared
    run(dataset, tmp_path / "again.zarr", like=asked)
    assert tree(tmp_path / "again.zarr") == tree(tmp_path / "v.zarr")
    for changes, fault in (
        ({"sampling": {"frames": 5}}, "sampling.frames: 4 -> 5"),
        ({"image_size": 80}, "pixels.image_size: 40 -> 80"),
        ({"batch_rows": 2}, "batch_rows: 3 -> 2"),
    ):
        with pytest.raises(OtherRecipe, match="The features would be others") as error:
            run(dataset, tmp_path / "no.zarr", like=like, **changes)
        assert error.value.faults == [fault]
        assert fault in str(error.value)
        assert not (tmp_path / "no.zarr").exists()


@pytest.mark.parametrize("spoil", [lambda x: x * torch.nan, lambda x: x * 1e6])
def test_features_that_are_not_finite_are_failures(dataset, tmp_path, monkeypatch, spoil):
    monkeypatch.setitem(registry.ENCODERS, "barcode", barcode_record(spoil))
    summary = run(dataset, tmp_path / "v.zarr")
    assert {STATUS[status] for _, status, _ in summary.failed} == {"nonfinite_features"}
    assert len(summary.failed) == 20


@pytest.mark.parametrize("after", [1, 2, 4])
def test_the_real_process_killed_between_row_groups_resumes_to_the_same_bytes(dataset, tmp_path, after):
    """SIGKILL as soon as the journal holds `after` of the twenty records; what was recorded is not done
    again.
    """
    run(dataset, tmp_path / "whole.zarr", rows_per_group=1)
    target = tmp_path / "killed.zarr"

    def die(done: int, total: int, note: str) -> None:
        if len(list(records(target))) >= after:
            os.kill(os.getpid(), signal.SIGKILL)

    child = fork(lambda: run(dataset, target, rows_per_group=1, progress=die))
    assert child.wait() == -signal.SIGKILL
    done = len(list(records(target)))
    assert not (target / "manifest.json").exists()
    assert done >= after
    assert run(dataset, target, rows_per_group=1).rows == 20 - done
    assert tree(target) == tree(tmp_path / "whole.zarr")


KITCHEN = (
    {**OPTIONS, "rows_per_group": 1, "batch_rows": 1},
    {**OPTIONS, "image_size": 30, "rows_per_group": 5, "batch_rows": 3, "dtype": "float32"},
)


@pytest.fixture(scope="session")
def kitchen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kitchen")
    toykitchen.render(folder, segments=24)
    return Extractions(read_annotations(folder / "annotations"), folder / "videos", KITCHEN)


@pytest.fixture
def real_clips(shared):
    folder = shared / "data" / "mini_ek"
    return Extractions(read_annotations(folder / "annotations"), folder, KITCHEN)


@pytest.fixture
def small_units(monkeypatch):
    """Rows are read two by two, so that small data sets are shared, too."""
    monkeypatch.setattr(clips, "UNIT_ROWS", 2)


def kill_loop(work, tmp_path, count, kills):
    found = kill_extractions(work, tmp_path, kills, seed=0)
    assert found.wrong == []
    assert min(found.ended["SIGKILL"], found.ended["SIGTERM"]) >= kills / 2
    for name, number in found.ended.items():
        count(f"extractions ended by {name}", number)
    count("stores finished to the same bytes after kills", found.stores)
    count("of these by several processes at once", found.shared)


@pytest.mark.usefixtures("small_units")
def test_extractions_killed_at_random_moments_resume_to_the_same_bytes(kitchen, tmp_path, count):
    kill_loop(kitchen, tmp_path, count, 12)


@pytest.mark.usefixtures("small_units")
def test_extractions_of_real_clips_killed_at_random_moments_resume(real_clips, tmp_path, count):
    kill_loop(real_clips, tmp_path, count, 4)


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
@pytest.mark.usefixtures("small_units")
def test_a_hundred_extractions_killed_at_random_moments_resume(kitchen, tmp_path, count):
    kill_loop(kitchen, tmp_path, count, 100)


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
@pytest.mark.usefixtures("small_units")
def test_a_hundred_extractions_of_real_clips_killed_at_random_moments_resume(real_clips, tmp_path, count):
    kill_loop(real_clips, tmp_path, count, 100)


def test_a_disk_without_room_is_refused_before_the_work(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(fsops, "free_bytes", lambda path: 1000)
    with pytest.raises(DataError, match=r"v\.zarr: [\d,]+ bytes are still to be written and 1,000 are free"):
        run(dataset, tmp_path / "v.zarr")
    monkeypatch.undo()
    monkeypatch.setitem(registry.ENCODERS, "barcode", barcode_record())
    assert run(dataset, tmp_path / "v.zarr").finalized


def test_four_processes_share_one_store(dataset, tmp_path):
    """Started at the same moment, each does its own row groups; nobody's temporary files are taken for a dead
    writer's.
    """
    run(dataset, tmp_path / "whole.zarr", rows_per_group=1)
    target, log = tmp_path / "shared.zarr", tmp_path / "log"
    shares = [partial(run, dataset, target, rows_per_group=1, shard=(number, 4)) for number in range(4)]
    children = [fork(share, log, log) for share in shares]
    assert [child.wait() for child in children] == [0] * 4, log.read_text()
    assert tree(target) == tree(tmp_path / "whole.zarr")


def test_a_broken_video_stops_the_job_and_a_sound_one_in_its_place_goes_on(dataset, tmp_path):
    run(dataset, tmp_path / "whole.zarr", rows_per_group=5)
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    broken = copy / "videos" / "P01" / "videos" / "P01_102.MP4"
    broken.write_text("not a video")
    for _ in range(2):
        with pytest.raises(DataError, match=r"5 rows failed, but max_failed is 4(.|\n)*unreadable_video"):
            run(copy, tmp_path / "v.zarr", rows_per_group=5, max_failed=4)
        assert len(list(records(tmp_path / "v.zarr"))) == 2  # no group after that of the broken video
    shutil.copy2(dataset / "videos" / "P01" / "videos" / "P01_102.MP4", broken)
    result = run(copy, tmp_path / "v.zarr", rows_per_group=5, max_failed=4)
    assert (result.rows, result.failures, result.finalized) == (15, [], True)
    assert tree(tmp_path / "v.zarr") == tree(tmp_path / "whole.zarr")


def test_rows_that_failed_are_tried_again_in_a_finished_store(dataset, tmp_path, monkeypatch):
    run(dataset, tmp_path / "whole.zarr")
    with monkeypatch.context() as broken:
        broken.setitem(registry.ENCODERS, "barcode", barcode_record(lambda x: x * torch.nan))
        assert len(run(dataset, tmp_path / "v.zarr").failed) == 20
    again = run(dataset, tmp_path / "v.zarr")
    assert (again.rows, len(again.failed)) == (0, 20)
    assert run(dataset, tmp_path / "v.zarr", retry_failed=True).failed == []
    assert tree(tmp_path / "v.zarr") == tree(tmp_path / "whole.zarr")


class Opened:
    """A reader that remembers whether it was closed."""

    is_closed = False

    def close(self):
        self.is_closed = True


def test_one_reader_is_open_at_a_time_and_a_broken_video_is_tried_once(tmp_path):
    tried = []

    def open_reader(video_id, path):
        tried.append(path.name)
        if path.name == "broken":
            raise VideoError("unreadable_video", "broken: nothing to read")
        return Opened()

    readers = job.ReaderCache({"a": tmp_path / "a", "b": tmp_path / "broken", "c": None}, open_reader)
    first = readers.reader("a")
    assert readers.reader("a") is first
    for _ in range(2):
        with pytest.raises(VideoError, match="nothing to read"):
            readers.reader("b")
    assert first.is_closed
    with pytest.raises(VideoError, match="c: no such video file") as missing:
        readers.reader("c")
    assert missing.value.status == "missing_video"
    last = readers.reader("a")
    assert not last.is_closed
    readers.close()
    assert last.is_closed
    assert tried == ["a", "broken", "a"]


@pytest.mark.parametrize("name", ["cuda:99", "meta", "nowhere"])
def test_a_device_that_cannot_be_used_is_refused(name):
    assert job.device_of("cpu").type == "cpu"
    with pytest.raises(UsageError, match=f"device '{name}' cannot be used here"):
        job.device_of(name)
