"""Runs whose scores can be mixed: counts of past actions and heads on them, with their twins that hold
training kitchens out.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.dataset import COLUMNS, stamp, write
from helpers.tiny import ROWS, make_history_store, make_segments
from mambavl.cache.classes import verb_noun_classes
from mambavl.cache.rows import Segment
from mambavl.configs import validate
from mambavl.fuse.fusing import fuse_scores
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.result import Result
from mambavl.fuse.train import train

CLASSES = verb_noun_classes(
    {number: f"v{number}" for number in range(8)},
    {number: f"n{number}" for number in range(9)},
    num_verbs=8,
    num_nouns=9,
    tail_verbs=(6, 7),
    tail_nouns=(8,),
    unseen_participants=("P03",),
)


def make_kitchens(rows: int = 3 * ROWS, seed: int = 0):
    """Rows of three kitchens, of which each has some in both splits; a verb often follows its neighbour."""
    rng = np.random.default_rng(seed)
    found, verb = [], 0
    for number, segment in enumerate(make_segments(rows)):
        verb = (verb + 1) % 8 if rng.random() < 0.7 else int(rng.integers(8))
        noun = min(int(rng.geometric(0.3)) - 1, 8)
        kitchen = f"P0{1 + number // 10 % 3}"
        found.append(replace(segment, participant_id=kitchen, labels={"verb": verb, "noun": noun}))
    return tuple(found)


def recipe(store: Path, head: str, **changes: Any) -> Recipe:
    """changes: sections of the recipe."""
    raw: dict[str, Any] = {
        "title": head,
        "streams": {"past": {"store": str(store), "level": "past/actions"}},
        "head": {"name": head},
        "targets": {"action": {"ranked_by": "pairs"}},
    }
    if head == "counts":
        raw["counts"] = {"choose_on": "0/2"}
    else:
        raw["head"] |= {"d_model": 8}
        raw["train"] = {"epochs": 2, "batch_size": 16, "lr": 1e-2, "warmup_epochs": 0}
    for section, keys in changes.items():
        raw[section] = {**raw.get(section, {}), **keys} if isinstance(keys, dict) else keys
    return validate(raw, Recipe, "mixed.toml")


def make_mixable(folder: Path) -> Path:
    """`past.zarr`; runs `counts`, `mlp`, `mlp1` (another seed); their twins without part 0/3 of the training
    kitchens, `counts-held`, `mlp-held` and `mlp1-held`.
    """
    make_history_store(folder / "past.zarr", make_kitchens(), classes=CLASSES)
    for name, head, seed in (("counts", "counts", 0), ("mlp", "mlp", 0), ("mlp1", "mlp", 1)):
        seeded = {} if head == "counts" else {"train": {"seed": seed}}
        train(recipe(folder / "past.zarr", head, **seeded), folder / name)
        held = recipe(folder / "past.zarr", head, data={"hold_out": "0/3"}, **seeded)
        train(held, folder / f"{name}-held")
    return folder


def mixed(folder: Path, out: Path, *names: str) -> Result:
    """The log-linear mixture of some runs of `make_mixable`, chosen on their twins."""
    names = names or ("mlp", "counts")
    held = [folder / f"{name}-held" for name in names]
    return fuse_scores([folder / name for name in names], out, chosen_on=held)


def write_annotations(folder: Path, segments: Sequence[Segment]) -> Path:
    """EK100's files, of the rows that the runs were made from."""
    folder.mkdir(parents=True)
    for kind in ("verb", "noun"):
        target = CLASSES.targets[kind]
        rows = [(number, name, f"['{name}']", "any") for number, name in target.classes.items()]
        write(folder / f"EPIC_100_{kind}_classes.csv", ("id", "key", "instances", "category"), rows)
        write(folder / f"EPIC_100_tail_{kind}s.csv", (kind,), [(one,) for one in target.sets["tail"]])
    unseen = [(one,) for one in CLASSES.groups["unseen"].values]
    write(folder / "EPIC_100_unseen_participant_ids_validation.csv", ("participant_id",), unseen)
    for split in ("train", "validation"):
        rows = [_cells(one) for one in segments if one.split == split]
        write(folder / f"EPIC_100_{split}.csv", COLUMNS, rows)
    videos = sorted({one.video_id for one in segments})
    info = [(one, 60.0, 50.0, "456x256") for one in videos]
    write(folder / "EPIC_100_video_info.csv", ("video_id", "duration", "fps", "resolution"), info)
    return folder


def _cells(segment: Segment) -> tuple[object, ...]:
    verb, noun = (segment.labels[name] for name in ("verb", "noun"))
    return (
        *(segment.narration_id, segment.participant_id, segment.video_id, "00:00:01.000"),
        *(stamp(segment.start), stamp(segment.stop), 1, 2),
        *(f"v{verb} n{noun}", f"v{verb}", verb, f"n{noun}", noun, f"['n{noun}']", f"[{noun}]"),
    )
