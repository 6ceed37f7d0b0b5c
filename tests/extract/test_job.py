"""The extraction job, end to end on videos that show their own frame numbers."""

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.dataset import FPS, barcode_record, make_dataset, numbers
from helpers.forks import fork
from helpers.jobs import make_roberta, run, text_run, tree
from helpers.kill_loop import kill_extractions
from mambavl.cache import fsops, open_store
from mambavl.cache.layout import records
from mambavl.cache.rows import EMPTY_WINDOW, FLAG_BEFORE_START, OK, STATUS
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.extract import clips, job
from mambavl.extract.annotations import read_annotations
from mambavl.extract.data_check import check_data
from mambavl.extract.encoders import registry
from mambavl.extract.encoders.levels import video_levels
from mambavl.extract.questions import generate, write_questions
from mambavl.extract.sampling import Sampling, window
from mambavl.extract.video import open_video


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _barcode(monkeypatch):
    monkeypatch.setitem(registry.ENCODERS, "barcode", barcode_record())


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_every_row_holds_the_frames_on_display_at_its_times(dataset, tmp_path, decoder):
    if decoder == "decord":
        pytest.importorskip("decord", reason="decord has no wheel for this machine")
    summary = run(dataset, tmp_path / "v.zarr", decoder=decoder)
    assert summary.finalized
    assert not summary.failures
    store = open_store(tmp_path / "v.zarr")
    pts = store.row_array("frame_pts")
    for row, segment in enumerate(store.segments):
        times = window(segment.start, segment.stop, Sampling(frames=4)).times
        expected = np.floor(times * FPS + 1e-6).astype(int)
        tokens, _ = store.batch([row], "patch")
        assert numbers(tokens[0]) == expected.tolist()
        np.testing.assert_allclose(pts[row, 0], expected / FPS)


def test_anticipation_sees_nothing_after_start_minus_tau(dataset, tmp_path):
    summary = run(dataset, tmp_path / "v.zarr", sampling={"task": "anticipation", "frames": 4})
    store = open_store(tmp_path / "v.zarr")
    pts, flags = store.row_array("frame_pts"), store.row_array("flags")
    starts = np.array([segment.start for segment in store.segments])
    empty = starts <= 1.0
    assert (store.status[empty] == EMPTY_WINDOW).all()
    assert (store.status[~empty] == OK).all()
    assert len(summary.failures) == empty.sum()
    assert not summary.failed  # an empty window is the protocol's, not the data's fault
    assert (pts[~empty].max((1, 2)) <= starts[~empty] - 1.0 + 1e-6).all()
    assert (flags[~empty] & FLAG_BEFORE_START > 0).tolist() == (starts[~empty] - 1.0 - 64 / 30 < 0).tolist()


def test_levels_are_views_of_the_same_tokens(dataset, tmp_path):
    run(dataset, tmp_path / "v.zarr", levels=["clip", "frame", "grid", "patch"], grid=2, dtype="float32")
    store = open_store(tmp_path / "v.zarr")
    rows = [0, 7, 19]
    patch, steps = store.batch(rows, "patch")
    frames = patch.reshape(3, 4, 10, 3)
    torch.testing.assert_close(store.batch(rows, "frame")[0], frames.mean(2))
    torch.testing.assert_close(store.batch(rows, "clip")[0][:, 0], frames.mean((1, 2)))
    assert store.batch(rows, "grid")[0].shape == (3, 4 * 2 * 2, 3)
    lengths = {level: store.batch(rows, level)[1].tolist() for level in store.levels}
    assert lengths == {"clip": [1] * 3, "frame": [4] * 3, "grid": [16] * 3, "patch": [40] * 3}
    assert steps.tolist() == [40] * 3


def test_every_view_is_encoded_and_kept_with_its_own_times(dataset, tmp_path):
    sampling = {"frames": 4, "views": 3}
    run(dataset, tmp_path / "v.zarr", levels=["clip", "patch"], sampling=sampling)
    store = open_store(tmp_path / "v.zarr")
    pts = store.row_array("frame_pts")
    assert pts.shape == (20, 3, 4)
    for row, segment in enumerate(store.segments):
        for view in range(3):
            times = window(segment.start, segment.stop, Sampling.model_validate(sampling), view).times
            expected = np.floor(times * FPS + 1e-6).astype(int)
            assert numbers(store.batch([row], "patch", view=view)[0][0]) == expected.tolist()
            np.testing.assert_allclose(pts[row, view], expected / FPS)


def test_three_crops_run_from_one_end_of_the_long_side_to_the_other(dataset, tmp_path):
    """Frames of 160 x 48: the squares begin at 0, 56 and 112."""
    sampling = {"frames": 2, "views": 2}
    run(
        dataset,
        tmp_path / "v.zarr",
        levels=["patch"],
        fit="crop",
        image_size=48,
        crops=3,
        sampling=sampling,
        dtype="float32",
    )
    store = open_store(tmp_path / "v.zarr")
    pts = store.row_array("frame_pts")
    assert pts.shape == (20, 6, 2)  # in time first, then from left to right
    reader = open_video(dataset / "videos" / "P01" / "videos" / f"{store.segments[3].video_id}.MP4")
    for view in range(6):
        tokens = store.batch([3], "patch", view=view)[0].reshape(2, 10, 3)
        shown = [pixels for _, pixels in reader.frames(np.round(pts[3, view] * FPS).astype(int))]
        assert len(shown) == 2
        left = (0, 56, 112)[view % 3]
        for token, pixels in zip(tokens, shown, strict=True):
            square = torch.from_numpy(pixels[:, left : left + 48].copy()).permute(2, 0, 1)[None] / 255
            torch.testing.assert_close(
                token, torch.nn.functional.adaptive_avg_pool2d(square, (1, 10))[0, :, 0].T
            )
    reader.close()
    with pytest.raises(ValueError, match="a squeezed frame"):
        run(dataset, tmp_path / "w.zarr", crops=3)


def test_pictures_are_let_go_as_soon_as_they_are_encoded(dataset, tmp_path, monkeypatch):
    """A row group may hold 512 rows of 30 views: tens of gigabytes."""
    held = []
    group = job.dense_group
    monkeypatch.setattr(
        job,
        "dense_group",
        lambda name, clips, *more: (
            held.extend(len(clip.images) for clip in clips) or group(name, clips, *more)
        ),
    )
    run(dataset, tmp_path / "v.zarr")
    assert len(held) == 20
    assert not any(held)


def test_a_level_named_twice_and_settings_that_nothing_reads_are_refused(dataset, tmp_path):
    for changes, message in (
        ({"levels": ["patch", "patch"]}, "names patch twice"),
        ({"sampling": {"stride": 3}}, "stride is of rule mf_dense"),
        ({"box_transform": "released"}, "box_transform = released is about boxes"),
    ):
        with pytest.raises(ValueError, match=message):
            run(dataset, tmp_path / "v.zarr", **changes)


def test_the_encoder_may_run_in_lower_precision_which_the_spec_says(dataset, tmp_path, monkeypatch):
    seen = []
    levels = video_levels
    monkeypatch.setattr(
        clips, "video_levels", lambda *a: seen.append(torch.is_autocast_enabled("cpu")) or levels(*a)
    )
    run(dataset, tmp_path / "v.zarr", precision="bf16")
    assert all(seen)
    assert open_store(tmp_path / "v.zarr").spec.recipe.precision == "bf16"
    with pytest.raises(UsageError, match=r"recipe\.precision: 'bf16' -> 'fp32'"):
        run(dataset, tmp_path / "v.zarr")


def test_interrupted_and_resumed_or_split_over_shards_gives_the_same_bytes(dataset, tmp_path):
    run(dataset, tmp_path / "whole.zarr")
    expected = tree(tmp_path / "whole.zarr")
    calls = iter(range(100))
    with pytest.raises(Interrupted, match="resumes"):
        run(dataset, tmp_path / "resumed.zarr", should_stop=lambda: next(calls) > 4)
    assert run(dataset, tmp_path / "resumed.zarr").rows < 20
    assert tree(tmp_path / "resumed.zarr") == expected
    assert not run(dataset, tmp_path / "sharded.zarr", shard=(1, 2)).finalized
    assert run(dataset, tmp_path / "sharded.zarr", shard=(0, 2)).finalized
    assert tree(tmp_path / "sharded.zarr") == expected
    again = run(dataset, tmp_path / "sharded.zarr")
    assert (again.rows, again.finalized) == (0, True)


def test_other_settings_are_refused_with_the_fields_that_differ(dataset, tmp_path):
    run(dataset, tmp_path / "v.zarr")
    with pytest.raises(UsageError, match=r"recipe\.sampling\.frames: 4 -> 5"):
        run(dataset, tmp_path / "v.zarr", sampling={"frames": 5})


def broken_copy(dataset, tmp_path):
    """The data set with one video replaced by text, one missing, one cut short by a list that promises more."""
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    videos = copy / "videos" / "P01" / "videos"
    (videos / "P01_101.MP4").write_text("not a video")
    (videos / "P01_102.MP4").unlink()
    shutil.copy(write_short(tmp_path), videos / "P01_103.MP4")
    return copy


def write_short(tmp_path):
    from helpers.clips import write_video

    return write_video(tmp_path / "short.MP4", frames=30, fps=FPS)


def test_videos_that_are_not_there_stop_the_job_before_any_work(dataset, tmp_path):
    copy = broken_copy(dataset, tmp_path)
    with pytest.raises(DataError, match=r"1 of 4 videos are not there \(P01_102\)"):
        run(copy, tmp_path / "v.zarr")
    assert not (tmp_path / "v.zarr").exists()


def test_every_bad_video_becomes_named_failures_and_the_others_stay_the_same_to_the_bit(dataset, tmp_path):
    run(dataset, tmp_path / "good.zarr")
    summary = run(broken_copy(dataset, tmp_path), tmp_path / "v.zarr", allow_missing=True)
    good, store = open_store(tmp_path / "good.zarr"), open_store(tmp_path / "v.zarr")
    by_video = {
        video: {STATUS[int(store.status[i])] for i, s in enumerate(store.segments) if s.video_id == video}
        for video in ("P01_101", "P01_102", "P01_103", "P01_104")
    }
    assert by_video["P01_101"] == {"unreadable_video"}
    assert by_video["P01_102"] == {"missing_video"}
    assert by_video["P01_103"] == {"ok", "short_video"}
    assert by_video["P01_104"] == {"ok"}
    assert {reason[0] for reason in summary.failed} == {
        s.narration_id for i, s in enumerate(store.segments) if store.status[i] != 1
    }
    same = [i for i, s in enumerate(store.segments) if s.video_id == "P01_104"]
    assert torch.equal(store.batch(same, "patch")[0], good.batch(same, "patch")[0])


@pytest.mark.parametrize("spoil", [lambda x: x * torch.nan, lambda x: x * 1e6])
def test_features_that_are_not_finite_are_failures(dataset, tmp_path, monkeypatch, spoil):
    monkeypatch.setitem(registry.ENCODERS, "barcode", barcode_record(spoil))
    summary = run(dataset, tmp_path / "v.zarr")
    assert {STATUS[status] for _, status, _ in summary.failed} == {"nonfinite_features"}
    assert len(summary.failed) == 20


def test_data_check_lists_each_fault_on_its_line(dataset, tmp_path):
    read = read_annotations(dataset / "annotations")
    assert check_data(read, dataset / "videos", full=True).problems == []
    problems = check_data(read, broken_copy(dataset, tmp_path) / "videos").problems
    assert [problem.split(":")[0] for problem in problems] == ["P01_101", "P01_102", "P01_103", "P01_103"]
    assert "missing; expected" in problems[1]
    assert "short" in problems[2]
    assert "rows end after the video" in problems[3]


@pytest.mark.parametrize("after", [1, 2, 4])
def test_the_real_process_killed_between_row_groups_resumes_to_the_same_bytes(dataset, tmp_path, after):
    """SIGKILL as soon as the journal holds `after` of the twenty records; what was recorded is not done
    again.
    """
    run(dataset, tmp_path / "whole.zarr", rows_per_group=1)
    target = tmp_path / "killed.zarr"

    def die(done: int, total: int) -> None:
        if len(list(records(target))) >= after:
            os.kill(os.getpid(), signal.SIGKILL)

    child = fork(lambda: run(dataset, target, rows_per_group=1, progress=die))
    assert child.wait() == -signal.SIGKILL
    done = len(list(records(target)))
    assert not (target / "manifest.json").exists()
    assert done >= after
    assert run(dataset, target, rows_per_group=1).rows == 20 - done
    assert tree(target) == tree(tmp_path / "whole.zarr")


def kill_loop(dataset, tmp_path, count, kills):
    found = kill_extractions(dataset, tmp_path, kills, seed=0)
    assert found["wrong"] == []
    assert found["killed"] >= kills
    count("extractions killed with SIGKILL", found["killed"])
    count("stores finished to the same bytes after kills", found["stores"])


def test_extractions_killed_at_random_moments_resume_to_the_same_bytes(dataset, tmp_path, count):
    kill_loop(dataset, tmp_path, count, 8)


@pytest.mark.soak
def test_two_hundred_extractions_killed_at_random_moments_resume_to_the_same_bytes(dataset, tmp_path, count):
    kill_loop(dataset, tmp_path, count, 200)


def test_a_disk_without_room_is_refused_before_the_work(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(fsops, "free_bytes", lambda path: 1000)
    with pytest.raises(DataError, match=r"v\.zarr: [\d,]+ bytes are still to be written and 1,000 are free"):
        run(dataset, tmp_path / "v.zarr")
    monkeypatch.undo()
    monkeypatch.setitem(registry.ENCODERS, "barcode", barcode_record())
    assert run(dataset, tmp_path / "v.zarr").finalized


def test_a_compressed_store_holds_the_same_features(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("MAMBAVL_SCRATCH", str(tmp_path / "scratch"))
    run(dataset, tmp_path / "plain.zarr")
    run(dataset, tmp_path / "small.zarr", compressor="zstd")
    plain, small = (open_store(tmp_path / name) for name in ("plain.zarr", "small.zarr"))
    assert torch.equal(plain.batch(range(20), "patch")[0], small.batch(range(20), "patch")[0])


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


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    """A tiny RoBERTa with a tokenizer trained on the spot, saved as any local folder would be."""
    return make_roberta(tmp_path_factory.mktemp("roberta"))


def test_unmasked_questions_are_not_encoded_unless_asked_for(dataset, tmp_path, text_model):
    questions = tmp_path / "q.jsonl"
    write_questions(questions, generate(read_annotations(dataset / "annotations"), "oracle", masked=False))
    with pytest.raises(UsageError, match=r"say their answers \(backend template-unmasked\)"):
        text_run(dataset, tmp_path / "t.zarr", text_model, questions)
    text_run(dataset, tmp_path / "t.zarr", text_model, questions, allow_unmasked=True)
    assert open_store(tmp_path / "t.zarr").spec.recipe.questions.backend == "template-unmasked"


@pytest.mark.parametrize("protocol", ["oracle", "generic", "none"])
def test_questions_become_tokens_of_their_own_length(dataset, tmp_path, text_model, protocol):
    questions = tmp_path / "q.jsonl"
    write_questions(questions, generate(read_annotations(dataset / "annotations"), protocol))
    text_run(
        dataset,
        tmp_path / "t.zarr",
        text_model,
        questions,
        levels=["last_hidden", "embedding_layer", "pooled"],
        dtype="float32",
    )
    store = open_store(tmp_path / "t.zarr")
    assert store.spec.recipe.questions.protocol == protocol
    encoder = registry.build("hf:tiny", weights=str(text_model))
    lines = [json.loads(line) for line in questions.read_text().splitlines()]
    asked = {line["narration_id"]: line for line in lines}
    for question in ("verb_question", "noun_question"):
        for row in (0, 9, 19):
            ids = encoder.tokenize(asked[store.segments[row].narration_id][question])
            assert (protocol == "none") == (not ids)
            for level in ("last_hidden", "embedding_layer", "pooled"):
                tokens, lengths = store.batch([row], f"{question}/{level}")
                expected = encoder.encode([ids], (level,))[level][0]
                assert lengths.tolist() == [len(expected)]
                torch.testing.assert_close(tokens[0, : lengths[0]], expected, rtol=1e-4, atol=1e-5)


def test_a_question_file_that_lacks_rows_is_refused(dataset, tmp_path, text_model):
    read = read_annotations(dataset / "annotations")
    write_questions(tmp_path / "q.jsonl", generate(read, "generic", read.segments[:15]))
    with pytest.raises(DataError, match=r"no question for 5 of 20 rows"):
        text_run(dataset, tmp_path / "t.zarr", text_model, tmp_path / "q.jsonl")


def test_a_text_encoder_is_no_video_encoder(dataset, tmp_path):
    with pytest.raises(UsageError, match="use `mambavl extract text`"):
        run(dataset, tmp_path / "v.zarr", encoder="minilm")


def rewritten(source: Path, target: Path, change) -> Path:
    """A copy of a model folder with its tensors changed."""
    shutil.copytree(source, target)
    save_file(
        change(load_file(source / "model.safetensors")),
        target / "model.safetensors",
        metadata={"format": "pt"},
    )
    return target


def test_text_features_that_are_not_finite_are_failures(dataset, tmp_path, text_model):
    name = "encoder.layer.1.output.LayerNorm.weight"
    # past float16's range
    broken = rewritten(text_model, tmp_path / "broken", lambda state: {**state, name: state[name] * 1e6})
    write_questions(tmp_path / "q.jsonl", generate(read_annotations(dataset / "annotations"), "generic"))
    summary = text_run(dataset, tmp_path / "t.zarr", broken, tmp_path / "q.jsonl")
    assert len(summary.failed) == 20
    assert {STATUS[status] for _, status, _ in summary.failed} == {"nonfinite_features"}


def test_a_text_model_that_lacks_tensors_is_refused_and_one_without_a_pooler_has_no_pooled_level(
    tmp_path, text_model
):
    def without(prefix):
        return lambda state: {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}

    with pytest.raises(UsageError, match=r"lacks \d+ of the model's tensors \(encoder\.layer\.1"):
        registry.build(
            "hf:tiny", weights=str(rewritten(text_model, tmp_path / "layer", without("encoder.layer.1.")))
        )
    encoder = registry.build(
        "hf:tiny", weights=str(rewritten(text_model, tmp_path / "pooler", without("pooler.")))
    )
    ids = [encoder.tokenize("cut the cup")]
    assert len(encoder.encode(ids, ("last_hidden",))["last_hidden"][0]) == len(ids[0])
    with pytest.raises(UsageError, match="no pooled output"):
        encoder.encode(ids, ("pooled",))
