"""Rows as the stores of a run know them, where these are still there."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from helpers.reported import write_run
from helpers.tiny import CLASSES, make_dense_store, make_segments, make_text_store
from mambavl.cache import open_store
from mambavl.fuse.report.told import Questions, rows_of_stores
from mambavl.fuse.run import read_result


@pytest.fixture
def stores(tmp_path):
    """Two stores of different rows, path -> id."""
    for name, split in (("train.zarr", "train"), ("validation.zarr", "validation")):
        segments = tuple(one for one in make_segments(20) if one.split == split)
        make_dense_store(tmp_path / name, len(segments), segments=segments)
    paths = (tmp_path / "train.zarr", tmp_path / "validation.zarr")
    return {path: open_store(path).store_id for path in paths}


def run_on(stores, folder, **how):
    rows = make_segments(20)[:3]
    scores = {name: rows_of(name) for name in ("verb", "noun")}
    labels = {name: scores[name].argmax(1) for name in scores}
    return read_result(
        write_run(
            folder / "run", CLASSES, [one.narration_id for one in rows], scores, labels, stores=stores, **how
        )
    )


def rows_of(name):
    return np.random.default_rng(0).normal(size=(3, CLASSES.targets[name].count))


def test_all_stores_of_a_stream_tell_what_they_know(stores, tmp_path):
    found, faults = rows_of_stores(run_on(stores, tmp_path))
    assert found == {one.narration_id: one for one in make_segments(20)}
    assert faults == []


def test_a_store_that_is_gone_or_another_one_tells_nothing(stores, tmp_path):
    train, validation = stores
    result = run_on({train: stores[train], validation: "another"}, tmp_path)
    found, _ = rows_of_stores(result)
    assert {one.split for one in found.values()} == {"train"}
    shutil.rmtree(train)
    assert rows_of_stores(result) == ({}, [])


def test_a_damaged_store_is_named_and_costs_the_page_nothing_else(stores, tmp_path):
    result = run_on(stores, tmp_path)
    (next(iter(stores)) / "segments.csv").write_bytes(b"damaged")
    found, [fault] = rows_of_stores(result)
    assert {one.split for one in found.values()} == {"validation"}
    assert "train.zarr" in fault
    assert "segments.csv" in fault


def questions(protocol="oracle", backend="template", version="1", sha256="a", name="verb_question"):
    return Questions(protocol, backend, version, sha256, {name: {}})


def test_questions_are_those_of_a_stream_by_name_protocol_backend_and_version(tmp_path):
    stream = run_on({}, tmp_path, questions="oracle").streams["verb_question"]
    assert questions().are_of(stream)
    for other in ({"protocol": "generic"}, {"backend": "llm"}, {"version": "2"}, {"name": "noun_question"}):
        assert not questions(**other).are_of(stream), other
    assert not questions().are_of(run_on({}, tmp_path / "v", questions="oracle").streams["video"])


def test_a_store_that_is_there_knows_its_question_file(tmp_path):
    stream = run_on({}, tmp_path, questions="oracle").streams["verb_question"]
    make_text_store(tmp_path / "text.zarr", questions_sha256="a")
    store_id = open_store(tmp_path / "text.zarr").store_id
    at = replace(stream, stores=(str(tmp_path / "text.zarr"),), store_ids=(store_id,))
    assert questions(sha256="a").are_of(at)
    assert not questions(sha256="b").are_of(at)
    made_since = replace(at, store_ids=("0" * 64,))
    assert questions(sha256="b").are_of(made_since)  # nothing is known of the one that the run was fed
