"""The stores of a stream: opened, compared, refused."""

import pytest
import torch

from helpers.tiny import ROWS, make_dense_store, make_history_store, make_segments
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.data import DataConfig, FeatureData
from mambavl.fuse.sources import StreamSource, last_tokens, open_stores

CPU = torch.device("cpu")


def test_stores_of_different_recipes_never_feed_one_stream(stores, tmp_path):
    make_dense_store(tmp_path / "other.zarr", ROWS, recipe={"encoder": {"name": "other", "width": 6}})
    source = StreamSource(store=(stores / "video.zarr", tmp_path / "other.zarr"))
    with pytest.raises(DataError, match=r"never mix:\n  encoder\.name: 'fake' -> 'other'"):
        FeatureData({"video": source}, DataConfig())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"width": 7}, "width: 6 -> 7"),
        ({"dtype": "float16"}, "dtype: 'float32' -> 'float16'"),
        ({"steps": 5}, "steps: 4 -> 5"),
    ],
    ids=["width", "dtype", "steps"],
)
def test_halves_of_a_stream_whose_features_differ_in_shape_never_mix(stores, tmp_path, changed, message):
    make_dense_store(tmp_path / "other.zarr", ROWS, **changed)
    source = StreamSource(store=(stores / "video.zarr", tmp_path / "other.zarr"))
    with pytest.raises(DataError, match=f"never mix:\n(.*\n)*.*{message}"):
        FeatureData({"video": source}, DataConfig())


def test_a_stream_opens_every_store_that_it_names(stores, tmp_path):
    make_dense_store(tmp_path / "more.zarr", 20)
    source = StreamSource(store=(stores / "video.zarr", tmp_path / "more.zarr"))
    opened = open_stores("video", source, "mmap", "open", CPU)
    assert [store.path.name for store in opened] == ["video.zarr", "more.zarr"]


def test_a_level_that_the_store_lacks_is_named(stores):
    source = StreamSource(store=stores / "video.zarr", level="patch")
    with pytest.raises(
        UsageError, match=r"^stream video: .*video\.zarr: there is no level 'patch'; this store"
    ):
        open_stores("video", source, "mmap", "open", CPU)


@pytest.mark.parametrize("store", [[], "", ["a", ""], 3])
def test_what_is_not_the_path_of_a_store_is_refused(store):
    with pytest.raises(ValueError, match="expected the path of a store"):
        StreamSource(store=store)


def test_a_store_that_is_not_there_is_named_with_its_stream_and_the_key_to_set(stores, tmp_path):
    sources = {
        "video": StreamSource(store=stores / "video.zarr"),
        "hands": StreamSource(store=tmp_path / "h"),
    }
    with pytest.raises(DataError) as error:
        FeatureData(sources, DataConfig())
    assert str(error.value).startswith(f"stream hands: {tmp_path / 'h'}: no such store; ")
    assert "--set streams.hands.store=PATH" in str(error.value)


def test_a_store_is_open_once_for_all_that_is_read_of_it(stores):
    opened = {}
    sources = {name: StreamSource(store=stores / "video.zarr") for name in ("video", "again")}
    one, other = (
        FeatureData(sources, DataConfig(resident="ram", hold_out=part, hold_out_by="video"), opened=opened)
        for part in ("0/2", "1/2")
    )
    assert len(opened) == 1
    found = {id(data.streams[name].stores[0]) for data in (one, other) for name in sources}
    assert len(found) == 1
    assert set(one.train) != set(other.train)
    FeatureData(sources, DataConfig(), opened=opened)  # kept otherwise
    assert len(opened) == 2


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_the_last_tokens_are_those_before_each_rows_end(count):
    """Against slices of each row alone; what lies behind a row's end is not among them."""
    lengths = torch.tensor([0, 1, 4, 6])
    tokens = torch.arange(4 * 6 * 2, dtype=torch.float16).reshape(4, 6, 2) + 1
    found, kept = last_tokens(tokens, lengths, count)
    assert found.dtype == torch.float16
    for row, length in enumerate(lengths.tolist()):
        expected = tokens[row, max(0, length - count) : length]
        assert kept[row] == len(expected)
        assert torch.equal(found[row, : len(expected)], expected)
        assert not found[row, len(expected) :].any()


def test_a_stream_read_from_its_last_tokens_is_that_of_a_store_with_fewer(tmp_path):
    segments = make_segments(ROWS)
    for last in (8, 3):
        make_history_store(tmp_path / f"{last}.zarr", segments, last=last)
    read = []
    for name, last in (("8", 3), ("3", None), ("8", None)):
        source = StreamSource(store=tmp_path / f"{name}.zarr", level="past/actions", last=last)
        data = FeatureData({"past": source}, DataConfig())
        read.append(data.batch(data.train)["past"])
    (tokens, lengths), (fewer, fewer_lengths), (every, _) = read
    assert torch.equal(tokens, fewer)
    assert torch.equal(lengths, fewer_lengths)
    assert every.shape[1] > tokens.shape[1] == 3
