"""Stores that fit the rows of the paper's tables, tiny and made up."""

from pathlib import Path

import numpy as np

from helpers.tiny import CLASSES, make_segments
from mambavl.cache.shards import Level
from mambavl.cache.spec import BoxesRecipe, EncoderIdentity, FeatureRecipe, QuestionsProvenance, Spec
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.reproduce.inputs import Features
from mambavl.reproduce.rows import QUESTIONS

ROWS, WIDTH, STEPS, PATCHES, WORDS = 48, 12, 4, 3, 5
TINY = ("train.epochs=1", "train.warmup_epochs=0", f"head.d_model={WIDTH}", "train.batch_size=8")


def spec_of(wanted: Features, *, state: str = "pretrained", **changes) -> Spec:
    """The spec of a store that fits. changes: of its recipe."""
    encoder = EncoderIdentity(
        name=wanted.encoder, state="random" if wanted.is_random else state, sha256="a" * 64, width=WIDTH
    )
    if wanted.kind == "text":
        recipe = {"questions": QuestionsProvenance(protocol=str(wanted.protocol), backend="template")}
    else:
        rule = wanted.rule or "segment_uniform"
        recipe = {"sampling": {"task": wanted.task, "rule": rule}}
        recipe["boxes"] = BoxesRecipe(source="hoa", transform="correct") if wanted.boxes else None
    return Spec(
        kind=wanted.kind,
        recipe=FeatureRecipe(**{"encoder": encoder, **recipe, **changes}),
        levels=tuple(_level(wanted, name) for name in wanted.levels),
        frame_pts=(1, STEPS) if wanted.kind == "video" else (),
        rows_per_group=16,
    )


def _level(wanted: Features, name: str) -> Level:
    if wanted.kind == "text" and not name.endswith("/pooled"):
        return Level(name, "ragged", (WIDTH,), "float32", capacity=256)
    tokens = {"frame": STEPS, "patch": STEPS * PATCHES}.get(name)
    if tokens is None:
        return Level(name, "dense", (1, WIDTH), "float32")
    return Level(name, "dense", (1, tokens, WIDTH), "float32", steps=STEPS)


def make_store(path: Path, wanted: Features, *, splits=("train", "validation"), **changes) -> Path:
    """A finished store of 48 rows, its features noise around a centre for each verb and noun. changes: as of
    `spec_of`.
    """
    segments, dice = make_segments(ROWS, splits), np.random.default_rng(len(path.name))
    spec, centres = spec_of(wanted, **changes), dice.normal(size=(2, 4, WIDTH))
    writer = StoreWriter(path, spec, segments, CLASSES, {})
    for group in writer.pending():
        index = list(writer.layout.rows_of(group))
        labels = [(segments[row].labels["verb"], segments[row].labels["noun"]) for row in index]
        middle = np.stack([centres[0, verb] + centres[1, noun] for verb, noun in labels]).astype(np.float32)
        levels = {}
        for level in spec.levels:
            if level.kind == "ragged":
                levels[level.name] = np.repeat(middle, WORDS, 0)
            else:
                noise = dice.normal(size=(len(index), *level.shape)).astype(np.float32) / 10
                levels[level.name] = noise + middle.reshape(-1, *[1] * (noise.ndim - 2), WIDTH)
        lengths = {"length": np.full(len(index), STEPS)}
        if wanted.kind == "text":
            lengths = {f"{name}/length": np.full(len(index), WORDS) for name in QUESTIONS}
        writer.commit(
            group,
            RowGroup(
                levels=levels,
                lengths=lengths,
                status=np.ones(len(index), np.uint8),
                flags=np.zeros(len(index), np.uint8),
                frame_pts=np.zeros((len(index), 1, STEPS)) if wanted.kind == "video" else None,
            ),
        )
    writer.finalize()
    return path
