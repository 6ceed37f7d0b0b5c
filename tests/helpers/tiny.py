"""Tiny segments, finished stores with known contents, and a small recipe over them."""

from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from mambavl.cache.classes import verb_noun_classes
from mambavl.cache.rows import Segment
from mambavl.cache.shards import Level
from mambavl.cache.spec import (
    EncoderIdentity,
    FeatureRecipe,
    HistoryRecipe,
    Inputs,
    QuestionsProvenance,
    Spec,
)
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs import validate
from mambavl.fuse.ragged import Ragged
from mambavl.fuse.recipe import Recipe


def make_segments(count: int, splits: tuple[str, ...] = ("train", "validation")) -> tuple[Segment, ...]:
    """Rows in canonical order; blocks of six belong to one split, so that each holds every class."""
    segments = [
        Segment(
            narration_id=f"P01_{101 + i // 10}_{i % 10}",
            participant_id="P01" if i // 6 % 4 < 3 else "P02",
            video_id=f"P01_{101 + i // 10}",
            narration_timestamp="00:00:01.000",
            start=float(i % 10) * 2,
            stop=float(i % 10) * 2 + 1.5,
            start_frame=1,
            stop_frame=75,
            split=splits[i // 6 % len(splits)],
            narration=f"cut onion {i}",
            verb="cut",
            noun="onion",
            all_nouns=("onion",),
            all_noun_classes=(i % 4,),
            labels={"verb": i % 3, "noun": i % 4},
        )
        for i in range(count)
    ]
    return tuple(sorted(segments, key=lambda s: (s.video_id, s.start, s.narration_id)))


CLASSES = verb_noun_classes(
    verbs={0: "cut", 1: "wash", 2: "open"},
    nouns={0: "onion", 1: "cup", 2: "pan", 3: "lid"},
    num_verbs=3,
    num_nouns=4,
    tail_verbs=(2,),
    tail_nouns=(3,),
    unseen_participants=("P02",),
)


def make_dense_store(
    path: Path,
    rows: int = 20,
    *,
    group_rows: int = 8,
    width: int = 6,
    steps: int = 4,
    views: int = 1,
    dtype: str = "float32",
    compressor: str = "none",
    recipe=None,
    failed=None,
    short=None,
    broken=None,
    splits=None,
    class_token: bool = False,
    segments=None,
    classes=CLASSES,
    features=None,
):
    """A finished video store of frame features that depend on the labels, or of those given; returns them,
    (rows, views, steps, width).

    class_token: with a level `cls`, the mean plus 1. failed: row -> status; short: row -> steps, then NaN.
    broken: (row, view, step) -> a value that all its channels have.
    """
    segments = segments or make_segments(rows, splits or ("train", "validation"))
    level = Level("frame", "dense", (views, steps, width), dtype, steps=steps, compressor=compressor)
    cls = Level("cls", "dense", (views, width), dtype, compressor=compressor)
    rng = np.random.default_rng(0)
    centres_v, centres_n = rng.normal(size=(3, width)), rng.normal(size=(4, width))
    if features is None:
        drawn = [
            rng.normal(size=(views, steps, width)) * 0.1
            + centres_v[s.labels.get("verb", s.labels.get("tool", 0))]
            + centres_n[s.labels.get("noun", s.labels.get("grip", 0))]
            for s in segments
        ]
        features = np.stack(drawn).astype(np.float32)
    lengths = np.array([(short or {}).get(row, steps) for row in range(rows)])
    features[np.broadcast_to((np.arange(steps) >= lengths[:, None])[:, None], features.shape[:3])] = np.nan
    for where, value in (broken or {}).items():
        features[where] = value
    fake = {"encoder": {"name": "fake", "state": "random", "sha256": "0" * 64, "width": width}}
    spec = Spec(
        kind="video",
        recipe=FeatureRecipe.from_dict(recipe or fake),
        levels=(level, cls) if class_token else (level,),
        frame_pts=(1, steps),
        rows_per_group=group_rows,
    )
    writer = StoreWriter(path, spec, segments, classes, {})
    for group in writer.pending():
        index = list(writer.layout.rows_of(group))
        count = len(index)
        status = np.array([(failed or {}).get(row, 1) for row in index], np.uint8)
        writer.commit(
            group,
            RowGroup(
                levels={"frame": features[index]}
                | ({"cls": np.nan_to_num(features[index]).mean(2) + 1} if class_token else {}),
                lengths={"length": lengths[index]},
                status=status,
                flags=np.zeros(count, np.uint8),
                frame_pts=np.zeros((count, 1, steps)),
                reasons={row: "made so" for row in range(count) if status[row] != 1},
            ),
        )
    writer.finalize()
    return features


def make_text_store(
    path: Path,
    rows: int = 20,
    *,
    group_rows: int = 8,
    width: int = 5,
    protocol: str = "oracle",
    compressor: str = "none",
    questions_sha256: str | None = None,
):
    """A finished text store with two questions a row, ragged, some of them empty."""
    segments = make_segments(rows)
    rng = np.random.default_rng(1)
    questions = ("verb_question", "noun_question")
    texts = {
        q: [rng.normal(size=(rng.integers(0, 9), width)).astype(np.float32) for _ in segments]
        for q in questions
    }
    levels = [
        Level(f"{q}/last_hidden", "ragged", (width,), "float32", capacity=64, compressor=compressor)
        for q in questions
    ]
    encoder = EncoderIdentity(name="fake-text", state="random", sha256="1" * 64, width=width)
    provenance = QuestionsProvenance(protocol=protocol, backend="template", prompt_version="test")
    spec = Spec(
        kind="text",
        recipe=FeatureRecipe(encoder=encoder, questions=provenance),
        inputs=Inputs(questions_sha256=questions_sha256),
        levels=tuple(levels),
        rows_per_group=group_rows,
    )
    writer = StoreWriter(path, spec, segments, CLASSES, {})
    for group in writer.pending():
        index = list(writer.layout.rows_of(group))
        writer.commit(
            group,
            RowGroup(
                levels={f"{q}/last_hidden": np.concatenate([texts[q][i] for i in index]) for q in questions},
                lengths={f"{q}/length": np.array([len(texts[q][i]) for i in index]) for q in questions},
                status=np.ones(len(index), np.uint8),
                flags=np.zeros(len(index), np.uint8),
            ),
        )
    writer.finalize()
    return texts


def make_history_store(
    path: Path,
    segments: tuple[Segment, ...],
    *,
    last: int = 8,
    tau: float = 0.5,
    protocol: str = "oracle",
    classes=CLASSES,
    told: tuple[Segment, ...] | None = None,
) -> list[list[tuple[int, int]]]:
    """A finished store of past classes, and what it holds: (verb, noun) of each row's past, oldest first.

    told: the rows as whoever tells of the past knows them.
    """
    verbs, nouns = (classes.targets[name].count for name in ("verb", "noun"))
    pasts = []
    for row in segments:
        ended = [
            one for one in told or segments if one.video_id == row.video_id and one.stop <= row.start - tau
        ]
        pasts.append(sorted(ended, key=lambda one: one.stop)[-last:])
    width = verbs + nouns + 1
    capacity = 64 * -(-8 * last // 64)
    spec = Spec(
        kind="history",
        recipe=FeatureRecipe(
            encoder=EncoderIdentity(
                name="classes", state="none", width=width - 1, details={"verb": verbs, "noun": nouns}
            ),
            history=HistoryRecipe(
                protocol=protocol, last=last, tau_a=tau, age="log(1 + seconds)", order="time"
            ),
        ),
        levels=(Level("past/actions", "ragged", (width,), "float32", capacity=capacity),),
        rows_per_group=8,
    )
    writer = StoreWriter(path, spec, segments, classes, {})
    for group in writer.pending():
        index = list(writer.layout.rows_of(group))
        tokens = [(row, one) for row in index for one in pasts[row]]
        values = np.zeros((len(tokens), width), np.float32)
        for place, (row, one) in enumerate(tokens):
            values[place, [one.labels["verb"], verbs + one.labels["noun"]]] = 1
            values[place, -1] = np.log1p(segments[row].start - tau - one.stop)
        counts = np.array([len(pasts[row]) for row in index])
        writer.commit(
            group,
            RowGroup(
                levels={"past/actions": values},
                lengths={"past/length": counts},
                status=np.where(counts, 1, 2).astype(np.uint8),
                flags=np.zeros(len(index), np.uint8),
                reasons=dict.fromkeys(np.flatnonzero(counts == 0).tolist(), "first of its video"),
            ),
        )
    writer.finalize()
    return [[(one.labels["verb"], one.labels["noun"]) for one in past] for past in pasts]


ROWS = 48  # of the stores that runs are made from


def tiny_recipe(stores, *, text=True, head="mambavl", title="tiny", **train_keys):
    streams = {"video": {"store": str(stores / "video.zarr"), "level": "frame"}}
    if text:
        for question in ("verb_question", "noun_question"):
            streams[question] = {"store": str(stores / "text.zarr"), "level": f"{question}/last_hidden"}
    own = {  # what each head alone has
        "mambavl": {"fusion": {"d_state": 4}, "train": {"lr_ssm": 1e-2}},
        "bidirectional": {"fusion": {"d_state": 4}, "train": {"lr_ssm": 1e-2}},
        "cross": {"fusion": {"d_state": 4}, "cross": {"gated": True}, "train": {"lr_ssm": 1e-2}},
        "mixture": {"fusion": {"d_state": 4}, "mixture": {"matrices": 2}, "train": {"lr_ssm": 1e-2}},
        "deep": {"fusion": {"d_state": 4}, "deep": {"layers": 3}, "train": {"lr_ssm": 1e-2}},
        "mlp": {"train": {}},
        "transformer": {"transformer": {"depth": 2, "num_heads": 2, "max_positions": 32}, "train": {}},
        "attentive": {"attentive": {"depth": 2, "num_heads": 2, "max_positions": 32}, "train": {}},
    }[head]
    warmup = 0 if train_keys.get("epochs") == 1 else 1
    data = {
        "title": title,
        "streams": streams,
        "head": {"name": head, "d_model": 16, "dropout": 0.1},
        **own,
        "train": {
            "epochs": 4,
            "batch_size": 8,
            "lr": 1e-2,
            "warmup_epochs": warmup,
            **own["train"],
            **train_keys,
        },
    }
    return validate(data, Recipe, "tiny.toml")


def weights(run):
    return load_file(run / "model.safetensors")


def read_rows(opened, rows):
    """Frame features of some rows, for processes that were spawned: they find this module by its name, and no
    test module.
    """
    return opened.batch(rows, "frame")[0].numpy()


def unfinished(path: Path) -> tuple[StoreWriter, RowGroup]:
    level = Level("frame", "dense", (1, 4, 6), "float32", steps=4)
    spec = Spec(kind="video", levels=(level,), frame_pts=(1, 4), rows_per_group=8)
    group = RowGroup(
        levels={"frame": np.zeros((8, 1, 4, 6), np.float32)},
        lengths={"length": np.full(8, 4)},
        status=np.ones(8, np.uint8),
        flags=np.zeros(8, np.uint8),
        frame_pts=np.zeros((8, 1, 4)),
    )  # fmt: skip
    return StoreWriter(path, spec, make_segments(20), CLASSES, {}), group


def shortened(group: RowGroup, rows: int) -> RowGroup:
    return RowGroup(
        levels={name: values[:rows] for name, values in group.levels.items()},
        lengths={name: values[:rows] for name, values in group.lengths.items()},
        status=group.status[:rows],
        flags=group.flags[:rows],
        frame_pts=group.frame_pts[:rows],
    )


def dense_rows() -> type[Ragged]:
    """`Ragged` that leaves out nothing: every row and every step is computed, as a plain loop would."""

    class Dense(Ragged):
        @classmethod
        def of(cls, tokens, lengths):
            return cls(lengths, tokens.shape[1], None, None, None)

    return Dense
