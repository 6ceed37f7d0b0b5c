"""Joining stores: rows meet by name, whatever order and whatever store they lie in; every row that does not
is named.
"""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import tiny
from helpers.tiny import make_dense_store, make_text_store
from mambavl.cache import JoinError, join, open_store
from mambavl.configs.errors import DataError, UsageError


def test_rows_meet_by_name_in_the_order_of_the_first_stream(tmp_path):
    features = make_dense_store(tmp_path / "v.zarr", 30)
    texts = make_text_store(tmp_path / "t.zarr", 30)
    streams = {"video": open_store(tmp_path / "v.zarr"), "verb_question": open_store(tmp_path / "t.zarr")}
    joined = join(streams)
    assert [s.narration_id for s in joined.segments] == [s.narration_id for s in streams["video"].segments]
    rows = np.array([29, 2, 2, 11])
    found = joined.batch(rows, {"video": "frame", "verb_question": "verb_question/last_hidden"})
    assert torch.equal(found["video"][0], torch.from_numpy(features[rows, 0]))
    assert found["verb_question"][1].tolist() == [len(texts["verb_question"][row]) for row in rows]


def test_a_stream_may_lie_in_two_stores(tmp_path, monkeypatch):
    """Train and validation halves: joined they give what the whole store gives, ragged batches padded too."""
    make_text_store(tmp_path / "whole.zarr", 40)
    whole = open_store(tmp_path / "whole.zarr")
    segments = whole.segments
    halves = []
    for number, split in enumerate(("validation", "train")):
        monkeypatch.setattr(
            tiny, "make_segments", lambda count, split=split: tuple(s for s in segments if s.split == split)
        )
        make_text_store(tmp_path / f"{number}.zarr", 40)
        halves.append(open_store(tmp_path / f"{number}.zarr"))
    joined = join({"question": halves, "again": halves[::-1]})
    assert len(joined) == 40
    rows = np.arange(40)[::-1]
    level = "noun_question/last_hidden"
    tokens, lengths = joined.streams["question"].batch(rows, level)
    other_tokens, other_lengths = joined.streams["again"].batch(rows, level)
    assert torch.equal(tokens, other_tokens)
    assert torch.equal(lengths, other_lengths)
    for i, row in enumerate(rows):
        name = joined.segments[row].narration_id
        half = next(h for h in halves if any(s.narration_id == name for s in h.segments))
        own = next(k for k, s in enumerate(half.segments) if s.narration_id == name)
        expected = half.batch([own], level)[0][0]
        assert torch.equal(tokens[i, : lengths[i]], expected)
        assert not tokens[i, lengths[i] :].any()


def test_every_row_that_does_not_match_is_named(tmp_path, monkeypatch):
    make_dense_store(tmp_path / "a.zarr", 70)
    segments = open_store(tmp_path / "a.zarr").segments
    changed = [segments[3].labelled(verb=(segments[3].verb_class + 1) % 3), *segments[4:-60]]
    extra = replace(segments[-1], video_id="P09_01", narration_id="P09_01_0")
    monkeypatch.setattr(tiny, "make_segments", lambda *_: (*changed, extra))
    make_dense_store(tmp_path / "b.zarr", len(changed) + 1)
    with pytest.raises(JoinError) as caught:
        join({"video": open_store(tmp_path / "a.zarr"), "audio": open_store(tmp_path / "b.zarr")})
    missing = {s.narration_id for s in (*segments[:3], *segments[-60:])}
    wrong = dict(caught.value.rows)
    assert wrong.keys() == missing | {"P09_01_0", segments[3].narration_id}
    assert wrong["P09_01_0"] == "is in stream audio and not in stream video"
    assert "verb_class" in wrong[segments[3].narration_id]
    text = str(caught.value)
    assert text.startswith("65 rows do not match")
    assert text.endswith("... and 15 more")


def test_a_row_of_another_split_is_named(tmp_path):
    make_dense_store(tmp_path / "a.zarr")
    segments = list(open_store(tmp_path / "a.zarr").segments)
    segments[3] = replace(segments[3], split="test")
    make_dense_store(tmp_path / "b.zarr", segments=tuple(segments))
    with pytest.raises(JoinError) as caught:
        join({"video": open_store(tmp_path / "a.zarr"), "audio": open_store(tmp_path / "b.zarr")})
    [(name, what)] = caught.value.rows
    assert name == segments[3].narration_id
    assert what.startswith("has split 'test' in stream audio and not so in stream video (")


def test_views_and_statuses_go_with_their_rows_over_several_stores(tmp_path):
    make_dense_store(tmp_path / "a.zarr", 12)
    segments = open_store(tmp_path / "a.zarr").segments
    halves, features, failed = [], {}, ({1: 3}, {0: 2, 5: 8})
    for number in (0, 1):
        own = segments[number::2]
        path = tmp_path / f"{number}.zarr"
        values = make_dense_store(path, 6, views=3, segments=own, failed=failed[number])
        features |= {segment.narration_id: value for segment, value in zip(own, values, strict=True)}
        halves.append(open_store(path))
    joined = join({"video": halves})
    stream = joined.streams["video"]
    names = [segment.narration_id for segment in joined.segments]
    status = {segments[2].narration_id: 3, segments[1].narration_id: 2, segments[11].narration_id: 8}
    assert stream.status.tolist() == [status.get(name, 1) for name in names]
    rows = np.array([row for row in (9, 0, 7, 3, 2, 11, 4) if stream.status[row] == 1])
    views = np.arange(len(rows)) % 3
    tokens, _ = stream.batch(rows, "frame", views)
    expected = np.stack([features[names[row]][view] for row, view in zip(rows, views, strict=True)])
    np.testing.assert_array_equal(tokens, expected)
    assert len(set(stream.store_of[rows])) == 2


def test_a_row_twice_in_a_stream_is_named(tmp_path):
    make_dense_store(tmp_path / "a.zarr")
    store = open_store(tmp_path / "a.zarr")
    with pytest.raises(JoinError, match=r"20 rows do not match.*\n  P01_101_0: is in stream video twice"):
        join({"video": [store, store]})


def test_other_classes_are_refused(tmp_path):
    make_dense_store(tmp_path / "a.zarr")
    make_dense_store(tmp_path / "b.zarr", classes=replace(tiny.CLASSES, groups={}))
    with pytest.raises(DataError, match="its classes differ from those of stream video"):
        join({"video": open_store(tmp_path / "a.zarr"), "audio": open_store(tmp_path / "b.zarr")})
    with pytest.raises(UsageError, match="no streams"):
        join({})


def test_an_empty_batch_over_several_stores_is_empty(tmp_path, monkeypatch):
    make_dense_store(tmp_path / "a.zarr", 12)
    segments = open_store(tmp_path / "a.zarr").segments
    halves = []
    for number in (0, 1):
        monkeypatch.setattr(tiny, "make_segments", lambda *_, part=number: segments[part::2])
        make_dense_store(tmp_path / f"{number}.zarr", 6)
        halves.append(open_store(tmp_path / f"{number}.zarr"))
    stream = join({"video": halves}).streams["video"]
    assert stream.batch([], "frame")[0].shape == (0, 4, 6)
    assert stream.batch([3, 0], "frame")[0].shape == (2, 4, 6)


def test_a_join_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(JoinError([("P01_1_1", "is in stream video twice")])))
    assert error.rows == [("P01_1_1", "is in stream video twice")]
