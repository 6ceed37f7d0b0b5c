"""`mambavl demo`: every step on a rendered toy kitchen, by the functions that the commands call, in one
process.
"""

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from mambavl.cache import fsops
from mambavl.cache.fill import FillResult
from mambavl.complexity.report import row_cost
from mambavl.configs import find_recipe, override, read_toml, validate
from mambavl.configs.errors import DataError, UsageError
from mambavl.configs.progress import ShouldStop
from mambavl.demo import toykitchen
from mambavl.extract.annotations import Annotations, read_annotations
from mambavl.extract.options import TextExtraction, VideoExtraction
from mambavl.extract.questions import generate, write_questions
from mambavl.extract.questions.file import Protocol
from mambavl.extract.text_job import extract_text
from mambavl.extract.video_job import extract_video
from mambavl.fuse.data import FeatureData
from mambavl.fuse.idle import idle, without
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.report import write_report
from mambavl.fuse.report.caveats import Caveat
from mambavl.fuse.result import Metrics, Result
from mambavl.fuse.run import read_result
from mambavl.fuse.train import train
from mambavl.terminal import out, progress, stop_on_signal
from mambavl.told import told_of

SEGMENTS, QUICK_SEGMENTS = 320, 96
PROTOCOLS: tuple[Protocol, ...] = ("oracle", "generic", "none")
TARGETS = ("verb", "noun", "action")
SHOWN = ("all_verb_top1", "all_noun_top1", "all_action_top1", "unseen_verb_top1", "unseen_noun_top1")
TIMES_PRIOR = 3.0  # what MambaVL with generic text must reach at least, or the demo has failed


@dataclass(frozen=True)
class Row:
    """A line of the demo's table: the packaged recipe with a few keys overridden."""

    title: str
    protocol: Protocol = "generic"
    video: bool = True
    text: bool = True
    sets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)


TWO_LAYERS = ("head.video_mlp_layers=2", "head.text_mlp_layers=2")
MAIN = Row("MambaVL, generic text")
ROWS = (
    MAIN,
    Row("MambaVL, oracle text", protocol="oracle"),
    Row("MambaVL, no text (empty questions)", protocol="none"),
    Row("MambaVL, oracle text, nothing shared", protocol="oracle", sets=("fusion.share=none",)),
    Row("MambaVL, video only", text=False),
    Row("MambaVL, text only, oracle", protocol="oracle", video=False),
    Row("MLP, generic text", sets=("head.name=mlp", *TWO_LAYERS)),
    Row(
        "Transformer 6x4, generic text",
        # six layers at 96 channels have about as many parameters as the other heads at 192
        sets=("head.name=transformer", "head.d_model=96", "transformer.max_positions=64", *TWO_LAYERS),
    ),
)


def run(folder: Path, *, quick: bool = False) -> None:
    """Render, ask, extract, train, score, report. Raises DataError when the result is not what it must be."""
    started = time.perf_counter()
    segments = QUICK_SEGMENTS if quick else SEGMENTS
    kitchen = _kitchen(folder, segments)
    annotations = read_annotations(kitchen / "annotations")
    verbs, nouns = len(annotations.verbs.keys), len(annotations.nouns.keys)
    unseen = ", ".join(annotations.classes.groups["unseen"].values)
    out.print(
        f"{len(annotations.segments)} segments of {verbs} verbs and {nouns} nouns, unseen kitchens {unseen}"
    )
    with stop_on_signal() as should_stop:
        _extract(folder, kitchen, annotations, should_stop)
        runs = _train(folder, quick, should_stop)
    report = folder / "report.html"
    with _stage("report"):
        known = [Caveat("It is a toy.", "The kitchen is rendered: nothing here is of real video.")]
        asked = [_questions(folder, protocol) for protocol in PROTOCOLS if protocol != "none"]
        told = told_of(annotations, [kitchen / "videos"], asked)
        write_report(list(itertools.chain(*runs.values())), report, told, cost_of=row_cost, known=known)
    results = {title: [read_result(path) for path in paths] for title, paths in runs.items()}
    _print_table(results)
    out.print(
        f"wrote {report} after {time.perf_counter() - started:.0f} s; open it in a browser", style="bold"
    )
    out.print("next, with EK100: mambavl data check --annotations EK100 --videos VIDEOS (docs/data.md)")
    out.print("or with lists and videos of your own: docs/data.md, 'Your own labels'")
    if not quick:
        _check(results[MAIN.title])


def _kitchen(folder: Path, segments: int) -> Path:
    """The folder of the rendered kitchen; one that an earlier call of the same size finished is kept."""
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


def _extract(folder: Path, kitchen: Path, annotations: Annotations, should_stop: ShouldStop) -> None:
    stores = folder / "stores"
    fsops.make_folder(stores)
    options = validate(read_toml(find_recipe("extract/demo")), VideoExtraction, "extract/demo.toml")
    with _stage("video features"), progress("encoding frames", "segments") as update:
        store = stores / "video.zarr"
        summary = extract_video(
            annotations, kitchen / "videos", store, options, progress=update, should_stop=should_stop
        )
        _refuse_failures(summary)
    with _stage("text features"):
        for protocol in PROTOCOLS:
            questions = _questions(folder, protocol)
            write_questions(questions, generate(annotations, protocol))
            store = _text_store(folder, protocol)
            minilm = TextExtraction(encoder="minilm")
            _refuse_failures(extract_text(annotations, questions, store, minilm, should_stop=should_stop))


def _refuse_failures(summary: FillResult) -> None:
    if summary.failures:
        raise DataError(f"{len(summary.failures)} rows have no features: {summary.failures[0]}")


def _questions(folder: Path, protocol: str) -> Path:
    return folder / f"questions_{protocol}.jsonl"


def _text_store(folder: Path, protocol: str) -> Path:
    return folder / "stores" / f"text_{protocol}.zarr"


def _train(folder: Path, quick: bool, should_stop: ShouldStop) -> dict[str, list[Path]]:
    torch.set_num_threads(1)  # the heads are too small to share out
    runs: dict[str, list[Path]] = {}
    planned: list[tuple[Row, int]] = []
    for row in ROWS:
        seeds = row.seeds[:1] if quick else row.seeds
        planned += [(row, seed) for seed in seeds]
    with _stage("training"), progress("training", "runs") as update:
        data: dict[tuple[str, bool, bool], FeatureData] = {}
        for done, (row, seed) in enumerate(planned):
            update(done, len(planned))
            recipe = _recipe(folder, row, seed)
            inputs = (row.protocol, row.video, row.text)
            if inputs not in data:  # rows of the same inputs share them
                data[inputs] = FeatureData(recipe.sources, recipe.data)
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
    raw = {**override(read_toml(find_recipe("fuse/demo")), sets), "streams": streams}
    return validate(without(raw, idle(raw)), Recipe, "fuse/demo.toml")  # [fusion] is MambaVL's alone


def _slug(title: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in title.lower()).strip("_")


def _print_table(results: dict[str, list[Result]]) -> None:
    table = Table("top-1, %", "text", "verb", "noun", "action", "unseen verb", "unseen noun", "seeds")
    for title, runs in results.items():
        means = []
        for key in SHOWN:
            means.append(_mean([_measured(result.metrics, key) for result in runs]))
        table.add_row(title, runs[0].text_protocol, *means, str(len(runs)))
    prior = results[MAIN.title][0].prior_metrics
    guessed = [f"{_measured(prior, f'all_{target}_top1'):.1f}" for target in TARGETS]
    table.add_row("training prior", "-", *guessed, "", "", "")
    out.print(table)


def _measured(metrics: Metrics, key: str) -> float:
    value = metrics[key]
    if value is None:
        raise DataError(f"{key} was not measured: the kitchen has no row for it")
    return value


def _mean(values: list[float]) -> str:
    mean = f"{np.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.1f}"


def _check(results: list[Result]) -> None:
    """The demo's own test: with generic text, every seed reaches at least three times what guessing the
    commonest class does.
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
