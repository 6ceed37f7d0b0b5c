"""`mambavl predict`: what a trained head says of any video."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.models import OptionInfo

from mambavl.cli.options import pairs_of
from mambavl.configs.errors import UsageError, counted
from mambavl.extract.sampling import Task
from mambavl.terminal import progress, stop_on_signal

if TYPE_CHECKING:
    from mambavl.predict.predict import Answer


def by_stream(help_text: str) -> OptionInfo:
    """A repeatable option."""
    return typer.Option(default_factory=list, show_default=False, help=f"{help_text} Repeatable.")


def predict(
    *,
    video: Annotated[
        Path,
        typer.Argument(
            help="A video: a file, frames in a folder or tar, or chunks. With --store its id will do."
        ),
    ],
    run: Annotated[Path, typer.Option(help="A finished run, made by train or sweep.")],
    every: Annotated[
        float | None, typer.Option(help="Seconds from one answer to the next.", show_default="1")
    ] = None,
    task: Annotated[
        Task | None,
        typer.Option(help="Refuse a run that was trained for another task.", show_default="the run's"),
    ] = None,
    start: Annotated[
        float | None,
        typer.Option(
            help="Time of the first answer, in seconds: where its window ends.",
            show_default="where the first whole window ends",
        ),
    ] = None,
    stop: Annotated[
        float | None, typer.Option(help="Time of the last answer at most.", show_default="the video's end")
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(
            help="Recognition: seconds that an answer looks back on.",
            show_default="the median action of the run's stores",
        ),
    ] = None,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Read the windows one after another: an answer is about all of the video so far, at a cost "
            "that does not grow. Windows adjoin unless --every is given.",
        ),
    ] = False,
    questions: Annotated[
        list[str],
        typer.Option(
            default_factory=list,
            show_default=False,
            help="What the text streams read: generic, masked, none, or your own as verb=TEXT and noun=TEXT. "
            "Default: as the run was trained, where that is the same for every video.",
        ),
    ],
    stores: Annotated[
        list[str],
        typer.Option(
            "--store",
            default_factory=list,
            show_default=False,
            help="STREAM=PATH: take the features from a store's rows of the video, an answer for each row. "
            "Repeatable.",
        ),
    ],
    weights: Annotated[
        list[str], by_stream("STREAM=FILE: weights of the encoder that the features were made with.")
    ],
    encoders: Annotated[
        list[str],
        typer.Option(
            "--encoder",
            default_factory=list,
            show_default=False,
            help="STREAM=MODULE:FUNCTION: run this function, which the features were made with. Repeatable.",
        ),
    ],
    moved: Annotated[
        list[str],
        by_stream("STREAM=PATH: where a store of the run lies now; its four files of metadata will do."),
    ],
    device: Annotated[str, typer.Option(help="Where encoders run: auto, cpu, cuda, cuda:1, ...")] = "auto",
    target: Annotated[
        Path | None, typer.Option("--out", help="A JSON file of all answers, five classes a target.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="A PNG of frames with the five best classes as bars.")
    ] = None,
) -> None:
    """Say what happens in a video, or is about to, every so many seconds, with the head of a finished run.

    Each answer looks at the window that ends at its time and at nothing later: in recognition it is about
    that window, in anticipation about what begins tau_a seconds after it. Features are made as those that
    the head was trained on, encoder, weights and sampling alike, or the command refuses.
    """
    from mambavl.cache import canonical, fsops
    from mambavl.predict.picture import draw
    from mambavl.predict.predict import Request
    from mambavl.predict.predict import predict as run_predict

    paths = {}
    for option, given in (("--store", stores), ("--moved", moved)):
        named = pairs_of(option, given, "STREAM=PATH", "video=stores/video.zarr")
        paths[option] = {stream: Path(path) for stream, path in named.items()}
    if picture and not video.exists():
        raise UsageError(f"--picture: shows frames of the video, and there is no file {video}")
    request = Request(
        run=run,
        video=video,
        task=task,
        every=every,
        start=start,
        stop=stop,
        window=window,
        stream=stream,
        questions=questions,
        stores=paths["--store"],
        moved=paths["--moved"],
        weights=pairs_of("--weights", weights, "STREAM=FILE", "video=weights.safetensors"),
        trusted=pairs_of("--encoder", encoders, "STREAM=MODULE:FUNCTION", "video=my_encoder:build"),
        device=device,
    )
    with progress("encoding", "moments") as update, stop_on_signal() as should_stop:
        found = run_predict(request, progress=update, should_stop=should_stop, on_answer=_print_answer)
    text = found.document["text"]
    if text:
        print(f"text protocol {text['protocol']}; the head was trained on {text['trained_on']} text")
    if found.document["notice"]:
        print(found.document["notice"])
    if target:
        fsops.make_folder(target.parent)
        fsops.write_file(target, canonical.pretty_json(found.document))
        print(f"wrote {counted(len(found.answers), 'answer')} to {target}")
    if picture:
        drawn = draw(video, found.answers, picture)
        print(f"wrote {drawn} of {counted(len(found.answers), 'answer')} to {picture}")


def _print_answer(answer: "Answer") -> None:
    """A line: the time, and the best class of each target."""
    from mambavl.predict.picture import said_of_time

    if answer.best is None:
        print(f"{said_of_time(answer)}: {answer.status}: {answer.reason}")
        return
    words = [
        f"{name} {guesses[0].name} {guesses[0].probability:.2f}" for name, guesses in answer.best.items()
    ]
    print(f"{said_of_time(answer)}: {', '.join(words)}")
