"""`mambavl train`, `sweep`, `evaluate`, `report`: stage two, from feature stores to a page of results."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mambavl.cli.options import EngineOption, SetOption, pairs_of
from mambavl.cli.scores import evaluate_file
from mambavl.cli.show import (
    epoch_in_words,
    line_in_words,
    print_result,
    print_without,
    said_of_choice,
    said_without_choice,
    sweep_table,
)
from mambavl.configs.errors import DataError, UsageError, counted
from mambavl.configs.progress import say
from mambavl.extract.sampling import Task
from mambavl.terminal import is_first, out, progress, stop_on_signal


def train(
    *,
    recipe: Annotated[
        Path, typer.Argument(help="A recipe file, or the name of a packaged one such as fuse/default.")
    ],
    sets: SetOption,
    folder: Annotated[
        Path | None, typer.Option("--out", help="The run folder. Default: runs/RECIPE.")
    ] = None,
) -> None:
    """Train a fusion head from feature stores, score it, write result.json. Run it again to resume."""
    from mambavl.configs import load
    from mambavl.fuse.recipe import Recipe
    from mambavl.fuse.run import RESULT
    from mambavl.fuse.train import train

    loaded = load(recipe, Recipe, sets)
    target = folder or Path("runs") / recipe.stem
    was_finished = (target / RESULT).exists()
    epochs = loaded.train.epochs
    with progress("training", "updates") as update, stop_on_signal() as should_stop:
        result = train(
            loaded,
            target,
            on_step=lambda done, total: update(done, total, epoch_in_words(done, total, epochs)),
            on_epoch=lambda line: say(line_in_words(line, epochs)),
            should_stop=should_stop,
        )
    if not is_first():
        return
    print_result(result)
    if was_finished:
        print(f"{target}: had finished before; nothing was done")
    else:
        print(f"wrote {target / RESULT}")


def sweep(
    *,
    recipe: Annotated[Path, typer.Argument(help="A recipe with a section grid, random, points or search.")],
    sets: SetOption,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder of the runs. Default: runs/RECIPE.")
    ] = None,
    pack: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many points at most are trained in one pass over the data. Default: as many as pay at "
            "the heads' width.",
        ),
    ] = None,
    engine: EngineOption = "processes",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many processes share the points, each with a GPU of its own. Default: one; "
            "with --engine ray one for each GPU of the cluster, or for each node.",
        ),
    ] = None,
) -> None:
    """Train a run for every point of a recipe's grid, random, points or search. Finished ones are skipped.

    With select_on in the recipe the points are compared on training rows held out, and the best is trained
    on all of them and scored once. Started several times with one folder, the sweeps share its points.
    """
    from mambavl.cli.sweeping import run_sweep
    from mambavl.configs import find_recipe, override, read_toml
    from mambavl.fuse.drawn import combinations
    from mambavl.fuse.points import Point, expand
    from mambavl.fuse.run import RESULT
    from mambavl.fuse.search import Search
    from mambavl.fuse.summary import SUMMARY

    source = find_recipe(recipe)
    target = folder or Path("runs") / recipe.stem
    raw = override(read_toml(source), sets)
    asked: list[Point] | Search
    if raw.get("search"):
        if pack and pack > 1:
            raise UsageError(f"--pack {pack}: a [search] trains one point after the other; leave it out")
        asked = Search(raw, target, source.name, sets)
    else:
        asked = expand(raw, target, source.name, sets)
        tried = len(combinations(raw, source.name))
        if len(asked) < tried and is_first():
            print(f"{tried} combinations are {len(asked)} points: the others differ in keys that cannot act")
    finished = set(target.glob(f"*/{RESULT}"))
    points, chosen = run_sweep(
        asked, target, chooses="select_on" in raw, pack=pack, engine=engine, workers=workers
    )
    grid, points = points, points + (chosen.runs if chosen else [])
    if is_first():
        out.print(sweep_table(points))
        # not those in state `skipped`: another worker may have trained them meanwhile
        before = sum(point.run / RESULT in finished for point in points)
        said = f"; {before} had finished before" if before else ""
        print(f"wrote {counted(len(points) - before, 'run')} and {SUMMARY} to {target}{said}")
        for line in said_of_choice(chosen) if chosen else said_without_choice(grid, recipe):
            print(line)
    errors = [f"{point.name}: {point.error}" for point in points if point.state == "failed"]
    if chosen and chosen.selection is None:
        errors.append("nothing was chosen: every candidate has a point without a score")
    if errors:
        raise DataError("\n".join(errors))


def evaluate(
    *,
    run: Annotated[
        Path | None, typer.Argument(help="A run folder, made by train or sweep.", show_default=False)
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="One split to score. Default: the one that the run was scored on; with --scores validation."
        ),
    ] = None,
    stores: Annotated[
        list[str],
        typer.Option(
            "--store",
            default_factory=list,
            show_default=False,
            help="STREAM=PATH: the same features, moved or of another split. Repeatable.",
        ),
    ],
    without: Annotated[
        list[str],
        typer.Option(
            default_factory=list,
            show_default=False,
            help="A stream to mask in every row: what is it worth? Leaves result.json alone. Repeatable.",
        ),
    ],
    scores: Annotated[
        Path | None,
        typer.Option(help="In place of RUN: measure this file, such as RUN/scores/validation.npz."),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="With --scores: the folder of EPIC_100_*.csv, or of own lists, to measure against."
        ),
    ] = None,
    task: Annotated[
        Task | None,
        typer.Option(help="With --scores: show what this task is ranked by.", show_default="both"),
    ] = None,
    average: Annotated[
        Literal["probabilities", "logits"],
        typer.Option(
            help="What the mean over a row's views is taken of. logits of a RUN go into "
            "scores/SPLIT-logits.npz, and result.json is left alone."
        ),
    ] = "probabilities",
    as_json: Annotated[bool, typer.Option("--json", help="With --scores: machine-readable.")] = False,
) -> None:
    """Score a finished run again from its stores; writes scores and result.json. Or measure a file of scores.

    With --scores and --annotations nothing is computed but the measures, and nothing written: they are those
    of the run that wrote the file, to the last digit. Rows that the file lacks are counted and named. It may
    be anybody's: npz, Parquet, pickle or .pt of arrays or of rows, a challenge file; see docs/results.md.
    """
    from mambavl.fuse.evaluate import evaluate_run, scores_name
    from mambavl.fuse.run import RESULT, SCORES
    from mambavl.fuse.without import evaluate_without

    if scores is not None:
        if run or stores or without:
            raise UsageError("--scores measures a file as it is; leave RUN, --store and --without out")
        if annotations is None:
            raise UsageError("--scores: name the lists that the file is measured against with --annotations")
        evaluate_file(
            scores, annotations, split=split or "validation", task=task, average=average, as_json=as_json
        )
        return
    if run is None or annotations or task or as_json:
        raise UsageError(
            "name a run folder, which is scored from its stores, or --scores FILE --annotations DIR; "
            "--annotations, --task and --json are for the second"
        )
    moved = pairs_of("--store", stores, "STREAM=PATH", "video=stores/video.zarr")
    streams = {stream: Path(path) for stream, path in moved.items()}
    if without:
        if average != "probabilities":
            raise UsageError("--without compares with the run's own scores; leave --average out")
        found = evaluate_without(run, without, split=split, streams=streams)
        print_without(found)
        print(f"wrote {found.scores}")
        return
    result = evaluate_run(run, split=split, streams=streams, average=average)
    print_result(result)
    written = f"{run / SCORES / scores_name(result.split, average)}.npz"
    if split is None and average == "probabilities":
        written += f" and {run / RESULT}"
    print(f"wrote {written}")


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    target: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the lists of the scored rows: when and where they are. Default: what the runs' "
            "stores still know."
        ),
    ] = None,
    videos: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of the videos, for pictures of some rows. Repeatable."),
    ] = None,
    clips: Annotated[
        int | None,
        typer.Option(min=1, help="With --videos: how many rows get pictures.", show_default="300"),
    ] = None,
    questions: Annotated[
        list[Path] | None,
        typer.Option(help="A question file that a run's text store was made from. Repeatable."),
    ] = None,
    tables: Annotated[
        Path | None, typer.Option(help="A folder for each table of the page as CSV and LaTeX.")
    ] = None,
) -> None:
    """Write one page: every run next to published numbers, with intervals, classes, confusions, cost, what
    the text gives away; every row with the answers of each run.
    """
    from mambavl.complexity.report import row_cost
    from mambavl.fuse.report import write_report
    from mambavl.fuse.report.told import CLIPS
    from mambavl.told import read_told

    if clips and not videos:
        raise UsageError("--clips: pictures are taken from videos; name their folder with --videos")
    told = read_told(runs, annotations, videos or [], questions or [], clips or CLIPS)
    missing = write_report(runs, target, told, tables=tables, cost_of=row_cost)
    shown = [run for run in runs if run.is_dir() and str(run) not in missing]
    print(f"wrote {counted(len(shown), 'run')} to {target}")
    for name, why in missing.items():
        print(f"left out {name}: {why}")
