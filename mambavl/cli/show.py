"""Tables of results and of sweeps."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live
from rich.markup import escape
from rich.table import Table

from mambavl.fuse.result import Metrics, Result
from mambavl.fuse.sweep import OnChange, Point
from mambavl.terminal import console, out

TARGETS = ("verb", "noun", "action")


def print_result(result: Result) -> None:
    """The metrics of a result in a table, and under it what they must be read with."""
    title = f"{result.title}, {result.split}, {result.text_protocol} text"
    table = Table("", *TARGETS, title=title, title_justify="left")
    for label, key in (("top-1", "top1"), ("top-5", "top5"), ("mean class recall@5", "mean_class_recall5")):
        table.add_row(label, *_percents(result.metrics, key))
    table.add_row("prior top-1", *_percents(result.prior_metrics, "top1"))
    out.print(table)
    encoders = ", ".join(
        f"{name}: {stream.encoder.name} ({stream.encoder.state})" for name, stream in result.streams.items()
    )
    print(f"text protocol {result.text_protocol}; {encoders}")
    if result.notice:
        out.print(escape(result.notice), style="bold red")
    rows = result.rows
    print(f"{rows.scored:,} rows scored, {rows.scored_by_prior:,} of them by the prior (no features)")


@contextmanager
def show_sweep() -> Iterator[OnChange]:
    """Yields what to call when a point changes: it redraws a table on a terminal, prints lines in a log."""
    if not console.is_terminal:
        yield _SweepLines()
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda points: live.update(sweep_table(points))


def sweep_table(points: list[Point]) -> Table:
    """A row for every point of the grid: its state, and its scores once it has them."""
    table = Table("point", "state", "epoch", "text", *TARGETS)
    notices = set()
    for point in points:
        epoch = f"{point.epoch}/{point.recipe.train.epochs}" if point.epoch else ""
        text, scores = "", ["", "", ""]
        if point.result:
            text, scores = point.result.text_protocol, _percents(point.result.metrics, "top1")
            if point.result.notice:
                text += " (!)"
                notices.add(point.result.notice)
        table.add_row(point.name, point.state, epoch, text, *scores)
    table.caption = "\n".join(f"(!) {notice}" for notice in sorted(notices)) or None
    return table


class _SweepLines:
    """A line in the log for each change of a point's state."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}

    def __call__(self, points: list[Point]) -> None:
        for point in points:
            if self.states.get(point.name, "waiting") != point.state:
                self.states[point.name] = point.state
                why = f" ({point.error})" if point.error else ""
                print(f"{point.name}: {point.state}{why}", file=sys.stderr, flush=True)


def _percents(metrics: Metrics, key: str) -> list[str]:
    """The metric over all rows of verb, noun and action, in percent; a dash where it was not measured."""
    values = [metrics.get(f"all_{target}_{key}") for target in TARGETS]
    return ["-" if value is None else f"{value:.1f}" for value in values]
