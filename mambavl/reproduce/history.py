"""`mambavl reproduce history`: anticipation from what was done before, from annotation files to the table.

    stores/     past, told        the last 16 actions as classes, and as narrations
                *-shuffled        the last 8, dealt to other places: the control for their order
    runs/       counts            no learning; counts-held: without the kitchens that are chosen on
                grid              the questions, compared on these kitchens; the best trained on all
                corrected,...     the head of a seed, less its prior; the exponent chosen on these kitchens
                mixed,...         head and counts of a seed, exponent and weights chosen there, too
    results.json, results.md, results.svg

What is there is not made again, so the same command resumes. Validation is scored by what was chosen, by the
counts and by their mixtures, and by nothing else.
"""

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambavl.cache import canonical, fsops
from mambavl.cache.rows import Segment
from mambavl.cli.sweeping import run_sweep
from mambavl.configs import find_recipe, override, read_toml, validate
from mambavl.configs.errors import DataError
from mambavl.configs.progress import ShouldStop
from mambavl.extract.annotations import Annotations, read_annotations
from mambavl.extract.history_job import extract_history
from mambavl.extract.options import HistoryExtraction
from mambavl.fuse.fusing import fuse_scores
from mambavl.fuse.paired import ClassMeans
from mambavl.fuse.points import Point, expand
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.run import RESULT
from mambavl.fuse.selection import SEED
from mambavl.fuse.train import train
from mambavl.reproduce.hits import Hits, Scored, hits, kept, less_prior
from mambavl.reproduce.table import Measured, Row, Table, markdown, picture, sources_of, write
from mambavl.terminal import out as console
from mambavl.terminal import progress, stop_on_signal

GRID, COUNTS = "fuse/history_grid", "fuse/history_counts"
BASE = {"fusion.share": "A"}  # the paper's head: the grid's other points are compared with it
IDLE = ("transformer",)  # sections of the grid's recipe that the paper's head does not read
LAST, SHUFFLED_LAST = 16, 8
MINILM = {"encoder": "minilm"}


@dataclass(frozen=True)
class Done:
    """The runs of all rows, finished."""

    grid: list[Point]  # on the kitchens held out
    shuffled: list[Point]  # there, too
    chosen: list[Point]  # on validation
    counts: Path
    counts_held: Path  # on the kitchens held out
    earlier: list[str]  # what was chosen, and so scored on validation, before the grid was as it is
    corrected: list[Path]  # of `chosen`
    mixtures: list[Path]


def run(
    annotations: Path, folder: Path, *, text: Mapping[str, str] = MINILM, workers: int | None = None
) -> None:
    """Extract, count, train, choose, mix, write the table. text: settings of the narrations' encoder.

    Raises DataError where a run of the grid has failed, and as extraction and training do.
    """
    since = time.perf_counter()
    listed = read_annotations(annotations, ("train", "validation"))
    stores = folder / "stores"
    with stop_on_signal() as should_stop:
        for name, options in _stores(text).items():
            _extract(listed, stores / f"{name}.zarr", options, should_stop)
    done = _runs(folder, stores, workers)
    held, corrected = _held_tables(_of_candidates(done))
    table = Table(
        held=held,
        held_less_prior=corrected,
        validation=_validation_rows(done),
        chosen=_words(done.chosen[0]),
        among=len({_words(point) for point in done.grid}),
        earlier=done.earlier,
        streams=sources_of(done.chosen[0].run),
    )
    written = write(folder, table.to_dict(), markdown(table), picture(table))
    console.print(markdown(table), markup=False, highlight=False, soft_wrap=True)
    console.print(f"wrote {written} after {time.perf_counter() - since:,.0f} s")


# --- stores


def _stores(text: Mapping[str, str]) -> dict[str, HistoryExtraction]:
    kinds: dict[str, Mapping[str, str]] = {"past": {"encoder": "classes"}, "told": text}
    found: dict[str, HistoryExtraction] = {}
    for name, kind in kinds.items():
        found[name] = HistoryExtraction.model_validate({**kind, "last": LAST})
        shuffled = {**kind, "last": SHUFFLED_LAST, "order": "shuffled"}
        found[f"{name}-shuffled"] = HistoryExtraction.model_validate(shuffled)
    return found


def _extract(
    annotations: Annotations, store: Path, options: HistoryExtraction, should_stop: ShouldStop
) -> None:
    fsops.make_folder(store.parent)
    with progress(f"extracting {store.stem}", "rows") as update:
        extract_history(annotations, store, options, progress=update, should_stop=should_stop)


# --- runs


def _runs(folder: Path, stores: Path, workers: int | None) -> Done:
    runs = folder / "runs"
    sets = [f"streams.past.store={stores}/past.zarr", f"streams.told.store={stores}/told.zarr"]
    counts, counts_held = runs / "counts", runs / "counts-held"
    raw = override(read_toml(find_recipe(GRID)), sets)
    counting = override(read_toml(find_recipe(COUNTS)), sets[:1])
    held = {**counting, "data": {**counting.get("data", {}), "hold_out": raw["select_on"]}}
    for raw_counts, run in ((counting, counts), (held, counts_held)):
        if not (run / RESULT).exists():
            train(validate(raw_counts, Recipe, COUNTS), run)
    out, control = runs / "grid", runs / "shuffled"
    asked = expand(raw, out, str(GRID))
    in_order = [point.name for point in asked]
    points, chosen = run_sweep(asked, out, chooses=True, workers=workers)
    points = sorted(points, key=lambda point: in_order.index(point.name))
    control_points, _ = run_sweep(
        expand(_shuffled(raw, stores), control, str(GRID)), control, chooses=False, workers=workers
    )
    failed = [f"{point.name}: {point.error}" for point in (*points, *control_points) if not point.result]
    if failed or chosen is None or not chosen.runs:
        raise DataError("\n".join(["not every run has a result:", *failed]))
    held_of = {canonical.digest(point.values): point.run for point in points}
    corrected, mixtures = [], []
    for point in chosen.runs:
        twin = held_of[canonical.digest(point.values)]
        # named after what was chosen
        corrected.append(_fused(runs / f"corrected,{point.run.name}", [point.run], [twin]))
        mixtures.append(_fused(runs / f"mixed,{point.run.name}", [point.run, counts], [twin, counts_held]))
    earlier = sorted({_without_seed(run) for run in chosen.earlier})
    return Done(points, control_points, chosen.runs, counts, counts_held, earlier, corrected, mixtures)


def _fused(out: Path, runs: list[Path], held: list[Path]) -> Path:
    if not (out / RESULT).exists():
        fuse_scores(runs, out, chosen_on=held)
    return out


def _without_seed(run: Path) -> str:
    """`fusion.share=A` of `chosen,train.seed=0,fusion.share=A`."""
    _, *parts = run.name.split(",")
    return ", ".join(part for part in parts if not part.startswith(f"{SEED}="))


def _shuffled(raw: dict[str, Any], stores: Path) -> dict[str, Any]:
    """The grid's recipe with the paper's head alone, on pasts whose order was dealt anew; no candidate."""
    sets = [f"streams.{name}.store={stores}/{name}-shuffled.zarr" for name in ("past", "told")]
    part = f"data.hold_out={raw['select_on']}"
    kept = {key: value for key, value in raw.items() if key not in ("select_on", "points", *IDLE)}
    return {**override(kept, [*sets, part]), "points": [BASE]}


def _words(point: Point) -> str:
    """What a point of the grid is, without its seed."""
    found = {key: value for key, value in point.values.items() if key != SEED}
    if "streams.past.last" in found:
        return f"last = {found['streams.past.last']}"
    if "use_streams" in found:
        return f"{found['use_streams'][0]} alone"
    return ", ".join(f"{key.rpartition('.')[2]} = {value}" for key, value in found.items())


# --- rows of the table


def _of_candidates(done: Done) -> dict[str, list[Path]]:
    """The runs of each candidate on the kitchens held out, by its words, by seed; the paper's head first, and
    last what is none: the control for its order, and the counts.
    """
    found: dict[str, list[Path]] = {}
    for point in sorted(
        done.grid, key=lambda point: (not point.values.items() >= BASE.items(), point.values[SEED])
    ):
        found.setdefault(_words(point), []).append(point.run)
    control = sorted(done.shuffled, key=lambda point: point.values[SEED])
    shuffled = f"{next(iter(found))}, order shuffled"
    return {**found, shuffled: [point.run for point in control], "counts": [done.counts_held]}


def _held_tables(runs_of: Mapping[str, list[Path]]) -> tuple[list[Row], list[Row]]:
    """`_held_rows` of scores as they are, and less the prior: some seconds a run."""
    rows_of: dict[str, tuple[Segment, ...]] = {}  # read once
    done, total = itertools.count(1), 2 * sum(len(runs) for runs in runs_of.values())
    with progress("measuring", "runs") as update:
        on_run = lambda: update(next(done), total)
        plain = _held_rows(runs_of, kept, on_run)
        return plain, _held_rows(runs_of, lambda run: less_prior(run, rows_of), on_run)


def _held_rows(
    runs_of: Mapping[str, list[Path]], scores_of: Callable[[Path], Scored], on_run: Callable[[], None]
) -> list[Row]:
    """Each of `_of_candidates` beside the first."""
    found = {words: hits(runs, scores_of, on_run) for words, runs in runs_of.items()}
    base = next(iter(found))
    return [_row(words, own, found[base] if words != base else None) for words, own in found.items()]


def _validation_rows(done: Done) -> list[Row]:
    """What was chosen, the counts, and both together, each beside the counts."""
    chosen = sorted(done.chosen, key=lambda point: point.values[SEED])
    counts = hits([done.counts], kept)
    return [
        _row("counts", counts, None),
        _row("head", hits([one.run for one in chosen], kept), counts),
        _row("head less prior", hits(done.corrected, kept), counts),
        _row("head and counts", hits(done.mixtures, kept), counts),
    ]


def _row(name: str, own: dict[str, Hits], beside: dict[str, Hits] | None) -> Row:
    measured = {}
    for target, one in own.items():
        means = ClassMeans(one.label, one.video)
        difference = means.difference(one.best5, beside[target].best5) if beside else None
        measured[target] = Measured(means.interval(one.best5), difference)
    first = next(iter(own.values()))
    return Row(name, len(first.best5), len(first.label), measured, round(first.seconds), first.parameters)
