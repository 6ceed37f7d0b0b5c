"""`mambavl data`: look at a data set before any work."""

from pathlib import Path
from typing import Annotated

import typer

from mambavl.cli.options import AnnotationsOption, SplitOption, VideosOption, annotations_of
from mambavl.terminal import progress

data_app = typer.Typer(help="Look at a data set before any work.", no_args_is_help=True)


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
