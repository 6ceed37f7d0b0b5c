"""`mambavl questions`: make them, import them, measure what they give away."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from mambavl.cli.generate import generate, plan
from mambavl.cli.options import AnnotationsOption, QuestionsOption, SplitOption, annotations_of, pairs_of
from mambavl.cli.settings import with_settings
from mambavl.configs.errors import DataError, UsageError
from mambavl.configs.progress import say
from mambavl.extract.encoders.base import TextEncoder
from mambavl.extract.questions.file import Protocol
from mambavl.terminal import out

LEAKS_SHOWN = 20
TARGETS = ("verb", "noun", "action")

questions_app = typer.Typer(help="Make the verb and noun questions.", no_args_is_help=True)
questions_app.command("generate", cls=with_settings("questions"))(generate)
questions_app.command("plan", cls=with_settings("questions"))(plan)


@questions_app.command("audit")
def questions_audit(
    *,
    file: Annotated[Path, typer.Argument(help="A question file.")],
    annotations: AnnotationsOption,
    against: Annotated[
        list[Path],
        typer.Option(
            "--against",
            default_factory=list,
            show_default=False,
            help="Another question file to compare with. Repeatable.",
        ),
    ],
    page: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("audit.html"),
    as_json: Annotated[Path | None, typer.Option("--json", help="Also write the numbers here.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="A text encoder for a second probe, such as minilm.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="The encoder's folder of weights.")] = None,
    split: SplitOption = "train,validation",
    train_rows: Annotated[
        int, typer.Option(min=0, help="How many train rows the probes learn from; 0 for all.")
    ] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Which train rows are drawn.")] = 0,
    forms_only: Annotated[
        bool, typer.Option("--forms-only", help="Without guessing: only forms, masks and hints.")
    ] = False,
) -> None:
    """Measure what questions give away without a frame.

    Exit code 1 if a form of a row's own class still stands in FILE.
    """
    from mambavl.extract.questions.audit import audit, guessers
    from mambavl.extract.questions.audit_page import write_page

    if weights and not encoder:
        raise UsageError("--weights are an encoder's; name it with --encoder")
    for target in filter(None, (page, as_json)):  # before minutes of work
        if target.is_dir():
            raise UsageError(f"{target}: is a folder; name the file to write")
        target.parent.mkdir(parents=True, exist_ok=True)
    found = audit(
        [file, *against],
        annotations_of(annotations, split),
        encoder=_text_encoder(encoder, weights) if encoder else None,
        train_rows=train_rows,
        seed=seed,
        forms_only=forms_only,
        step=say,
    )
    write_page(found, page)
    if as_json:
        as_json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if rows := guessers(found):
        table = Table("from the texts alone, top-1 %", "protocol", *TARGETS)
        for row in rows:
            scores = [row["top1"][target] for target in TARGETS]
            cells = [f"{score['percent']:.1f} ({score['low']:.1f}-{score['high']:.1f})" for score in scores]
            table.add_row(f"{escape(row['path'])}: {row['name']}", row["protocol"], *cells)
        out.print(table)
    for entry in found["files"]:
        survivors = entry["survivors"]["rows"]
        print(f"{entry['path']}: {survivors:,} of {entry['rows']:,} rows say their own verb or noun")
    print(f"wrote {page}" + (f" and {as_json}" if as_json else ""))
    if found["files"][0]["survivors"]["rows"]:
        raise typer.Exit(1)


def _text_encoder(name: str, weights: str | None) -> TextEncoder:
    from mambavl.extract.encoders import build

    encoder = build(name, weights=weights)
    if not isinstance(encoder, TextEncoder):
        raise UsageError(f"--encoder {name}: reads {encoder.kind}; a probe reads text")
    return encoder


@questions_app.command("import")
def questions_import(
    *,
    file: Annotated[
        Path, typer.Argument(help="Questions of another project: .csv, .tsv, .jsonl, .json, .pkl or .pickle.")
    ],
    annotations: AnnotationsOption,
    protocol: Annotated[Protocol, typer.Option(help="What the questions may know of their rows.")],
    target: QuestionsOption,
    split: SplitOption = "train,validation",
    column: Annotated[
        list[str],
        typer.Option(
            "--column",
            default_factory=list,
            show_default=False,
            help="OURS=THEIRS, such as narration_id=uid. Repeatable.",
        ),
    ],
    prompt_version: Annotated[
        str, typer.Option(help="What stores record as their version; files that mix have the same.")
    ] = "unknown",
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Write them although they say their own classes.")
    ] = False,
) -> None:
    """Import a question file that others made.

    Exit code 1, and nothing written, if a question says its row's own class.
    """
    from mambavl.extract.questions import write_questions
    from mambavl.extract.questions.audit import check_forms
    from mambavl.extract.questions.foreign import import_questions

    read = annotations_of(annotations, split)
    columns = pairs_of("--column", column, "OURS=THEIRS", "narration_id=uid")
    found = import_questions(file, read, protocol, columns=columns, prompt_version=prompt_version)
    leaks = check_forms(found.questions, read)
    rows = len({leak.narration_id for leak in leaks})
    print("columns: " + ", ".join(f"{ours} = {theirs}" for ours, theirs in found.columns.items()))
    print(f"{found.placeholders:,} placeholders were written otherwise")
    print(f"{found.without_question:,} rows have no question")
    for leak in leaks[:LEAKS_SHOWN]:
        print(f"{leak.narration_id}: {leak.question} says its {leak.kind}: {leak.words}")
    print(f"{rows:,} of {len(found.questions):,} rows say their own verb or noun")
    if leaks and not allow_leaks:
        raise DataError(
            f"{file}: {rows:,} rows leak; nothing was written. --allow-leaks takes them all in as they are"
        )
    count = write_questions(target, found.questions)
    print(f"wrote {count:,} question pairs ({protocol} protocol, imported) to {target}")
