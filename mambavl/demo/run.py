"""`mambavl demo`: the whole road on a rendered toy kitchen. It calls the same functions as the commands, in
one process.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from mambavl.cache import fsops
from mambavl.cache.fill import FillResult
from mambavl.configs import find_recipe, override, read_toml, validate
from mambavl.configs.errors import DataError, UsageError
from mambavl.demo import toykitchen
from mambavl.extract.annotations import Annotations, read_annotations
from mambavl.extract.options import TextExtraction, VideoExtraction
from mambavl.extract.questions import generate, write_questions
from mambavl.extract.text_job import extract_text
from mambavl.extract.video_job import extract_video
from mambavl.fuse.data import FeatureData
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.report import write_report
from mambavl.fuse.result import Metrics, Result
from mambavl.fuse.run import read_result
from mambavl.fuse.train import train
from mambavl.terminal import out, progress, stop_on_signal

SEGMENTS, QUICK_SEGMENTS = 320, 96
PROTOCOLS = ("oracle", "generic", "none")
TIMES_PRIOR = 3.0  # what MambaVL with generic text must reach at least, or the demo has failed


@dataclass(frozen=True)
class Row:
    """A line of the demo's table: the packaged recipe with a few keys overridden."""

    title: str
    protocol: str = "generic"
    video: bool = True
    text: bool = True
    sets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)


MAIN = Row("MambaVL, generic text")
ROWS = (
    MAIN,
    Row("MambaVL, oracle text", protocol="oracle"),
    Row("MambaVL, no text (empty questions)", protocol="none"),
    Row("MambaVL, oracle text, nothing shared", protocol="oracle", sets=("fusion.share=none",)),
    Row("MambaVL, video only", text=False),
    Row("MambaVL, text only, oracle", protocol="oracle", video=False),
    Row("MLP, generic text", sets=("head=mlp",)),
    Row("Transformer 6x4, generic text", sets=("head=transformer",)),
)


def run(folder: Path, *, quick: bool = False) -> None:
    """Render, ask, extract, train, score, report. Raises DataError when the result is not what it must be."""
    started = time.perf_counter()
    segments = QUICK_SEGMENTS if quick else SEGMENTS
    kitchen = _kitchen(folder, segments)
    annotations = read_annotations(kitchen / "annotations")
    out.print(
        f"{len(annotations.segments)} segments of {len(annotations.verbs.keys)} verbs and {len(annotations.nouns.keys)} nouns, "
        f"unseen kitchens {', '.join(sorted(annotations.unseen_participants))}"
    )
    with stop_on_signal() as should_stop:
        _extract(folder, kitchen, annotations, should_stop)
        runs = _train(folder, quick, should_stop)
    report = folder / "report.html"
    with _stage("report"):
        write_report([run for paths in runs.values() for run in paths], report)
    results = {title: [read_result(path) for path in paths] for title, paths in runs.items()}
    _print_table(results)
    out.print(
        f"wrote {report} after {time.perf_counter() - started:.0f} s; open it in a browser", style="bold"
    )
    if not quick:
        _check(results[MAIN.title])


def _kitchen(folder: Path, segments: int) -> Path:
    """The rendered kitchen; one that an earlier call of the same size finished is taken as it is."""
    kitchen, mark = folder / "kitchen", folder / "kitchen.json"
    wanted = {"segments": segments, "seed": 0}
    if mark.exists():
        if json.loads(mark.read_text()) != wanted:
            raise UsageError(f"{folder}: holds a demo of another size; use another --out, or remove it")
        return kitchen
    if folder.exists() and any(entry.name != "kitchen" for entry in folder.iterdir()):
        raise UsageError(f"{folder}: is not empty and holds no demo; use another --out")
    with _stage("render"), progress("rendering", "videos") as update:
        toykitchen.render(kitchen, segments=segments, seed=0, on_video=update)
    mark.write_text(json.dumps(wanted))
    return kitchen


def _extract(folder: Path, kitchen: Path, annotations: Annotations, should_stop: Any) -> None:
    stores = folder / "stores"
    fsops.make_folder(stores)
    options = validate(read_toml(find_recipe("extract/demo")), VideoExtraction, "extract/demo.toml")
    with _stage("video features"), progress("encoding frames", "segments") as update:
        _whole(
            extract_video(
                annotations,
                kitchen / "videos",
                stores / "video.zarr",
                options,
                progress=update,
                should_stop=should_stop,
            )
        )
    with _stage("text features"):
        for protocol in PROTOCOLS:
            questions = folder / f"questions_{protocol}.jsonl"
            write_questions(questions, generate(annotations, protocol))
            _whole(
                extract_text(
                    annotations,
                    questions,
                    _text_store(folder, protocol),
                    TextExtraction(encoder="minilm"),
                    should_stop=should_stop,
                )
            )


def _whole(result: FillResult) -> None:
    if result.failures:
        raise DataError(f"{len(result.failures)} rows have no features: {result.failures[0]}")


def _text_store(folder: Path, protocol: str) -> Path:
    return folder / "stores" / f"text_{protocol}.zarr"


def _train(folder: Path, quick: bool, should_stop: Any) -> dict[str, list[Path]]:
    torch.set_num_threads(1)  # the heads are too small to share out
    runs: dict[str, list[Path]] = {}
    planned = [(row, seed) for row in ROWS for seed in (row.seeds[:1] if quick else row.seeds)]
    with _stage("training"), progress("training", "runs") as update:
        data: dict[tuple, FeatureData] = {}
        for done, (row, seed) in enumerate(planned):
            update(done, len(planned))
            recipe = _recipe(folder, row, seed)
            inputs = (row.protocol, row.video, row.text)
            data[inputs] = data.get(inputs) or FeatureData(recipe.sources, recipe.data)
            path = folder / "runs" / f"{_slug(row.title)}_seed{seed}"
            train(recipe, path, data=data[inputs], should_stop=should_stop)
            runs.setdefault(row.title, []).append(path)
        update(len(planned), len(planned))
    return runs


def _recipe(folder: Path, row: Row, seed: int) -> Recipe:
    streams: dict[str, dict[str, str]] = {}
    if row.video:
        streams["video"] = {"store": str(folder / "stores" / "video.zarr"), "level": "frame"}
    if row.text:
        for question in ("verb_question", "noun_question"):
            streams[question] = {
                "store": str(_text_store(folder, row.protocol)),
                "level": f"{question}/last_hidden",
            }
    sets = [f"title={json.dumps(row.title)}", f"train.seed={seed}", *row.sets]
    raw = override(read_toml(find_recipe("fuse/demo")), sets)
    return validate({**raw, "streams": streams}, Recipe, "fuse/demo.toml")


def _slug(title: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in title.lower()).strip("_")


def _print_table(results: dict[str, list[Result]]) -> None:
    table = Table("top-1, %", "text", "verb", "noun", "action", "unseen verb", "unseen noun", "seeds")
    for title, runs in results.items():
        keys = ("all_verb_top1", "all_noun_top1", "all_action_top1", "unseen_verb_top1", "unseen_noun_top1")
        table.add_row(
            title,
            runs[0].text_protocol,
            *(_mean([_measured(run.metrics, key) for run in runs]) for key in keys),
            str(len(runs)),
        )
    prior = results[MAIN.title][0].prior_metrics
    table.add_row(
        "training prior",
        "-",
        *(f"{_measured(prior, f'all_{target}_top1'):.1f}" for target in ("verb", "noun", "action")),
        "",
        "",
        "",
    )
    out.print(table)


def _measured(metrics: Metrics, key: str) -> float:
    value = metrics[key]
    if value is None:
        raise DataError(f"{key} was not measured: the kitchen has no row for it")
    return value


def _mean(values: list[float]) -> str:
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def _check(results: list[Result]) -> None:
    """The demo's own test: with generic text, at least three times what guessing the commonest class gives,
    seed by seed.
    """
    for target in ("verb", "noun"):
        prior = _measured(results[0].prior_metrics, f"all_{target}_top1")
        reached = [_measured(result.metrics, f"all_{target}_top1") for result in results]
        seeds = ", ".join(f"{value:.1f}" for value in reached)
        times = f"at least {min(reached) / prior:.1f} times the prior's {prior:.1f}"
        out.print(f"{MAIN.title}: {target} top-1 {seeds} over {len(reached)} seeds, {times}")
        if min(reached) < TIMES_PRIOR * prior:
            raise DataError(
                f"{target} top-1 {min(reached):.1f} is below {TIMES_PRIOR:g} times the prior's {prior:.1f}"
            )


@contextmanager
def _stage(name: str) -> Iterator[None]:
    since = time.perf_counter()
    yield
    out.print(f"{name}: {time.perf_counter() - since:.0f} s")
