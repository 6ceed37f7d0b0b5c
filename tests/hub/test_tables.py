"""The tables of rows: read by pyarrow alone, against the segments and features that they were made from."""

import io

import numpy as np
import pytest

from helpers.tiny import make_dense_store, make_segments, make_text_store
from mambavl.cache import open_store
from mambavl.cache.classes import Classes, Target
from mambavl.configs.errors import UsageError
from mambavl.hub.tables import row_tables


def read(store):
    found = row_tables(open_store(store))
    read_table = pytest.importorskip("pyarrow.parquet").read_table
    return {split: read_table(io.BytesIO(data)).to_pylist() for split, (_, data) in found.items()}


def test_rows_labels_and_norms_are_those_of_the_store(tmp_path):
    features = make_dense_store(tmp_path / "s", failed={3: 4}, short={5: 2})
    found = read(tmp_path / "s")
    segments = make_segments(20)
    assert {split: len(rows) for split, rows in found.items()} == {"train": 12, "validation": 8}
    for number, segment in enumerate(segments):
        [row] = [one for one in found[segment.split] if one["narration_id"] == segment.narration_id]
        assert (row["start"], row["stop"], row["narration"]) == (
            segment.start,
            segment.stop,
            segment.narration,
        )
        assert (row["verb_class"], row["noun_class"]) == (segment.labels["verb"], segment.labels["noun"])
        assert row["all_noun_classes"] == list(segment.all_noun_classes)
        if number == 3:
            assert (row["status"], row["frame_tokens"], row["frame_norm"]) == ("unreadable_video", None, None)
            continue
        steps = 2 if number == 5 else 4
        norm = np.sqrt((features[number, 0, :steps].astype(np.float64) ** 2).sum(-1)).mean()
        assert (row["status"], row["frame_tokens"]) == ("ok", steps)
        assert row["frame_norm"] == pytest.approx(norm, rel=1e-5)


def test_texts_without_tokens_have_no_norm(tmp_path):
    texts = make_text_store(tmp_path / "t")
    found = [row for rows in read(tmp_path / "t").values() for row in rows]
    ids = [segment.narration_id for segment in make_segments(20)]
    for row in found:
        own = texts["verb_question"][ids.index(row["narration_id"])]
        assert row["verb_question_last_hidden_tokens"] == len(own)
        if len(own):
            norm = np.linalg.norm(own, axis=-1).mean()
            assert row["verb_question_last_hidden_norm"] == pytest.approx(norm, rel=1e-5)
        else:
            assert row["verb_question_last_hidden_norm"] is None
    assert any(row["verb_question_last_hidden_norm"] is None for row in found)


def test_splits_have_names_that_a_hub_takes(tmp_path):
    make_dense_store(tmp_path / "s", splits=("fold 1/a", "fold 1-a"))
    found = row_tables(open_store(tmp_path / "s"))
    assert {split: name for split, (name, _) in found.items()} == {"fold_1_a": "rows/fold_1_a.parquet"}


def test_targets_of_several_labels_are_lists(tmp_path):
    classes = Classes({"hand": Target({}, 2, "multi")})
    segments = tuple(
        one.labelled(verb=None, noun=None, hand=(0, 1) if number % 2 else None)
        for number, one in enumerate(make_segments(20))
    )
    make_dense_store(tmp_path / "s", segments=segments, classes=classes)
    found = [row for rows in read(tmp_path / "s").values() for row in rows]
    assert {str(row["hand_classes"]) for row in found} == {"[0, 1]", "None"}


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    make_dense_store(tmp_path / "s")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[hub\]'"):
        row_tables(open_store(tmp_path / "s"))
