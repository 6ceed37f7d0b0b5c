"""Stores in which some rows have no picture, no sound or neither, and a recipe over them."""

from pathlib import Path

from helpers.tiny import ROWS, make_dense_store, make_text_store, tiny_recipe
from mambavl.configs import set_key, validate
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.sources import StreamSource


def make_holed_stores(folder: Path) -> Path:
    """video.zarr, audio.zarr and text.zarr of 48 rows: 7 and 20 have no soundtrack; 5 has a missing video, 20
    an empty window. Rows 0-5, 12-17, ... are trained on, the others scored.
    """
    make_dense_store(folder / "video.zarr", ROWS, failed={5: 3, 20: 2}, class_token=True)
    make_dense_store(folder / "audio.zarr", ROWS, failed={7: 8, 20: 8}, class_token=True)
    make_text_store(folder / "text.zarr", ROWS)
    return folder


def holed_sources(folder, names=("video", "audio", "verb_question"), **options):
    """options: of the streams that are not text."""
    found = {}
    for name in names:
        if name == "verb_question":
            found[name] = StreamSource(store=folder / "text.zarr", level="verb_question/last_hidden")
        else:
            found[name] = StreamSource(store=folder / f"{name}.zarr", **options)
    return found


def holed_recipe(folder, settings=(), names=("video", "audio"), title="holed", **train_keys):
    """Rows are masked, and the one that has nothing is tolerated; settings: (key, value) of others."""
    raw = tiny_recipe(folder, text=False, title=title, **train_keys).model_dump(
        mode="json", exclude_none=True
    )
    raw["streams"] = {name: {"store": str(folder / f"{name}.zarr")} for name in names}
    for key, value in (("data.missing", "mask"), ("data.allow_missing", 1), *settings):
        set_key(raw, key, value)
    return validate(raw, Recipe, "holed.toml")
