"""Finished runs of made-up scores, which no head computed: what a report has to cope with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mambavl.cache import fsops
from mambavl.cache.classes import Classes
from mambavl.cache.scores import log_softmax
from mambavl.cache.spec import EncoderIdentity, FeatureRecipe, QuestionsProvenance
from mambavl.configs import validate
from mambavl.fuse.metrics import measure
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.result import Environment, Params, Result, Rows, Scored, StreamProvenance, Trained
from mambavl.fuse.run import CLASSES, write_arrays, write_result

HERE = Environment(mambavl="0", torch="0", device="cpu")


def write_run(
    folder: Path,
    classes: Classes,
    ids: Sequence[str],
    scores: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    *,
    title: str = "made up",
    seed: int = 0,
    split: str = "validation",
    questions: str | None = "generic",
    sampling: Mapping[str, Any] | None = None,
    stores: Mapping[Path, str] | None = None,
) -> Path:
    """scores: target -> (N, classes), any numbers; those of single-label targets are normalised. questions:
    protocol of the run's text stream; None: it has none. stores: of its video stream, with their ids.
    """
    kinds = {name: target.kind for name, target in classes.targets.items()}
    logs = {
        name: found if kinds.get(name) == "multi" else log_softmax(found).astype(np.float32)
        for name, found in scores.items()
    }
    groups = {name: np.zeros(len(ids), bool) for name in classes.groups}
    found = measure(classes, logs, labels, groups)
    encoder = EncoderIdentity(name="none", state="random", sha256="0" * 64, width=8)
    streams = {"video": (FeatureRecipe(encoder=encoder, sampling=sampling), "clip")}
    if questions:
        made = QuestionsProvenance(protocol=questions, backend="template", prompt_version="1")
        streams["verb_question"] = (
            FeatureRecipe(encoder=encoder, questions=made),
            "verb_question/last_hidden",
        )
    places = {"video": stores} if stores else {}
    raw = {
        "title": title,
        "streams": {name: {"store": f"{name}.zarr", "level": level} for name, (_, level) in streams.items()},
        "head": {"name": "mlp"},
        "train": {"epochs": 1, "warmup_epochs": 0, "seed": seed},
    }
    recipe = validate(raw, Recipe, "made up")
    result = Result(
        title=title,
        head="mlp",
        split=split,
        text_protocol=questions or "absent",
        notice=None,
        streams={
            name: StreamProvenance(
                stores=tuple(map(str, places.get(name, {f"{name}.zarr": ""}))),
                store_ids=tuple(places.get(name, {f"{name}.zarr": "0" * 32}).values()),
                level=level,
                class_token=False,
                views=1,
                recipe=made,
            )
            for name, (made, level) in streams.items()
        },
        targets=classes.names,
        metrics=found,
        prior_metrics=found,
        rows=Rows(scored=len(ids), scored_by_prior=0, failed=0),
        params=Params(total=1, without_classifiers=1),
        seed=seed,
        epochs=1,
        recipe=recipe.model_dump(mode="json", exclude_none=True),
        trained=Trained(precision="fp32"),
        scored=Scored(environment=HERE, scan_backend=None, precision="fp32"),
    )
    fsops.make_folder(folder)
    fsops.write_file(folder / CLASSES, classes.to_json())
    write_arrays(folder, split, ids, classes, logs, labels)
    write_result(folder, result)
    return folder
