"""`mambavl questions`: make them, take them in, measure what they give away."""

import json
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from mambavl.cli.options import AnnotationsOption, SetOption, SplitOption, annotations_of, options_of
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.encoders import registry
from mambavl.terminal import out, progress, stop_on_signal

questions_app = typer.Typer(help="Make the verb and noun questions.", no_args_is_help=True)

ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="llm: the server's name for it; local: a folder of a transformers model."),
]
BaseUrlOption = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        help="llm: a server that speaks OpenAI's protocol; absent: OpenAI's own. Another one is sent a key only with "
        "--set key_variable=NAME.",
    ),
]
CacheOption = Annotated[
    Path | None,
    typer.Option("--cache", help="llm, local: the folder of all replies; absent: beside the question file."),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        "--budget", help="llm: money, over all runs with this cache; needs --set prices.input, .output."
    ),
]
VideosOption = Annotated[
    Path | None,
    typer.Option(
        "--videos", help="llm: attach frames of the clips to the first stage; needs --set frames=N."
    ),
]


class Protocol(StrEnum):
    """What the questions may know."""

    oracle = "oracle"
    predicted = "predicted"
    generic = "generic"
    none = "none"


class Backend(StrEnum):
    """Who writes the questions."""

    template = "template"
    llm = "llm"
    local = "local"


ProtocolOption = Annotated[
    Protocol,
    typer.Option(
        help="oracle: from each row's own labels; predicted: from a recogniser's scores; generic: one fixed pair; none: "
        "empty texts."
    ),
]
ScoresOption = Annotated[
    list[Path],
    typer.Option("--scores", help="predicted: a recogniser's scores of rows outside train, npz. Repeatable."),
]
TrainFromOption = Annotated[
    list[str],
    typer.Option(
        "--train-from",
        help="predicted: `labels`, or scores of runs that held the train rows out. Repeatable.",
    ),
]


@questions_app.command("generate")
def questions_generate(
    annotations: AnnotationsOption,
    target: Annotated[Path, typer.Option("--out", help="The question file, JSONL.")],
    split: SplitOption = "train,validation",
    protocol: ProtocolOption = Protocol.oracle,
    backend: Annotated[
        Backend, typer.Option(help="Who writes them. llm: a server; local: a language model in this process.")
    ] = Backend.template,
    scores: ScoresOption = [],  # noqa: B006
    train_from: TrainFromOption = ["labels"],  # noqa: B006
    unmasked: Annotated[
        bool,
        typer.Option(
            "--unmasked", help="template, oracle: leave the answers in, for the audit to compare with."
        ),
    ] = False,
    hints: Annotated[
        bool,
        typer.Option("--hints/--no-hints", help="template: tell the answer's category, or leave it out."),
    ] = True,
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    cache: CacheOption = None,
    budget: BudgetOption = None,
    videos: VideosOption = None,
    sets: SetOption = [],  # noqa: B006
) -> None:
    """Write a verb question and a noun question for every segment. With a model, run it again to resume."""
    from mambavl.extract.questions import generate, predicted, write_questions

    if target.is_dir():  # before anything is paid for
        raise UsageError(
            f"{target}: is a folder; name the file to write, such as {target / 'questions.jsonl'}"
        )
    read = annotations_of(annotations, split)
    segments, origin = _segments(read, protocol, scores, train_from)
    if unmasked and (backend, protocol) != (Backend.template, Protocol.oracle):
        raise UsageError(
            "--unmasked is for --backend template --protocol oracle: the audit compares it with what masking leaves"
        )
    if not hints and (
        backend is not Backend.template or protocol not in (Protocol.oracle, Protocol.predicted)
    ):
        raise UsageError(
            "--no-hints is for the templates' oracle and predicted questions; no others have hints"
        )
    if backend is not Backend.template:
        options = _asking(backend, model, base_url, budget, sets)
        _generate(
            read,
            segments,
            target,
            options,
            _cache(cache, target),
            backend.value,
            protocol.value,
            videos,
            origin,
        )
        return
    given = {
        "--model": model,
        "--base-url": base_url,
        "--cache": cache,
        "--budget": budget,
        "--videos": videos,
        "--set": sets,
    }
    if unused := [name for name, value in given.items() if value]:
        raise UsageError(
            f"{', '.join(unused)}: the templates ask no model; add --backend llm or --backend local"
        )
    if origin:
        made = predicted.from_templates(read, segments, origin, hints=hints)
    else:
        made = generate(read, protocol.value, masked=not unmasked, hints=hints)
    count = write_questions(target, made)
    print(f"wrote {count:,} question pairs ({protocol.value} protocol, {backend.value} backend) to {target}")


@questions_app.command("plan")
def questions_plan(
    annotations: AnnotationsOption,
    target: Annotated[
        Path,
        typer.Option("--out", help="The question file that `generate` would write; its cache is looked at."),
    ],
    split: SplitOption = "train,validation",
    protocol: ProtocolOption = Protocol.oracle,
    scores: ScoresOption = [],  # noqa: B006
    train_from: TrainFromOption = ["labels"],  # noqa: B006
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    cache: CacheOption = None,
    budget: BudgetOption = None,
    videos: VideosOption = None,
    sets: SetOption = [],  # noqa: B006
) -> None:
    """Say what `generate --backend llm` would ask and what that costs. Sends nothing, needs no key."""
    from mambavl.extract.questions.llm.generate import plan_with_llm

    options = _asking(Backend.llm, model, base_url, budget, sets)
    read = annotations_of(annotations, split)
    segments, _ = _segments(read, protocol, scores, train_from)
    found = plan_with_llm(
        read, segments, options, _cache(cache, target), protocol=protocol.value, videos=videos
    )
    facts = {
        "rows": f"{found.rows:,}",
        "distinct (narration, verb, noun)" if videos is None else "clips": f"{found.groups:,}",
        "answers in the cache": f"{found.cached[0]:,} descriptions, {found.cached[1]:,} question pairs",
        "calls": f"{found.calls[0]:,} for descriptions, {found.calls[1]:,} for questions",
        "waiting in batches": f"{found.waiting[0]:,} requests in {found.waiting[1]:,} batches",
        "tokens, estimated": f"{found.tokens_in:,} in, {found.tokens_out:,} out",
        "cost, estimated": "unknown: no prices are set" if found.cost is None else f"{found.cost:,.4f}",
        "cost, at most": "unknown" if found.most is None else f"{found.most:,.4f} if no call is repeated",
        "spent so far": f"{found.spent:,.4f}"
        + (f" of {options.budget:g}" if options.budget is not None else ""),
    }
    table = Table(show_header=False, title=f"{options.model}, {options.mode}", title_justify="left")
    for name, value in facts.items():
        table.add_row(name, value)
    out.print(table)


def _segments(read: Any, protocol: Protocol, scores: list[Path], train_from: list[str]) -> tuple[Any, str]:
    """The rows that questions are made for, and for predicted ones where their classes come from."""
    from mambavl.extract.questions import predicted

    if protocol is Protocol.predicted:
        if "labels" in train_from and len(train_from) > 1:
            raise UsageError("--train-from: labels or scores files, not both")
        held_out = [] if train_from == ["labels"] else [Path(name) for name in train_from]
        return predicted.as_predicted(read, scores, train_from=held_out), predicted.origin(held_out)
    if scores or train_from != ["labels"]:
        raise UsageError(f"--scores and --train-from are for --protocol predicted, not {protocol.value}")
    return read.segments, ""


def _asking(
    backend: Backend, model: str | None, base_url: str | None, budget: float | None, sets: list[str]
) -> Any:
    from mambavl.extract.questions.llm.options import LLMSettings

    if model is None and not any(text.partition("=")[0].strip() == "model" for text in sets):
        raise UsageError(f"--backend {backend.value} needs --model")
    return options_of(LLMSettings, {"model": model, "base_url": base_url, "budget": budget}, sets)


def _cache(cache: Path | None, target: Path) -> Path:
    return cache or target.with_name(f"{target.name}.cache")


def _generate(
    read: Any,
    segments: Any,
    target: Path,
    options: Any,
    cache: Path,
    backend: str,
    protocol: str,
    videos: Path | None,
    origin: str,
) -> None:
    from mambavl.extract.questions import predicted
    from mambavl.extract.questions.llm.generate import generate_with_llm, write_outcome

    with progress("asking", "requests") as update, stop_on_signal() as should_stop:
        hooks = {"progress": update, "should_stop": should_stop}
        asked = generate_with_llm(
            read, segments, options, cache, backend=backend, protocol=protocol, videos=videos, **hooks
        )
    written, tally = asked.written, asked.tally
    for name, size in asked.ledger.torn.items():
        print(f"note: {cache / name}: its last {size:,} bytes are no whole record and do not count")
    rejected = ", ".join(f"{count:,} {kind}" for kind, count in sorted(tally.rejected.items())) or "none"
    print(
        f"calls: {tally.calls:,} ({tally.faults:,} without a reply); {tally.from_cache:,} answers came from {cache}"
    )
    print(f"replies rejected: {rejected}; {tally.fenced:,} accepted ones stood in a fenced block")
    print(f"tokens: {tally.tokens_in:,} in, {tally.tokens_out:,} out")
    if options.prices is not None:
        print(f"cost: {tally.cost:.4f} in this run; {asked.ledger.spent:.4f} by the books of the cache")
    for narration_id, reason in written.failures.items():
        print(f"{narration_id}: failed: {reason}")
    if written.failures:
        raise DataError(
            f"{len(written.failures):,} of {len(read.segments):,} rows failed, so {target} was not written; what was answered is "
            f"in {cache}: run the same command again, where replies were rejected with --set attempts={options.attempts + 2}"
        )
    if origin:
        written = replace(written, questions=tuple(predicted.named(written.questions, origin)))
    count = write_outcome(target, written, options)
    print(
        f"wrote {count:,} question pairs ({protocol} protocol, {backend} backend, {options.model}) to {target}"
    )


@questions_app.command("audit")
def questions_audit(
    file: Annotated[Path, typer.Argument(help="A question file.")],
    annotations: AnnotationsOption,
    against: Annotated[
        list[Path], typer.Option("--against", help="Another question file to lay beside it. Repeatable.")
    ] = [],  # noqa: B006
    page: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("audit.html"),
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the numbers here, too.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="A text encoder for a second probe, such as minilm.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="The encoder's folder of weights.")] = None,
    split: SplitOption = "train,validation",
    train_rows: Annotated[
        int, typer.Option(min=0, help="Train rows that the probes learn from; 0 for all.")
    ] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Which train rows are drawn.")] = 0,
    forms_only: Annotated[
        bool, typer.Option("--forms-only", help="No guessing: forms, masks and hints alone.")
    ] = False,
) -> None:
    """Measure what questions give away without a frame. Exit code 1 if a form of a row's own class still
    stands in FILE.
    """
    from mambavl.extract.questions.audit import audit, write_page
    from mambavl.extract.questions.probes import guessers

    if weights and not encoder:
        raise UsageError("--weights are an encoder's; name it with --encoder")
    for target in filter(None, (page, as_json)):  # before minutes of work
        if target.is_dir():
            raise UsageError(f"{target}: is a folder; name the file to write")
        target.parent.mkdir(parents=True, exist_ok=True)
    model = registry.build(encoder, weights=weights) if encoder else None
    read = annotations_of(annotations, split)
    log = lambda what: print(what, file=sys.stderr, flush=True)
    options = {
        "encoder": model,
        "train_rows": train_rows,
        "seed": seed,
        "forms_only": forms_only,
        "step": log,
    }
    found = audit([file, *against], read, **options)
    write_page(found, page)
    if as_json:
        as_json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if rows := guessers(found):
        table = Table("from the texts alone, top-1 %", "protocol", "verb", "noun", "action")
        for row in rows:
            shares = [
                f"{s['percent']:.1f} ({s['low']:.1f}-{s['high']:.1f})"
                for s in (row["top1"][t] for t in _TARGETS)
            ]
            table.add_row(f"{escape(row['path'])}: {row['name']}", row["protocol"], *shares)
        out.print(table)
    for entry in found["files"]:
        print(
            f"{entry['path']}: {entry['survivors']['rows']:,} of {entry['rows']:,} rows say their own verb or noun"
        )
    print(f"wrote {page}" + (f" and {as_json}" if as_json else ""))
    if found["files"][0]["survivors"]["rows"]:
        raise typer.Exit(1)


@questions_app.command("import")
def questions_import(
    file: Annotated[
        Path, typer.Argument(help="Questions of another project: .csv, .tsv, .jsonl, .json, .pkl or .pickle.")
    ],
    annotations: AnnotationsOption,
    protocol: Annotated[str, typer.Option(help="What they may know: oracle, predicted, generic or none.")],
    target: Annotated[Path, typer.Option("--out", help="The question file, JSONL.")],
    split: SplitOption = "train,validation",
    column: Annotated[
        list[str], typer.Option("--column", help="OURS=THEIRS, such as narration_id=uid. Repeatable.")
    ] = [],  # noqa: B006
    prompt_version: Annotated[
        str, typer.Option(help="What the stores call this making; halves that mix share it.")
    ] = "unknown",
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Write them although they say their own classes.")
    ] = False,
) -> None:
    """Take in a question file that others made. Exit code 1, and nothing written, if a question says its
    row's own class.
    """
    from mambavl.extract.questions import write_questions
    from mambavl.extract.questions.audit import check_forms
    from mambavl.extract.questions.foreign import import_questions

    read = annotations_of(annotations, split)
    columns = {}
    for assignment in column:
        ours, equals, theirs = assignment.partition("=")
        if not equals:
            raise UsageError(
                f"--column {assignment!r}: expected OURS=THEIRS, for example --column narration_id=uid"
            )
        columns[ours] = theirs
    found = import_questions(file, read, protocol, columns=columns, prompt_version=prompt_version)
    leaks = check_forms(found.questions, read)
    rows = len({leak.narration_id for leak in leaks})
    print("columns: " + ", ".join(f"{ours} = {theirs}" for ours, theirs in found.columns.items()))
    print(
        f"{found.placeholders:,} placeholders were written otherwise; {found.without_question:,} rows have no question"
    )
    for leak in leaks[:_LEAKS_SHOWN]:
        print(f"{leak.narration_id}: {leak.question} says its {leak.kind}: {leak.words}")
    print(f"{rows:,} of {len(found.questions):,} rows say their own verb or noun")
    if leaks and not allow_leaks:
        raise DataError(
            f"{file}: {rows:,} rows leak; nothing was written. --allow-leaks takes them all in as they are"
        )
    count = write_questions(target, found.questions)
    print(f"wrote {count:,} question pairs ({protocol} protocol, imported) to {target}")


_TARGETS = ("verb", "noun", "action")
_LEAKS_SHOWN = 20
