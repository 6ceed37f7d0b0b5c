"""The store: what is written is what is read, by us and by any Zarr reader; what is damaged is found; what
differs is refused.
"""

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from helpers.forks import fork
from helpers.tiny import CLASSES, make_dense_store, make_segments, make_text_store, unfinished
from mambavl.cache import fsops, open_store, shards
from mambavl.cache.finalize import finalize
from mambavl.cache.rows import STATUS_CODE, read_segments, write_segments
from mambavl.cache.shards import Level
from mambavl.cache.spec import SCHEMA_VERSION
from mambavl.cache.verify import verify
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import DataError, UsageError


def test_batches_are_the_rows_that_were_written_in_any_order(tmp_path):
    features = make_dense_store(tmp_path / "s.zarr")
    opened = open_store(tmp_path / "s.zarr")
    rows = [19, 0, 7, 8, 7]
    tokens, lengths = opened.batch(rows, "frame")
    assert torch.equal(tokens, torch.from_numpy(features[rows, 0]))
    assert lengths.tolist() == [4] * 5
    assert opened.segments == make_segments(20)
    assert opened.classes == CLASSES


def test_ragged_text_is_padded_with_zeros_and_keeps_its_lengths(tmp_path):
    texts = make_text_store(tmp_path / "t.zarr")
    opened = open_store(tmp_path / "t.zarr")
    rows = [3, 17, 0, 9]
    for question in ("verb_question", "noun_question"):
        tokens, lengths = opened.batch(rows, f"{question}/last_hidden")
        for i, row in enumerate(rows):
            length = len(texts[question][row])
            assert lengths[i] == length
            np.testing.assert_array_equal(tokens[i, :length].numpy(), texts[question][row])
            assert not tokens[i, length:].any()


def test_zarr_python_reads_the_same_values(tmp_path):
    features = make_dense_store(tmp_path / "s.zarr")
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    np.testing.assert_array_equal(group["frame"][:], features)
    assert group["status"][:].tolist() == [1] * 20
    texts = make_text_store(tmp_path / "t.zarr")
    group = zarr.open_group(tmp_path / "t.zarr", mode="r")
    start, length = group["noun_question/start"][:], group["noun_question/length"][:]
    values = group["noun_question/last_hidden"][:]
    for row in range(20):
        np.testing.assert_array_equal(
            values[start[row] : start[row] + length[row]], texts["noun_question"][row]
        )


def test_shard_bytes_are_those_of_zarr_python(tmp_path):
    """A second writer of the format: the same array written by zarr gives the same file."""
    features = make_dense_store(tmp_path / "s.zarr", rows=8, group_rows=8)
    array = zarr.create_array(
        tmp_path / "z.zarr", shape=(8, 1, 4, 6), shards=(8, 1, 4, 6), chunks=(1, 1, 4, 6), dtype="float32",
        fill_value=np.nan, compressors=zarr.codecs.Crc32cCodec(), config={"write_empty_chunks": True},
    )  # fmt: skip
    array[:] = features
    assert (tmp_path / "s.zarr/frame/c.0.0.0.0").read_bytes() == (tmp_path / "z.zarr/c/0/0/0/0").read_bytes()


def test_a_pickled_store_reads_the_same(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    opened = open_store(tmp_path / "s.zarr")
    first = opened.batch([1, 2], "frame")[0]
    assert torch.equal(pickle.loads(pickle.dumps(opened)).batch([1, 2], "frame")[0], first)


def test_a_finished_store_is_verified_and_its_files_are_read_only(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    assert verify(tmp_path / "s.zarr", deep=True) == []
    shard = tmp_path / "s.zarr/frame/c.0.0.0.0"
    assert not os.stat(shard).st_mode & 0o222


@pytest.mark.parametrize(
    "victim", ["frame/c.1.0.0.0", "status/c.0", "frame_pts/c.0.0.0", "segments.csv", "spec.json"]
)
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "zero"])
def test_every_damage_is_found_by_verify(tmp_path, victim, damage):
    make_dense_store(tmp_path / "s.zarr")
    file = tmp_path / "s.zarr" / victim
    data = bytearray(file.read_bytes())
    file.chmod(0o644)
    if damage == "flip":
        position = data.index(b"1") if victim == "spec.json" else len(data) // 2
        data[position] ^= 1
        file.write_bytes(data)
    elif damage == "truncate":
        file.write_bytes(data[:-1])
    elif damage == "zero":
        file.write_bytes(b"")
    else:
        file.unlink()
    try:
        faults = verify(tmp_path / "s.zarr", deep=True)
    except DataError as error:
        faults = [str(error)]
    assert any(victim in fault for fault in faults)


def test_a_shard_in_the_wrong_place_is_found(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    first, second = (tmp_path / f"s.zarr/frame/c.{g}.0.0.0" for g in (0, 1))
    second.chmod(0o644)
    second.write_bytes(first.read_bytes())
    assert any("frame/c.1" in fault for fault in verify(tmp_path / "s.zarr", deep=True))


def test_missing_and_empty_shards_never_read_as_data(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    opened = open_store(tmp_path / "s.zarr")
    shard = tmp_path / "s.zarr/frame/c.1.0.0.0"
    shard.chmod(0o644)
    shard.write_bytes(b"")
    with pytest.raises(DataError, match=r"frame/c\.1"):
        opened.batch([9], "frame")
    with pytest.raises(DataError, match="0 bytes"):
        open_store(tmp_path / "s.zarr")


def test_a_store_of_another_recipe_is_refused_and_the_fields_are_named(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    with pytest.raises(UsageError, match=r"recipe\.encoder\.name: 'fake' -> 'other'"):
        make_dense_store(tmp_path / "s.zarr", recipe={"encoder": {"name": "other"}})


def test_a_folder_that_is_no_store_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        make_dense_store(tmp_path)
    with pytest.raises(DataError, match="no such store"):
        open_store(tmp_path / "nowhere")


def test_an_unfinished_store_is_opened_only_on_request(tmp_path):
    writer, group = unfinished(tmp_path / "s.zarr")
    writer.commit(1, group)
    with pytest.raises(DataError, match="8 of 20 rows are done"):
        open_store(tmp_path / "s.zarr")
    opened = open_store(tmp_path / "s.zarr", partial=True)
    assert opened.status.tolist() == [0] * 8 + [1] * 8 + [0] * 4
    with pytest.raises(DataError, match="never written"):
        opened.batch([0], "frame")
    with pytest.raises(DataError, match="8 of 20"):
        writer.finalize()


def test_a_row_that_failed_is_never_handed_out(tmp_path):
    writer, group = unfinished(tmp_path / "s.zarr")
    group.status[3] = STATUS_CODE["missing_video"]
    group.reasons = {3: "no file"}
    writer.commit(1, group)
    with pytest.raises(DataError, match=r"P01_102_1 .*missing_video"):
        open_store(tmp_path / "s.zarr", partial=True).batch([8, 11], "frame")


def tree(path: Path) -> dict[str, bytes]:
    """The finished store's content: journals and the record of the environment aside."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.parent.name != "commit"
    }


def test_a_killed_writer_resumes_to_the_same_bytes(tmp_path):
    """SIGKILL at ten moments of the writing; each time the finished store equals the uninterrupted one."""
    since = time.monotonic()
    assert fork(lambda: make_dense_store(tmp_path / "whole.zarr", rows=64)).wait() == 0
    seconds, expected = time.monotonic() - since, tree(tmp_path / "whole.zarr")
    rng = np.random.default_rng(0)
    for trial in range(10):
        target = tmp_path / f"killed{trial}.zarr"
        child = fork(lambda target=target: make_dense_store(target, rows=64))
        time.sleep(rng.uniform(0, seconds))
        child.send_signal(signal.SIGKILL)
        child.wait()
        if not (target / "manifest.json").exists():
            make_dense_store(target, rows=64)
        assert tree(target) == expected


def test_row_groups_are_a_power_of_two_near_sixteen_mebibytes():
    assert shards.rows_per_group(16 * 768 * 2) == 512  # 24 KiB a row: capped
    assert shards.rows_per_group(1569 * 768 * 2) == 8  # 2.4 MB a row
    assert shards.rows_per_group(16 * 16 * 1280 * 2) == 32  # 655 KB a row


def test_any_text_in_a_narration_survives(tmp_path):
    words = ("cut\rcup", "a\nb", 'say "cut", please', "a,b;c\t", " naïve 🍅 ", "'quoted'", "\u2028")
    segments = tuple(
        replace(s, narration=w, all_nouns=(w, "x"))
        for s, w in zip(make_segments(len(words)), words, strict=True)
    )
    assert read_segments(write_segments(segments)) == segments


def test_the_writer_who_comes_first_does_a_row_group_and_the_others_find_it_done(tmp_path):
    writer, group = unfinished(tmp_path / "s.zarr")
    other, _ = unfinished(tmp_path / "s.zarr")
    for index in (0, 1, 2):
        assert writer.commit(index, shortened(group, 4 if index == 2 else 8)) > 0
    assert other.commit(0, replace(group, levels={"frame": np.ones((8, 1, 4, 6), np.float32)})) == 0
    assert other.finalize() is None  # the first writer is still at work
    writer.finalize()
    assert verify(tmp_path / "s.zarr", deep=True) == []
    assert open_store(tmp_path / "s.zarr").batch([0], "frame")[0].max() == 0


def test_the_record_that_fits_the_files_counts_whoever_wrote_it(tmp_path, monkeypatch):
    """Where no lock keeps writers apart, two may do the same row group with other results: the files say
    whose record counts.
    """
    monkeypatch.setattr(StoreWriter, "_is_done", lambda self, group: False)
    writer, group = unfinished(tmp_path / "s.zarr")
    other, _ = unfinished(tmp_path / "s.zarr")
    writer._journal, other._journal = (tmp_path / "s.zarr" / "commit" / f"{name}.journal" for name in "ab")
    for index in (0, 1, 2):
        writer.commit(index, shortened(group, 4 if index == 2 else 8))
    changed = replace(
        group, levels={"frame": np.ones((8, 1, 4, 6), np.float32)}, flags=np.full(8, 1, np.uint8)
    )
    other.commit(0, changed)
    other.close()
    frame = tmp_path / "s.zarr/frame/c.0.0.0.0"
    whole, mixed = frame.read_bytes(), shards.encode_shard(group.levels["frame"], writer.layout.levels[0], 8)
    frame.write_bytes(mixed)  # one file of the one, the rest of the other
    assert writer.pending() == [0]
    frame.write_bytes(whole)
    assert writer.pending() == []
    writer.finalize()
    assert verify(tmp_path / "s.zarr", deep=True) == []
    assert open_store(tmp_path / "s.zarr").batch([0], "frame")[0].max() == 1


def shortened(group: RowGroup, rows: int) -> RowGroup:
    return RowGroup(
        levels={name: values[:rows] for name, values in group.levels.items()},
        lengths={name: values[:rows] for name, values in group.lengths.items()},
        status=group.status[:rows],
        flags=group.flags[:rows],
        frame_pts=group.frame_pts[:rows],
    )


def test_closing_a_closed_store_checks_it_and_never_blesses_a_change(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    manifest = finalize(tmp_path / "s.zarr")
    assert finalize(tmp_path / "s.zarr") == manifest
    file = tmp_path / "s.zarr" / "frame" / "zarr.json"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(DataError, match=r"damaged since.*\n  frame/zarr\.json"):
        finalize(tmp_path / "s.zarr")


def test_a_starting_writer_leaves_a_living_writers_files_alone_and_sweeps_a_dead_ones(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    files = {
        pid: tmp_path / "s.zarr" / f".partial-{fsops._HOST}-{pid}-abc-x" for pid in (os.getpid(), dead.pid)
    }
    for file in files.values():
        file.write_bytes(b"half")
    assert fsops.sweep_temporaries(tmp_path / "s.zarr") == 1
    assert files[os.getpid()].exists()
    assert not files[dead.pid].exists()


@pytest.mark.parametrize("content", ["[]", "{}", "{", '{"schema": 99}'])
@pytest.mark.parametrize("name", ["spec.json", "manifest.json"])
def test_metadata_that_says_nothing_is_a_clear_error(tmp_path, name, content):
    make_dense_store(tmp_path / "s.zarr")
    (tmp_path / "s.zarr" / name).chmod(0o644)
    (tmp_path / "s.zarr" / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name}|schema version"):
        open_store(tmp_path / "s.zarr")
    try:
        faults = verify(tmp_path / "s.zarr")
    except DataError as error:
        faults = [str(error)]
    assert any(name in fault or "schema version" in fault for fault in faults)


def test_a_mask_of_rows_selects_rows(tmp_path):
    features = make_dense_store(tmp_path / "s.zarr")
    mask = np.arange(20) % 7 == 0
    assert torch.equal(
        open_store(tmp_path / "s.zarr").batch(mask, "frame")[0], torch.from_numpy(features[mask, 0])
    )


SAMPLING = {"task": "recognition", "frames": 4}
RECIPE = {
    "encoder": {"name": "fake", "sha256": "0" * 64, "width": 6},
    "sampling": SAMPLING,
    "questions": {"protocol": "oracle"},
}


@pytest.mark.parametrize(
    ("what", "changed", "message"),
    [
        (
            "encoder",
            {"recipe": {**RECIPE, "encoder": {**RECIPE["encoder"], "name": "other"}}},
            "encoder.name: 'fake' -> 'other'",
        ),
        (
            "weights",
            {"recipe": {**RECIPE, "encoder": {**RECIPE["encoder"], "sha256": "1"}}},
            f"sha256: '{'0' * 64}' -> '1'",
        ),
        ("width", {"width": 7}, "levels: .*'shape': [1, 4, 6].* -> .*'shape': [1, 4, 7]"),
        ("dtype", {"dtype": "float16"}, "'dtype': 'float32'.* -> .*'dtype': 'float16'"),
        ("steps", {"steps": 5}, "frame_pts: [1, 4] -> [1, 5]"),
        (
            "window",
            {"recipe": {**RECIPE, "sampling": {**SAMPLING, "task": "anticipation"}}},
            "task: 'recognition' -> 'anticipation'",
        ),
        (
            "protocol",
            {"recipe": {**RECIPE, "questions": {"protocol": "generic"}}},
            "protocol: 'oracle' -> 'generic'",
        ),
        ("rows", {"rows": 19}, "rows: 20 -> 19"),
        ("row list", {"splits": ("train",)}, "segments_sha256: '.{64}' -> '.{64}'"),
        ("row groups", {"group_rows": 4}, "rows_per_group: 8 -> 4"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_what_was_made_otherwise_is_refused_with_both_values(tmp_path, what, changed, message):
    before = {"recipe": RECIPE}
    make_dense_store(tmp_path / "s.zarr", **before)
    bytes_before = tree(tmp_path / "s.zarr")
    with pytest.raises(UsageError) as caught:
        make_dense_store(tmp_path / "s.zarr", **{**before, **changed})
    pattern = re.escape(message).replace(r"\.\*", ".*").replace(r"\.\{64\}", ".{64}")
    assert re.search(pattern, str(caught.value)), str(caught.value)
    assert tree(tmp_path / "s.zarr") == bytes_before


def test_another_schema_version_is_refused_with_both_values(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    file = tmp_path / "s.zarr" / "spec.json"
    file.chmod(0o644)
    file.write_text(file.read_text().replace(f'"schema": {SCHEMA_VERSION}', '"schema": 1'))
    for deed in (open_store, verify, make_dense_store):
        with pytest.raises(
            DataError, match=f"has schema version 1; this version of mambavl reads {SCHEMA_VERSION}"
        ):
            deed(tmp_path / "s.zarr")


def test_parts_of_a_row_group_that_do_not_fit_each_other_are_refused(tmp_path):
    writer, group = unfinished(tmp_path / "s.zarr")
    for changed, message in (
        ({"status": np.ones(7, np.uint8)}, "status: expected 8 rows, got 7"),
        ({"status": np.zeros(8, np.uint8)}, "none of them 0"),
        ({"lengths": {"length": np.full(8, 5)}}, "lengths from 5 to 5, at most 4 fit"),
        ({"lengths": {"length": np.full(8, -1)}}, "lengths from -1 to -1"),
        ({"frame_pts": None}, "frame_pts: expected 8 rows, got nothing"),
        ({"levels": {"frame": np.zeros((8, 1, 4, 5), np.float32)}}, r"expected \(8, 1, 4, 6\)"),
    ):
        with pytest.raises(ValueError, match=message):
            writer.commit(1, replace(group, **changed))
    assert writer.pending() == [0, 1, 2]


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "x"},
        {"dtype": "float64"},
        {"compressor": "gzip"},
        {"steps": 3},
        {"shape": (1, 0, 6)},
        {"capacity": 64},
    ],
    ids=str,
)
def test_what_is_no_level_is_refused(changed):
    with pytest.raises(ValueError, match="there is no such level"):
        replace(Level("frame", "dense", (1, 4, 6), "float32", steps=4), **changed)


def test_of_writers_that_end_together_the_last_one_finishes(tmp_path):
    """One leaves while the other has a row group to do: whoever lets go last finds the store complete."""
    first, group = unfinished(tmp_path / "s.zarr")
    second, _ = unfinished(tmp_path / "s.zarr")
    first.commit(0, group)
    first.commit(1, group)
    assert second.pending() == [2]
    second.commit(2, shortened(group, 4))
    assert second.finish() is None  # the first still holds the store
    assert first.finish()["store_id"] == open_store(tmp_path / "s.zarr").store_id


def test_a_row_group_of_two_claims_and_no_fitting_content_is_done_again(tmp_path, monkeypatch):
    writer, group = unfinished(tmp_path / "s.zarr")
    writer.commit(1, group)
    monkeypatch.setattr(StoreWriter, "_is_done", lambda self, group: False)
    other, _ = unfinished(tmp_path / "s.zarr")
    other.commit(1, replace(group, levels={"frame": np.ones((8, 1, 4, 6), np.float32)}))
    monkeypatch.undo()
    file = tmp_path / "s.zarr/frame/c.1.0.0.0"
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    third, _ = unfinished(tmp_path / "s.zarr")
    assert 1 in third.pending()
    assert third.commit(1, group) > 0
    assert 1 not in third.pending()
