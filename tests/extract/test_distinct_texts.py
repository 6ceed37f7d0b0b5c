"""The texts of a store: each encoded once, in batches that depend on nothing but the texts."""

import random
import tempfile

import numpy as np
import pytest
import torch

from mambavl.cache import fsops
from mambavl.configs.errors import DataError, Interrupted
from mambavl.extract.distinct_texts import DistinctTexts
from mambavl.extract.encoders.base import TextEncoder
from mambavl.extract.options import TextExtraction

WIDTH = 3


class Batches(TextEncoder):
    """Keeps what it is asked for; a text's features tell its tokens and its batch."""

    width = WIDTH

    def __init__(self):
        super().__init__()
        self.seen = []  # the texts of each batch

    def encode(self, ids, levels):
        self.seen.append([tuple(tokens) for tokens in ids])
        mark = float(sum(map(sum, ids)))
        last = [torch.tensor([[token, mark, 0.1] for token in tokens]).reshape(-1, WIDTH) for tokens in ids]
        found = {"last_hidden": last, "pooled": [-states[:1] for states in last]}
        return {level: found[level] for level in levels}


def texts_of(count: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Different texts of 1 to 9 tokens."""
    drawn = random.Random(seed)
    texts = {tuple(drawn.randrange(50) for _ in range(drawn.randint(1, 9))) for _ in range(2 * count)}
    return sorted(texts)[:count]


@pytest.fixture
def opened():
    """Makes the texts of a store, and closes their files behind the test."""
    made = []

    def open_texts(texts, **options):
        levels = options.pop("levels", ("last_hidden",))
        should_stop = options.pop("should_stop", lambda: False)
        settings = TextExtraction(encoder="x", levels=levels, **{"batch_texts": 4, **options})
        made.append(DistinctTexts(Batches(), texts, settings, should_stop))
        return made[-1]

    yield open_texts
    for distinct in made:
        distinct.close()


def test_each_text_is_encoded_once_by_length_and_nothing_is_padded_needlessly(opened):
    """The counts are those of a formula: texts sorted by length, every batch as wide as its longest."""
    texts = texts_of(30)
    distinct = opened(texts * 3)
    for first in range(0, 90, 7):
        distinct.features((texts * 3)[first : first + 7])
    seen = distinct.encoder.seen
    lengths = sorted(map(len, texts))
    assert sorted(text for batch in seen for text in batch) == sorted(texts)
    assert len(seen) == 8  # 30 texts by fours
    padded = sum(len(batch) * max(map(len, batch)) for batch in seen)
    assert padded == sum(len(part) * part[-1] for part in (lengths[i : i + 4] for i in range(0, 30, 4)))
    assert padded < 30 * 9


def test_what_a_text_becomes_depends_on_the_texts_of_the_store_alone(opened):
    """Not on the order of the rows that ask, on how many ask at once, nor on what was asked before."""
    texts = [*texts_of(41), ()]
    levels = ("last_hidden", "pooled")
    whole = opened(texts, levels=levels).features(texts)
    for seed in range(5):
        order = random.Random(seed).sample(range(len(texts)), len(texts))
        distinct = opened([texts[i] for i in order], levels=levels)
        for first in range(0, len(order), 1 + 3 * seed):
            rows = order[first : first + 1 + 3 * seed]
            found = distinct.features([texts[row] for row in rows])
            for level in levels:
                for row, values in zip(rows, found[level], strict=True):
                    assert values.tobytes() == whole[level][row].tobytes()


def test_a_batch_is_encoded_when_one_of_its_texts_is_first_asked_for(opened):
    texts = [(length,) * length for length in range(1, 13)]
    distinct = opened(texts)
    assert distinct.encoder.seen == []
    distinct.features([texts[5], texts[6]])
    assert distinct.encoder.seen == [texts[4:8]]
    distinct.features([texts[11], texts[4]])
    assert distinct.encoder.seen == [texts[4:8], texts[8:12]]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_features_are_kept_as_they_are_stored(opened, dtype):
    distinct = opened([(), (70_000, 2), (5,)], levels=("pooled", "last_hidden"), dtype=dtype)
    for _ in range(2):
        found = distinct.features([(5,), (), (70_000, 2)])
        large = np.inf if dtype == "float16" else 70_000
        mark = np.inf if dtype == "float16" else 70_007
        point = np.dtype(dtype).type(0.1)
        assert {values.dtype for values in found["last_hidden"]} == {np.dtype(dtype)}
        assert found["last_hidden"][2].tolist() == [[large, mark, point], [2, mark, point]]
        assert found["pooled"][0].tolist() == [[-5, -mark, -point]]
        assert [len(values) for values in found["last_hidden"]] == [1, 0, 2]
        assert [len(values) for values in found["pooled"]] == [1, 0, 1]
    assert len(distinct.encoder.seen) == 1


def test_a_stop_is_seen_between_two_batches(opened):
    texts = texts_of(12)
    answers = iter([False, True, False])
    distinct = opened(texts, should_stop=lambda: next(answers))
    with pytest.raises(Interrupted, match="resumes"):
        distinct.features(texts)
    assert len(distinct.encoder.seen) == 1
    distinct.features([distinct.texts[0]])  # of the batch that was done
    assert len(distinct.encoder.seen) == 1


def test_a_text_of_another_store_is_an_error(opened):
    with pytest.raises(KeyError):
        opened([(1,), (2,)]).features([(3,)])


def test_a_temporary_folder_without_room_is_refused_before_anything_is_encoded(opened, monkeypatch):
    texts = [(1, 2), (3,), ()]  # three vectors, and two of `pooled`, in float16
    needed = (3 + 2) * WIDTH * 2
    monkeypatch.setattr(fsops, "free_bytes", lambda folder: needed)
    opened(texts, levels=("last_hidden", "pooled"))
    monkeypatch.setattr(fsops, "free_bytes", lambda folder: needed - 1)
    with pytest.raises(DataError, match=rf"takes up to {needed} bytes, and {needed - 1} are free; .*TMPDIR"):
        opened(texts, levels=("last_hidden", "pooled"))


def test_a_disk_that_becomes_full_is_named(opened, monkeypatch):
    def full(**_):
        return open("/dev/full", "r+b", buffering=0)

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", full)
        distinct = opened([(1,)])
    with pytest.raises(DataError, match=r"No space left on device.*TMPDIR"):
        distinct.features([(1,)])
