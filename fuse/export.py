"""A run as a folder to hand on: its weights, what they are as JSON, its numbers, and a model card.

    model.safetensors    the head's weights, as the run has them
    config.json          head and settings, what the streams were made of, classes, protocols, numbers
    published.json       its numbers in the form of `published`
    README.md            a model card, with what model hubs read at its head

No path of the machine that trained it is in them: stores are told by their ids.
"""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mambavl.cache import canonical, fsops
from mambavl.cache.card import in_one_line
from mambavl.cache.classes import Classes
from mambavl.cache.licences import licence_of, terms_of
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.published import MEASURES, Published, rows_of, to_json
from mambavl.fuse.result import Result
from mambavl.fuse.run import MODEL, read_classes, read_result

CONFIG, CARD, NUMBERS = "config.json", "README.md", "published.json"
SWEEP = ("grid", "random", "points", "search")  # of a recipe: what other runs were made of


def export_run(run: Path, out: Path, *, licence: str | None = None, task: str | None = None) -> str:
    """Write the folder `out`, which must not be there; returns the licence that the card names.

    licence: that of the weights, as model hubs spell it. Raises UsageError for one that the data do not
    allow (`cache.licences`), for none where they are not known, and where `out` is there; DataError where the
    run has no weights.
    """
    run, out = Path(run), Path(out)
    result, classes = read_result(run), read_classes(run)
    if not (run / MODEL).is_file():
        raise DataError(f"{run}: has no {MODEL}: scores of several runs, or a run of train.keep = scores")
    if out.exists():
        raise UsageError(f"{out}: is there already; name a new folder with --out")
    licence = licence_of(terms_of(classes), licence, run)
    rows = rows_of(result, run.resolve().name, datetime.date.today().isoformat(), task)
    fsops.make_folder(out)
    fsops.write_file(out / CONFIG, canonical.pretty_json(config_of(result, classes)))
    fsops.write_file(out / NUMBERS, to_json(rows).encode())
    fsops.write_file(out / CARD, card_of(result, rows, classes, licence).encode())
    fsops.write_file(out / MODEL, (run / MODEL).read_bytes())
    return licence


def config_of(result: Result, classes: Classes) -> dict[str, Any]:
    """All that is known of the weights, without a path of any machine."""
    found = json.loads(canonical.pretty_json(result.to_dict()))  # a copy, down to the last section
    for stream in found["streams"].values():
        del stream["stores"]
    for stream in found["recipe"]["streams"].values():
        del stream["store"]
    for key in SWEEP:
        found["recipe"].pop(key, None)
    return {"format": 1, "classes": json.loads(classes.to_json()), **found}


def card_of(result: Result, rows: list[Published], classes: Classes, licence: str) -> str:
    """The model card in Markdown, its head in YAML."""
    index = {"name": result.title, "results": [_hub_result(row) for row in rows]}
    head = {"license": licence, "library_name": "mambavl", "tags": ["video", *result.streams]}
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items())]
    lines += [f"model-index: {json.dumps([index])}", "---", "", f"# {in_one_line(result.title)}", ""]
    if result.notice:
        lines += [f"**{result.notice}.**", ""]
    lines += [
        f"A fusion head ({result.head}) on frozen features; it needs the encoders below. "
        f"{result.params.total:,} parameters, {result.epochs} epochs, seed {result.seed}. "
        f"Text protocol: {result.protocols}.",
        "",
        "| measure | split | " + " | ".join(result.targets) + " |",
        "|---|---|" + "---|" * len(result.targets),
    ]
    for row in rows:
        cells = [f"{row.values[one]:.1f}" if one in row.values else "–" for one in result.targets]
        lines.append(f"| {MEASURES[row.measure]} | {row.split} | {' | '.join(cells)} |")
    lines += [
        "",
        f"{result.rows.scored:,} rows were scored.",
        "",
        "| stream | level | encoder | weights | stores |",
    ]
    lines.append("|---|---|---|---|---|")
    for name, stream in result.streams.items():
        weights = f"{stream.encoder.state}, sha256 {stream.encoder.sha256 or 'not recorded'}"
        stores = ", ".join(stream.store_ids)
        lines.append(
            f"| {name} | {stream.level} | {in_one_line(stream.encoder.name)} | {weights} | {stores} |"
        )
    lines += ["", f"Licence of the weights: {licence}. Encoders and data have their own."]
    if terms := terms_of(classes):
        lines[-1] += f" Trained on {terms.says}"
    return "\n".join(lines) + "\n"


def _hub_result(row: Published) -> Mapping[str, Any]:
    """A result as model hubs read it."""
    metrics = [
        {"type": row.measure, "name": f"{target} {MEASURES[row.measure]}", "value": value}
        for target, value in row.values.items()
    ]
    dataset = {"type": row.task, "name": row.task, "split": row.split}
    return {"task": {"type": "video-classification"}, "dataset": dataset, "metrics": metrics}
