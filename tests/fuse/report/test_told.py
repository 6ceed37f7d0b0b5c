"""Rows as the stores of a run know them, where these are still there."""

import shutil

import pytest

from helpers.reported import write_run
from helpers.tiny import CLASSES, make_dense_store, make_segments
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


def run_on(stores, folder):
    rows = make_segments(20)[:3]
    scores = {name: rows_of(name) for name in ("verb", "noun")}
    labels = {name: scores[name].argmax(1) for name in scores}
    return read_result(
        write_run(folder / "run", CLASSES, [one.narration_id for one in rows], scores, labels, stores=stores)
    )


def rows_of(name):
    import numpy as np

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


def test_questions_are_those_of_a_store_by_protocol_backend_and_version():
    found = Questions("oracle", "template", "3", {})
    assert found.are_of("oracle", "template", "3")
    for other in (("generic", "template", "3"), ("oracle", "llm", "3"), ("oracle", "template", "4")):
        assert not found.are_of(*other)
