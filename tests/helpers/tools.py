"""A data set that is not EK100's: a tool, a grip and a place a row, any number of scenes; stores of it."""

from dataclasses import replace
from pathlib import Path

from helpers.tiny import ROWS, make_dense_store, make_segments, tiny_recipe
from mambavl.cache.classes import Classes, Derived, RowGroup, Target
from mambavl.configs import set_key, validate
from mambavl.fuse.recipe import Recipe

CLASSES = Classes(
    targets={
        "tool": Target({0: "knife", 1: "fork", 2: "spoon"}, 3, sets={"rare": (2,)}),
        "grip": Target({0: "firm", 1: "loose", 2: "both", 3: "none"}, 4),
        "place": Target({0: "table", 1: "sink"}, 2),
        "scene": Target({0: "indoors", 1: "night", 2: "wet"}, 3, "multi", {"rare": (1,)}),
    },
    derived={"use": Derived(("tool", "grip"))},
    groups={"far": RowGroup("participant_id", ("P02",))},
)


def tool_segments(rows=ROWS, splits=("train", "validation")):
    """Row 3 has a tool alone, row 9 a scene alone, row 10 (scored) no label at all."""
    found = []
    for row, segment in enumerate(make_segments(rows, splits)):
        scene = tuple(c for c in range(3) if (row + c) % 3 < (row % 2) + 1)
        labels = {"tool": row % 3, "grip": row % 6 % 4, "place": row % 5 % 2, "scene": scene}
        kept = {3: ("tool",), 9: ("scene",), 10: ()}.get(row, labels)
        found.append(replace(segment, labels={name: labels[name] for name in kept}))
    return tuple(found)


def make_tool_stores(folder: Path, **options) -> Path:
    """video.zarr; rows 0-5, 12-17, ... are trained on, the others scored."""
    make_dense_store(folder / "video.zarr", ROWS, segments=tool_segments(), classes=CLASSES, **options)
    return folder


def tool_recipe(folder: Path, *settings, **train_keys) -> Recipe:
    """settings: (key, value) to set."""
    recipe = tiny_recipe(folder, text=False, title="tools", **train_keys)
    raw = recipe.model_dump(mode="json", exclude_none=True)
    for key, value in settings:
        set_key(raw, key, value)
    return validate(raw, Recipe, "tools.toml")
