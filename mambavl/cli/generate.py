"""`mambavl questions generate` and `plan`: by templates, or by a language model that costs time or money."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from mambavl.cache.rows import Segment
from mambavl.cli.options import (
    AnnotationsOption,
    QuestionsOption,
    SplitOption,
    annotations_of,
    set_option,
    settings_of,
)
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract import questions
from mambavl.extract.annotations import Annotations
from mambavl.extract.questions import predicted
from mambavl.extract.questions.file import Protocol
from mambavl.extract.questions.llm.generate import (
    Outcome,
    generate_with_llm,
    plan_with_llm,
    write_outcome,
)
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.terminal import out, progress, stop_on_signal

Backend = Literal["template", "llm", "local"]
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
ModelSets = Annotated[list[str], set_option("concurrency=16")]
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
    list[Path] | None,
    typer.Option(
        "--videos",
        help="llm: attach frames of the clips to the first stage; needs --set frames=N. Repeatable.",
    ),
]


def generate(
    *,
    annotations: AnnotationsOption,
    target: QuestionsOption,
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
    sets: ModelSets,
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
        written = replace(written, questions=tuple(predicted.named(written.questions, origin)))
    count = write_outcome(target, written, options)
    made_by = f"{protocol} protocol, {backend} backend, {options.model}"
    print(f"wrote {count:,} question pairs ({made_by}) to {target}")


def plan(
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
    sets: ModelSets,
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


# --- what both share


def _segments(
    read: Annotations, protocol: Protocol, scores: list[Path], train_from: list[str]
) -> tuple[Sequence[Segment], str]:
    """The rows that questions are made for; and, for predicted ones, where their classes come from."""
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
    segments, origin = _segments(read, protocol, scores, train_from)
    if protocol == "predicted":
        made = predicted.from_templates(read, segments, origin, hints=hints)
    else:
        made = questions.generate(read, protocol, masked=masked, hints=hints)
    return questions.write_questions(target, made)


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
