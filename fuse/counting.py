"""A run whose head counts: the choice of decay and exponent on held-out training kitchens, then all rows."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mambavl.cache import canonical, fsops
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse import checkpoint, metrics
from mambavl.fuse.counts import Counts, Past, joined
from mambavl.fuse.data import FeatureData, assign_folds
from mambavl.fuse.evaluate import evaluate_head
from mambavl.fuse.missing import count_missing
from mambavl.fuse.recipe import Recipe, build_head, run_targets
from mambavl.fuse.result import Trained
from mambavl.fuse.run import CHOICE, MODEL, environment, write_inputs
from mambavl.fuse.targets import is_labelled, log_prior, refuse_unlabelled

AT_ONCE = 4096  # rows whose pasts are read together

log = logging.getLogger(__name__)


def count(recipe: Recipe, run: Path, data: FeatureData) -> None:
    """Everything from the first count to result.json, in a folder that is ours.

    Raises UsageError for a stream that is no history of classes, and where there are fewer participants than
    parts to choose on.
    """
    since = time.perf_counter()
    refuse_other_encoder(data)
    targets = run_targets(recipe, data)
    refuse_unlabelled(targets, data.labels, data.train)
    head = build_head(recipe, data, targets)
    assert isinstance(head, Counts)
    assert recipe.counts is not None  # the recipe fills in its head's own section
    labels = {name: targets.labels(data.labels, name) for name in targets.outputs}
    rows = data.train[np.any([is_labelled(one)[data.train] for one in labels.values()], axis=0)]
    prior = log_prior(targets, data.labels, rows)
    own = {name: one[rows] for name, one in labels.items()}
    part, parts = (int(number) for number in recipe.counts.choose_on.split("/"))
    participants = [data.segments[row].participant_id for row in rows.tolist()]
    part_of = assign_folds(participants, parts)
    held = np.array([part_of[one] == part for one in participants])
    # from here on the folder is this recipe's, so what is refused is refused before
    write_inputs(run, recipe, data, targets, prior)
    past = read_past(head, data, rows)
    chosen = choose(head, past, own, held, recipe.counts.decays, recipe.counts.exponents)
    head.count(
        past,
        own,
        {name: one["decay"] for name, one in chosen.items()},
        {name: one["exponent"] for name, one in chosen.items()},
    )
    among = len(recipe.counts.decays) * len(recipe.counts.exponents)
    on = f"{recipe.data.train_split}_{part}_of_{parts}"
    choice: dict[str, Any] = {"among": among, "on": on, "by": "mean_class_recall5", "chosen": chosen}
    fsops.write_file(run / CHOICE, canonical.pretty_json(choice))
    trained = Trained(
        environment=environment(torch.device("cpu")),
        precision="fp32",
        train_rows=len(rows),
        train_seconds=round(time.perf_counter() - since, 2),
        processes=1,
        missing=count_missing(data.has, rows),
    )
    if recipe.train.keep == "weights":
        checkpoint.save_weights(run / MODEL, head.state_dict())
    evaluate_head(head.to(data.device), data, targets, recipe, run, prior, trained)


def refuse_other_encoder(data: FeatureData) -> None:
    """Raises UsageError for a stream that does not hold past classes."""
    for name, stream in data.provenance.items():
        if stream.recipe.history is None or stream.encoder.name != "classes":
            raise UsageError(
                f"stream {name}: head counts reads past classes, and these are features of "
                f"{stream.encoder.name}; make them with `mambavl extract history --encoder classes`"
            )


def read_past(head: Counts, data: FeatureData, rows: np.ndarray) -> Past:
    """The pasts of some rows."""
    batches = [rows[first : first + AT_ONCE] for first in range(0, len(rows), AT_ONCE)]
    parts = [head.past(data.batch(batch, "cpu")) for batch in batches]
    return joined(parts, max(part.lag.shape[1] for part in parts))


def choose(
    head: Counts,
    past: Past,
    labels: dict[str, np.ndarray],
    held: np.ndarray,
    decays: list[float],
    exponents: list[float],
) -> dict[str, dict[str, Any]]:
    """Target -> the decay and the exponent with the best class-mean recall@5 on the rows `held` (B,), counted
    on the others, and that recall; of equals the first.
    """
    seen, unseen = past.of(~held), past.of(held)
    found: dict[str, dict[str, Any]] = {}
    for decay in decays:
        head.count(
            seen,
            {name: own[~held] for name, own in labels.items()},
            dict.fromkeys(labels, decay),
            dict.fromkeys(labels, 0.0),
        )
        for name, own in labels.items():
            known = own[held] >= 0
            means = head.log_means(unseen.of(np.flatnonzero(known)), name)
            for exponent in exponents:
                scores = head.scores(means, name, exponent).numpy()
                recall = metrics.mean_class_recall5(scores, own[held][known])
                if recall is not None and (name not in found or recall > found[name]["recall5"]):
                    found[name] = {"decay": decay, "exponent": exponent, "recall5": recall}
    if lacking := [name for name in labels if name not in found]:
        raise UsageError(
            f"counts.choose_on holds out no row with a label of {lacking[0]}; take another part, such as 1/5"
        )
    log.info("chosen on held-out training rows: %s", found)
    return found


def read_choice(run: Path) -> dict[str, Any] | None:
    """What decay and exponent were chosen, and on which rows; None where the head of a run does not count."""
    try:
        return json.loads((run / CHOICE).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{run / CHOICE}: is damaged ({error}); count again into another folder") from None
