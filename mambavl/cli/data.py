"""`mambavl data`: look at a data set before any work, and write one from other people's lists."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mambavl.cli.options import AnnotationsOption, SplitOption, VideosOption, annotations_of, pairs_of
from mambavl.configs.errors import UsageError, counted
from mambavl.extract.annotations import SPLITS
from mambavl.terminal import progress

data_app = typer.Typer(
    help="Look at a data set before any work; read other people's lists.", no_args_is_help=True
)


@data_app.command("check")
def data_check(
    annotations: AnnotationsOption,
    videos: VideosOption,
    split: SplitOption = "train,validation",
    full: Annotated[
        bool, typer.Option("--full", help="Decode every frame of every video, instead of a few.")
    ] = False,
    index: Annotated[
        Path | None,
        typer.Option("--index", help="Keep the scan of each video in this folder, for later openings."),
    ] = None,
    still_pictures: Annotated[
        bool,
        typer.Option("--still-pictures", help="No file has lost a picture: each stands until the next one."),
    ] = False,
) -> None:
    """List every video that is missing, short, corrupt or not what the annotations say.

    Exit code 1 if there is any.
    """
    from mambavl.extract.data_check import check_data
    from mambavl.extract.video_index import VideoIndex

    read = annotations_of(annotations, split)
    with progress("checking", "videos") as update:
        report = check_data(
            read,
            videos,
            full=full,
            index=VideoIndex(index) if index else None,
            still_pictures=still_pictures,
            on_video=update,
        )
    for problem in report.problems:
        print(problem)
    for note in report.notes:
        print(f"note: {note}")
    rates = ", ".join(f"{rate:g} ({count} videos)" for rate, count in sorted(report.rates.items()))
    if rates:
        print(f"frames a second: {rates}")
    print(f"{report.videos} videos, {len(read.segments):,} segments: {len(report.problems)} problems")
    if report.problems:
        raise typer.Exit(1)


@data_app.command("init")
def data_init(
    source: Annotated[Path, typer.Argument(help="Other people's lists: a file, or a folder of them.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write, for --annotations; not there yet.")],
    layout: Annotated[
        str,
        typer.Option(
            "--layout",
            help="How they are written: columns (CSV or TSV, as the options say), actionformer, assembly101, "
            "ego4d-lta, ego4d-sta, ego-exo4d, egtea, epic-pickle, hd-epic, lerobot or mstcn.",
        ),
    ] = "columns",
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            help="What a column holds, such as --column video=clip: video, start, stop, start_frame, "
            "stop_frame, fps, id, participant, split or text. Of lerobot video=CAMERA, of ego4d-lta and "
            "ego4d-sta video=video_uid. Repeatable.",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="NAME=COLUMN: a target, one label a row. Repeatable."),
    ] = None,
    multi: Annotated[
        list[str] | None,
        typer.Option("--multi", help="NAME=COLUMN: a target, any number of labels a row. Repeatable."),
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option("--separator", help="What stands between the labels of a cell; [] for ['a', 'b']."),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option("--delimiter", help="What stands between cells. Default: by the file's ending."),
    ] = None,
    unit: Annotated[
        Literal["seconds", "milliseconds", "clock"] | None,
        typer.Option("--unit", help="What times are in; clock: HH:MM:SS.ss."),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option("--fps", help="Frames a second that frame numbers count, the first at 0 s."),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--classes",
            help="TARGET=FILE: its classes, a CSV with id and key, or a name a line from 0. Repeatable.",
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--names",
            help="TARGET=COLUMN: the names of the classes whose ids the target's column holds. Repeatable.",
        ),
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="The split of all rows.")] = None,
    split_as: Annotated[
        list[str] | None,
        typer.Option("--split-as", help="THEIRS=OURS: what the lists call a split. Repeatable."),
    ] = None,
    fold: Annotated[
        int | None, typer.Option("--fold", min=1, help="Which of the lists' divisions into splits.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="A video or a row that is left out. Repeatable.")
    ] = None,
    durations: Annotated[
        Path | None,
        typer.Option("--durations", help="CSV with video_id and duration (s), to hold times against."),
    ] = None,
    videos: Annotated[
        list[Path] | None,
        typer.Option("--videos", help="Folder of the videos, to hold times against. Repeatable."),
    ] = None,
    sparse: Annotated[
        bool, typer.Option("--sparse", help="It is right that every video ends with half without rows.")
    ] = False,
) -> None:
    """Write a folder for --annotations from other people's lists."""
    from mambavl.extract.lists.durations import read_durations
    from mambavl.extract.lists.layouts import make
    from mambavl.extract.lists.listing import Request

    request = Request(
        columns=pairs_of("--column", column or [], "WHAT=COLUMN", "video=clip"),
        single=pairs_of("--target", target or [], "NAME=COLUMN", "verb=action"),
        multi=pairs_of("--multi", multi or [], "NAME=COLUMN", "nouns=objects"),
        separator=separator,
        delimiter=delimiter,
        unit=unit,
        fps=_rate(fps),
        classes={
            name: Path(file)
            for name, file in pairs_of("--classes", classes or [], "TARGET=FILE", "verb=verbs.csv").items()
        },
        names=pairs_of("--names", names or [], "TARGET=COLUMN", "verb=verb_name"),
        split=_split(split, "--split"),
        splits=_splits(split_as or []),
        fold=fold,
        without=frozenset(without or []),
    )
    written, notes = make(
        source,
        layout,
        request,
        out,
        durations=read_durations(durations) if durations else None,
        videos=videos or None,
        sparse=sparse,
    )
    for note in notes:
        print(f"note: {note}")
    rows = written.segments
    for part in SPLITS:
        if count := sum(row.split == part for row in rows):
            print(f"{part}: {counted(count, 'row')}")
    for name, one in written.classes.targets.items():
        kind = "one a row" if one.kind == "single" else "any number a row"
        print(f"{name}: {len(one.classes):,} classes, {kind}")
    print(f"{out}: {counted(len(rows), 'row')} of {counted(len({row.video_id for row in rows}), 'video')}")
    print(f"next: mambavl data check --annotations {out} --videos VIDEOS")


def _rate(fps: float | None) -> float | None:
    if fps is not None and not 0 < fps < float("inf"):
        raise UsageError(f"--fps {fps:g}: expected a rate above 0")
    return fps


def _splits(texts: list[str]) -> dict[str, str]:
    pairs = pairs_of("--split-as", texts, "THEIRS=OURS", "val=validation")
    return {theirs: _split(ours, "--split-as") or "" for theirs, ours in pairs.items()}


def _split(name: str | None, option: str) -> str | None:
    if name is not None and name not in SPLITS:
        raise UsageError(f"{option} {name}: use {', '.join(SPLITS)}")
    return name
