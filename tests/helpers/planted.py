"""Stores with a signal whose place is known: in the video alone, in the text alone, in neither without the
other.
"""

from dataclasses import replace

import numpy as np

from helpers.tiny import make_dense_store, make_segments
from mambavl.cache.classes import Classes, Target
from mambavl.configs import validate
from mambavl.fuse.recipe import Recipe

# seen: the video's bit; read: the text's; both: whether the two differ
TARGETS = ("seen", "read", "both")
CLASSES = Classes({name: Target({0: "no", 1: "yes"}, 2) for name in TARGETS})
SHAPES = {"video": (4, 6), "words": (5, 5)}  # tokens of a row, their channels


def make_planted_stores(folder, rows=192):
    """video.zarr and words.zarr; every fourth row has the same two bits, half of the rows are trained on."""
    rng = np.random.default_rng(0)
    segments = []
    for number, segment in enumerate(make_segments(rows)):
        seen, read = number // 2 % 2, number % 2
        labels = {"seen": seen, "read": read, "both": seen ^ read}
        split = ("train", "validation")[number // 4 % 2]
        segments.append(replace(segment, labels=labels, split=split))
    for name, bit in (("video", "seen"), ("words", "read")):
        steps, width = SHAPES[name]
        centres = rng.normal(size=(2, width))
        bits = [segment.labels[bit] for segment in segments]
        features = centres[bits][:, None, None] + 0.1 * rng.normal(size=(rows, 1, steps, width))
        make_dense_store(
            folder / f"{name}.zarr",
            rows,
            width=width,
            steps=steps,
            segments=tuple(segments),
            classes=CLASSES,
            features=features.astype(np.float32),
        )
    return folder


def planted_recipe(folder, head, own):
    """own: the head's own section, {} for none."""
    words = {"store": str(folder / "words.zarr"), "modality": "text"}
    raw = {
        "streams": {"video": {"store": str(folder / "video.zarr")}, "words": words},
        "head": {"name": head, "d_model": 16, "dropout": 0.0},
        "train": {"epochs": 30, "batch_size": 16, "lr": 1e-2, "label_smoothing": 0.0, "eval_every": 30},
        **own,
    }
    return validate(raw, Recipe, "planted.toml")
