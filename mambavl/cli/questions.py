"""`mambavl questions`: make them, import them, measure what they give away."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from mambavl.cache.rows import Segment
from mambavl.cli.options import (
    AnnotationsOption,
    SetOption,
    SplitOption,
    annotations_of,
    pairs_of,
    settings_of,
)
from mambavl.cli.settings import with_settings
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.annotations import Annotations
from mambavl.extract.questions.file import Protocol
from mambavl.extract.questions.llm.generate import (
    Outcome,
    generate_with_llm,
    plan_with_llm,
    write_outcome,
)
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.terminal import out, progress, stop_on_signal

LEAKS_SHOWN = 20
TARGETS = ("verb", "noun", "action")

questions_app = typer.Typer(help="Make the verb and noun questions.", no_args_is_help=True)

Backend = Literal["template", "llm", "local"]
TargetOption = Annotated[Path, typer.Option("--out", help="The question file to write, JSONL.")]
ProtocolOption = Annotated[
    Protocol,
    typer.Option(
        help="oracle: from each row's own labels; predicted: from a recogniser's scores; "
        "generic: one fixed pair; none: empty texts."
    ),
]
ScoresOption = Annotated[
    list[Path],
    typer.Option(
        "--scores",
        default_factory=list,
        show_default=False,
        help="predicted: a recogniser's scores of rows outside train, npz. Repeatable.",
    ),
]
TrainFromOption = Annotated[
    list[str],
    typer.Option(
        "--train-from",
        default_factory=list,
        show_default=False,
        help="predicted: `labels` (the default), or scores of runs that held the train rows out. Repeatable.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="llm: the server's name for it; local: a folder of a transformers model."),
]
BaseUrlOption = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        help="llm: a server that speaks OpenAI's protocol; default: OpenAI's own. Any other is sent a key "
        "only with --set key_variable=NAME.",
    ),
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache", help="llm, local: the folder of all replies; default: next to the question file."
    ),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        "--budget",
        help="llm: the most money to spend, over all runs with this cache; needs --set prices.input=... and "
        "prices.output=...",
    ),
]
ClipsOption = Annotated[
    Path | None,
    typer.Option(
        "--videos", help="llm: attach frames of the clips to the first stage; needs --set frames=N."
    ),
]


@questions_app.command("generate", cls=with_settings("questions"))
def questions_generate(
    *,
    annotations: AnnotationsOption,
    target: TargetOption,
    split: SplitOption = "train,validation",
    protocol: ProtocolOption = "oracle",
    backend: Annotated[
        Backend, typer.Option(help="Who writes them. llm: a server; local: a language model in this process.")
    ] = "template",
    scores: ScoresOption,
    train_from: TrainFromOption,
    unmasked: Annotated[
        bool,
        typer.Option(
            "--unmasked", help="template, oracle: leave the answers in, for the audit to compare with."
        ),
    ] = False,
    hints: Annotated[
        bool,
        typer.Option("--hints/--no-hints", help="template: give the answer's category, or leave it out."),
    ] = True,
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    cache: CacheOption = None,
    budget: BudgetOption = None,
    videos: ClipsOption = None,
    sets: SetOption,
) -> None:
    """Write a verb question and a noun question for every segment. With a model, run it again to resume."""
    if target.is_dir():  # before anything is paid for
        raise UsageError(
            f"{target}: is a folder; name the file to write, such as {target / 'questions.jsonl'}"
        )
    if unmasked and (backend, protocol) != ("template", "oracle"):
        raise UsageError(
            "--unmasked is for --backend template --protocol oracle: the audit compares it with what masking "
            "leaves"
        )
    if not hints and (backend != "template" or protocol not in ("oracle", "predicted")):
        raise UsageError(
            "--no-hints is for the templates' oracle and predicted questions; no others have hints"
        )
    if backend == "template":
        _refuse_model_options(
            {
                "--model": model,
                "--base-url": base_url,
                "--cache": cache,
                "--budget": budget,
                "--videos": videos,
                "--set": sets,
            }
        )
        read = annotations_of(annotations, split)
        count = _write_templates(read, target, protocol, scores, train_from, not unmasked, hints)
        print(f"wrote {count:,} question pairs ({protocol} protocol, template backend) to {target}")
        return
    options = _model_settings(backend, model, base_url, budget, sets)
    read = annotations_of(annotations, split)
    segments, origin = _segments(read, protocol, scores, train_from)
    cache = cache or _cache_of(target)
    with progress("writing questions", "requests") as update, stop_on_signal() as should_stop:
        outcome = generate_with_llm(
            read,
            segments,
            options,
            cache,
            backend=backend,
            protocol=protocol,
            videos=videos,
            progress=update,
            should_stop=should_stop,
        )
    _print_outcome(outcome, options, cache)
    written = outcome.written
    if written.failures:
        raise DataError(
            f"{len(written.failures):,} of {len(read.segments):,} rows failed, so {target} was not written; "
            f"all answers so far are in {cache}: run the same command again, where replies were rejected "
            f"with --set attempts={options.attempts + 2}"
        )
    if origin:
        from mambavl.extract.questions.predicted import named

        written = replace(written, questions=tuple(named(written.questions, origin)))
    count = write_outcome(target, written, options)
    made_by = f"{protocol} protocol, {backend} backend, {options.model}"
    print(f"wrote {count:,} question pairs ({made_by}) to {target}")


@questions_app.command("plan", cls=with_settings("questions"))
def questions_plan(
    *,
    annotations: AnnotationsOption,
    target: Annotated[
        Path,
        typer.Option("--out", help="The question file that `generate` would write; its cache is looked at."),
    ],
    split: SplitOption = "train,validation",
    protocol: ProtocolOption = "oracle",
    scores: ScoresOption,
    train_from: TrainFromOption,
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    cache: CacheOption = None,
    budget: BudgetOption = None,
    videos: ClipsOption = None,
    sets: SetOption,
) -> None:
    """Say what `generate --backend llm` would send and what that costs. Sends nothing and needs no key."""
    options = _model_settings("llm", model, base_url, budget, sets)
    read = annotations_of(annotations, split)
    segments, _ = _segments(read, protocol, scores, train_from)
    found = plan_with_llm(
        read, segments, options, cache or _cache_of(target), protocol=protocol, videos=videos
    )
    of_budget = "" if options.budget is None else f" of {options.budget:g}"
    facts = {
        "rows": f"{found.rows:,}",
        "distinct (narration, verb, noun)" if videos is None else "clips": f"{found.groups:,}",
        "answers in the cache": f"{found.cached[0]:,} descriptions, {found.cached[1]:,} question pairs",
        "calls": f"{found.calls[0]:,} for descriptions, {found.calls[1]:,} for questions",
        "waiting in batches": f"{found.waiting[0]:,} requests in {found.waiting[1]:,} batches",
        "tokens, estimated": f"{found.tokens_in:,} in, {found.tokens_out:,} out",
        "cost, estimated": "unknown: no prices are set" if found.cost is None else f"{found.cost:,.4f}",
        "cost, at most": "unknown" if found.most is None else f"{found.most:,.4f} if no call is repeated",
        "spent so far": f"{found.spent:,.4f}{of_budget}",
    }
    table = Table(show_header=False, title=f"{options.model}, {options.mode}", title_justify="left")
    for name, value in facts.items():
        table.add_row(name, value)
    out.print(table)


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
    """Measure what questions give away without a frame. Exit code 1 if a form of a row's own class still
    stands in FILE.
    """
    from mambavl.extract.encoders import build
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
        encoder=build(encoder, weights=weights) if encoder else None,
        train_rows=train_rows,
        seed=seed,
        forms_only=forms_only,
        step=lambda what: print(what, file=sys.stderr, flush=True),
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


@questions_app.command("import")
def questions_import(
    *,
    file: Annotated[
        Path, typer.Argument(help="Questions of another project: .csv, .tsv, .jsonl, .json, .pkl or .pickle.")
    ],
    annotations: AnnotationsOption,
    protocol: Annotated[Protocol, typer.Option(help="What the questions may know of their rows.")],
    target: TargetOption,
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
    """Import a question file that others made. Exit code 1, and nothing written, if a question says its
    row's own class.
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


# --- what generate and plan share


def _segments(
    read: Annotations, protocol: Protocol, scores: list[Path], train_from: list[str]
) -> tuple[Sequence[Segment], str]:
    """The rows that questions are made for; and, for predicted ones, where their classes come from."""
    from mambavl.extract.questions import predicted

    from_labels = train_from in ([], ["labels"])
    if protocol == "predicted":
        if "labels" in train_from and not from_labels:
            raise UsageError("--train-from: labels or scores files, not both")
        held_out = [] if from_labels else [Path(name) for name in train_from]
        return predicted.as_predicted(read, scores, train_from=held_out), predicted.origin(held_out)
    if scores or not from_labels:
        raise UsageError(f"--scores and --train-from are for --protocol predicted, not {protocol}")
    return read.segments, ""


def _write_templates(
    read: Annotations,
    target: Path,
    protocol: Protocol,
    scores: list[Path],
    train_from: list[str],
    masked: bool,
    hints: bool,
) -> int:
    from mambavl.extract.questions import generate, predicted, write_questions

    segments, origin = _segments(read, protocol, scores, train_from)
    if protocol == "predicted":
        return write_questions(target, predicted.from_templates(read, segments, origin, hints=hints))
    return write_questions(target, generate(read, protocol, masked=masked, hints=hints))


def _refuse_model_options(given: dict[str, object]) -> None:
    if unused := [name for name, value in given.items() if value]:
        raise UsageError(
            f"{', '.join(unused)}: the templates use no model; add --backend llm or --backend local"
        )


def _model_settings(
    backend: Backend, model: str | None, base_url: str | None, budget: float | None, sets: list[str]
) -> LLMSettings:
    if model is None:
        raise UsageError(f"--backend {backend} needs --model")
    return settings_of(LLMSettings, {"model": model, "base_url": base_url, "budget": budget}, sets)


def _cache_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.cache")


def _print_outcome(outcome: Outcome, options: LLMSettings, cache: Path) -> None:
    tally = outcome.tally
    for name, size in outcome.ledger.torn.items():
        print(f"note: {cache / name}: its last {size:,} bytes are not a whole record and do not count")
    rejected = ", ".join(f"{count:,} {kind}" for kind, count in sorted(tally.rejected.items())) or "none"
    print(f"calls: {tally.calls:,} ({tally.faults:,} without a reply)")
    print(f"answers from {cache}: {tally.from_cache:,}")
    print(f"replies rejected: {rejected}; {tally.fenced:,} accepted ones stood in a fenced block")
    print(f"tokens: {tally.tokens_in:,} in, {tally.tokens_out:,} out")
    if options.prices is not None:
        print(f"cost: {tally.cost:.4f} in this run; {outcome.ledger.spent:.4f} by the books of the cache")
    for narration_id, reason in outcome.written.failures.items():
        print(f"{narration_id}: failed: {reason}")
