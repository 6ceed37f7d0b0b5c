"""A store as a table of vectors, read by pyarrow alone."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from helpers.exports import FAILED
from helpers.tiny import ROWS, make_dense_store, make_segments, make_text_store
from helpers.tools import CLASSES, tool_segments
from mambavl.cache import open_store
from mambavl.cache.interchange.export import export_store
from mambavl.cache.pool import pool
from mambavl.configs.errors import UsageError

parquet = pytest.importorskip("pyarrow.parquet", reason="it is the other reader")


def pooled(tmp_path, source, name="clip.zarr"):
    pool(open_store(source), tmp_path / name, "clip")
    return open_store(tmp_path / name)


def test_rows_vectors_and_labels_are_those_of_the_store(tmp_path):
    features = make_dense_store(tmp_path / "s.zarr", views=2, failed=FAILED)
    store = pooled(tmp_path, tmp_path / "s.zarr")
    assert export_store(store, tmp_path / "t.parquet", "parquet") == 17
    table = parquet.read_table(tmp_path / "t.parquet")
    assert table.schema.field("vector").type.list_size == 6
    rows = table.to_pylist()
    assert [row["narration_id"] for row in rows] == [segment.narration_id for segment in make_segments(20)]
    for place, (row, segment) in enumerate(zip(rows, make_segments(20), strict=True)):
        assert (row["start"], row["stop"], row["split"]) == (segment.start, segment.stop, segment.split)
        assert (row["verb_class"], row["verb_label"]) == (place % 3, ["cut", "wash", "open"][place % 3])
        assert row["narration"] == f"cut onion {place}"
        if place in FAILED:
            assert row["vector"] is None
            assert row["status"] != "ok"
        else:
            np.testing.assert_allclose(row["vector"], features[place].mean((0, 1)), rtol=1e-5)
    said = json.loads(table.schema.metadata[b"mambavl"])
    assert (said["store_id"], said["level"], said["views"]) == (store.store_id, "clip", 2)


def test_a_row_may_have_several_labels_none_or_no_label_at_all(tmp_path):
    segments = list(tool_segments())
    segments[0] = replace(segments[0], labels={**segments[0].labels, "scene": ()})
    make_dense_store(tmp_path / "video.zarr", ROWS, segments=tuple(segments), classes=CLASSES)
    export_store(pooled(tmp_path, tmp_path / "video.zarr"), tmp_path / "t.parquet", "parquet")
    rows = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    for row, segment in zip(rows, segments, strict=True):
        for name in ("tool", "grip", "place"):
            assert row[f"{name}_class"] == segment.labels.get(name)
        scene = segment.labels.get("scene")
        assert row["scene_classes"] == (None if scene is None else list(scene))
        names = ["indoors", "night", "wet"]
        assert row["scene_label"] == (None if scene is None else [names[one] for one in scene])
    assert rows[0]["scene_classes"] == rows[0]["scene_label"] == []
    assert {row["scene_classes"] is None for row in rows} == {True, False}


def test_a_table_has_a_row_group_for_each_of_the_store(tmp_path):
    """So that neither writing nor reading holds all of it."""
    make_dense_store(tmp_path / "s.zarr", group_rows=8)
    store = pooled(tmp_path, tmp_path / "s.zarr")
    export_store(store, tmp_path / "t.parquet", "parquet")
    assert parquet.ParquetFile(tmp_path / "t.parquet").num_row_groups == store.layout.groups


def test_levels_of_several_vectors_are_refused_and_nothing_is_left(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    make_text_store(tmp_path / "t.zarr")
    for name, level in (("s.zarr", "frame"), ("t.zarr", "verb_question/last_hidden")):
        with pytest.raises(UsageError, match=r"has several vectors a row, and parquet takes one.*--to clip"):
            export_store(open_store(tmp_path / name), tmp_path / "t.parquet", "parquet", level=level)
    assert not (tmp_path / "t.parquet").exists()


def test_without_pyarrow_what_to_install_is_said(tmp_path, monkeypatch):
    make_dense_store(tmp_path / "s.zarr")
    store = pooled(tmp_path, tmp_path / "s.zarr")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[parquet\]'"):
        export_store(store, tmp_path / "t.parquet", "parquet")
