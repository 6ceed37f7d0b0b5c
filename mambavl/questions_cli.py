"""`mambavl questions`: the commands that make questions."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from mambavl.configs.errors import DataError, UsageError
from mambavl.options import AnnotationsOption, SetOption, SplitOption, annotations_of, options_of
from mambavl.terminal import out, progress, stop_on_signal

questions_app = typer.Typer(help="Make the verb and noun questions.", no_args_is_help=True)

ModelOption = Annotated[
    str | None, typer.Option("--model", help="llm: the server's name for it; local: a folder of a transformers model.")
]
BaseUrlOption = Annotated[
    str | None, typer.Option("--base-url", help="llm: a server that speaks OpenAI's protocol; absent: OpenAI's own.")
]
CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="llm, local: the folder of all replies; absent: beside the question file.")
]
BudgetOption = Annotated[
    float | None, typer.Option("--budget", help="llm: money, over all runs with this cache; needs --set prices.input, .output.")
]
VideosOption = Annotated[
    Path | None, typer.Option("--videos", help="llm: attach frames of the clips to the first stage; needs --set frames=N.")
]


class Protocol(StrEnum):
    """What the questions may know."""

    oracle = "oracle"
    generic = "generic"
    none = "none"


class Backend(StrEnum):
    """Who writes the questions."""

    template = "template"
    llm = "llm"
    local = "local"


@questions_app.command("generate")
def questions_generate(
    annotations: AnnotationsOption,
    target: Annotated[Path, typer.Option("--out", help="The question file, JSONL.")],
    split: SplitOption = "train,validation",
    protocol: Annotated[
        Protocol, typer.Option(help="oracle: from each row's own labels; generic: one fixed pair; none: empty texts.")
    ] = Protocol.oracle,
    backend: Annotated[
        Backend, typer.Option(help="Who writes them. llm: a server; local: a language model in this process.")
    ] = Backend.template,
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    cache: CacheOption = None,
    budget: BudgetOption = None,
    videos: VideosOption = None,
    sets: SetOption = [],  # noqa: B006
) -> None:
    """Write a verb question and a noun question for every segment. With a model, run it again to resume."""
    from mambavl.extract.questions import generate, write_questions

    if backend is Backend.template:
        given = {
            "--model": model,
            "--base-url": base_url,
            "--cache": cache,
            "--budget": budget,
            "--videos": videos,
            "--set": sets,
        }
        if unused := [name for name, value in given.items() if value]:
            raise UsageError(f"{', '.join(unused)}: the templates ask no model; add --backend llm or --backend local")
        count = write_questions(target, generate(annotations_of(annotations, split), protocol.value))
        print(f"wrote {count:,} question pairs ({protocol.value} protocol, {backend.value} backend) to {target}")
        return
    options = _asking(backend, model, base_url, budget, sets)
    if target.is_dir():  # before anything is paid for
        raise UsageError(f"{target}: is a folder; name the file to write, such as {target / 'questions.jsonl'}")
    _generate(annotations_of(annotations, split), target, options, _cache(cache, target), backend.value, protocol.value, videos)


@questions_app.command("plan")
def questions_plan(
    annotations: AnnotationsOption,
    target: Annotated[Path, typer.Option("--out", help="The question file that `generate` would write; its cache is looked at.")],
    split: SplitOption = "train,validation",
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    cache: CacheOption = None,
    budget: BudgetOption = None,
    videos: VideosOption = None,
    sets: SetOption = [],  # noqa: B006
) -> None:
    """Say what `generate --backend llm` would ask and what that costs. Sends nothing, needs no key."""
    from mambavl.extract.questions.asking import plan_asking

    options = _asking(Backend.llm, model, base_url, budget, sets)
    read = annotations_of(annotations, split)
    found = plan_asking(read, read.segments, options, _cache(cache, target), videos=videos)
    facts = {
        "rows": f"{found.rows:,}",
        "distinct (narration, verb, noun)" if videos is None else "clips": f"{found.groups:,}",
        "answers in the cache": f"{found.cached[0]:,} descriptions, {found.cached[1]:,} question pairs",
        "calls": f"{found.calls[0]:,} for descriptions, {found.calls[1]:,} for questions",
        "tokens, estimated": f"{found.tokens_in:,} in, {found.tokens_out:,} out",
        "cost, estimated": "unknown: no prices are set" if found.cost is None else f"{found.cost:,.4f}",
        "cost, at most": "unknown" if found.most is None else f"{found.most:,.4f} if no call is repeated",
        "spent so far": f"{found.spent:,.4f}" + (f" of {options.budget:g}" if options.budget is not None else ""),
    }
    table = Table(show_header=False, title=f"{options.model}, {options.mode}", title_justify="left")
    for name, value in facts.items():
        table.add_row(name, value)
    out.print(table)


def _asking(backend: Backend, model: str | None, base_url: str | None, budget: float | None, sets: list[str]) -> Any:
    from mambavl.extract.questions.llm import Asking

    if model is None and not any(text.partition("=")[0].strip() == "model" for text in sets):
        raise UsageError(f"--backend {backend.value} needs --model")
    return options_of(Asking, {"model": model, "base_url": base_url, "budget": budget}, sets)


def _cache(cache: Path | None, target: Path) -> Path:
    return cache or target.with_name(f"{target.name}.cache")


def _generate(read: Any, target: Path, options: Any, cache: Path, backend: str, protocol: str, videos: Path | None) -> None:
    from mambavl.extract.questions.asking import ask, write_asked

    with progress("asking", "requests") as update, stop_on_signal() as should_stop:
        hooks = {"progress": update, "should_stop": should_stop}
        asked = ask(read, read.segments, options, cache, backend=backend, protocol=protocol, videos=videos, **hooks)
    written, tally = asked.written, asked.tally
    for name, size in asked.ledger.torn.items():
        print(f"note: {cache / name}: its last {size:,} bytes are no whole record and do not count")
    rejected = ", ".join(f"{count:,} {kind}" for kind, count in sorted(tally.rejected.items())) or "none"
    print(f"calls: {tally.calls:,} ({tally.faults:,} without a reply); {tally.from_cache:,} answers came from {cache}")
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
    count = write_asked(target, written, options)
    print(f"wrote {count:,} question pairs ({protocol} protocol, {backend} backend, {options.model}) to {target}")
