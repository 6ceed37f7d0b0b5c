"""`mambavl push` and `mambavl pull`: stores and heads on a model hub."""

from pathlib import Path
from typing import Annotated

import typer

from mambavl.cli.options import LicenceOption
from mambavl.configs.errors import counted, some
from mambavl.configs.progress import say
from mambavl.terminal import progress, stop_on_signal


def push(
    *,
    path: Annotated[
        Path, typer.Argument(help="A finished store, what `mambavl export` wrote, or a finished run.")
    ],
    repo: Annotated[str, typer.Argument(help="user/name; made where there is none.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make it private; one that is public is refused.")
    ] = False,
    licence: LicenceOption = None,
    revision: Annotated[
        str | None,
        typer.Option(help="A branch, made where there is none. Default: main.", show_default=False),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of another store or head that is there.")
    ] = False,
) -> None:
    """Send a store or a head to the Hugging Face hub, with a card; run it again to resume.

    A store goes as a data set: its files as they are, a card, and its rows with labels and norms as Parquet,
    which the hub's page shows. A head goes as a model; a run is exported first. Every byte is checked before,
    what the hub has already is not sent again, and manifest.json goes last: without it nobody takes what is
    there for whole.

    Who you are: `hf auth login`, or HF_TOKEN. Another hub: HF_ENDPOINT. What the data set forbids is refused:
    EK100 another licence than a non-commercial one, Ego4D a public place.
    """
    from mambavl.hub.parcel import parcel_of
    from mambavl.hub.push import push as push_to

    with progress("verifying", "bytes") as update:
        parcel = parcel_of(path, licence, private=private, progress=update)
    if parcel.paths:
        say(
            f"note: its spec.json or manifest.json names {counted(len(parcel.paths), 'path')} of a machine, "
            f"which whoever reads the repository sees: {some(parcel.paths)}"
        )
    with progress("sending", "bytes") as update, stop_on_signal() as should_stop:
        done = push_to(
            parcel, repo, revision=revision, replace=replace, progress=update, should_stop=should_stop
        )
    print(
        f"sent {counted(done.sent, 'file')} ({done.bytes / 1e6:.1f} MB) of {path} to {done.url}; "
        f"{done.there:,} were there. Id {parcel.id[:16]}, licence {parcel.licence}"
    )


def pull(
    *,
    repo: Annotated[
        str, typer.Argument(help="user/name; datasets/user/name or models/user/name where both are there.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    revision: Annotated[
        str | None, typer.Option(help="A branch, a tag or a commit. Default: main.", show_default=False)
    ] = None,
) -> None:
    """Fetch a store or a head that `mambavl push` sent; run it again to resume.

    It comes into OUT.part and gets its name once every file has the size and sha256 of its manifest and, of a
    store, every row its checksum. What came is never run: weights are safetensors, the rest JSON.
    """
    from mambavl.hub.pull import pull as pull_from

    with progress("fetching", "bytes") as update, stop_on_signal() as should_stop:
        done = pull_from(repo, out, revision=revision, progress=update, should_stop=should_stop)
    print(
        f"wrote the {done.kind} {done.id[:16]} of {repo} to {out}: {counted(done.fetched, 'file')} of "
        f"{done.files:,} fetched ({done.bytes / 1e6:.1f} MB), all of them verified"
    )
