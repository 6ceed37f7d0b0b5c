"""Tables of results and of sweeps."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from mambavl.configs.errors import counted
from mambavl.configs.progress import say
from mambavl.fuse.chosen import Chosen
from mambavl.fuse.metrics import RECALL5
from mambavl.fuse.points import OnChange, Point
from mambavl.fuse.result import Metrics, Result, spoken
from mambavl.fuse.run import CurveLine
from mambavl.fuse.selection import candidates, score_of
from mambavl.fuse.without import Without
from mambavl.terminal import console, out

BEST = 10  # points that are shown of more than a screen holds
AROUND = 8  # lines of a table that are not points, and of what is said about it

KINDS = (("top-1", "top1"), ("top-5", "top5"), ("mean class recall@5", "mean_class_recall5"), ("mAP", "map"))


def print_result(result: Result) -> None:
    """The metrics of a result in a table, and under it what they must be read with."""
    told = f", {result.history_protocol} history" if result.history_protocol != "absent" else ""
    title = f"{result.title}, {result.split}, {result.text_protocol} text{told}"
    table = Table("", *result.targets)
    for label, key in KINDS:
        cells = _percents(result, result.metrics, key)
        if key == "top1" or any(cell != "-" for cell in cells):
            table.add_row(label, *cells)
    for label, key in (KINDS[0], KINDS[-1]):
        cells = _percents(result, result.prior_metrics, key)
        if key == "top1" or any(cell != "-" for cell in cells):
            table.add_row(f"prior {label}", *cells)
    out.print(escape(title), style="italic")
    out.print(table)
    encoders = ", ".join(
        f"{name}: {stream.encoder.name} ({stream.encoder.state})" for name, stream in result.streams.items()
    )
    print(f"text protocol {result.protocols}; {encoders}")
    if result.notice:
        out.print(escape(result.notice), style="bold red")
    rows = result.rows
    print(
        f"{rows.scored:,} rows scored, {rows.scored_by_prior:,} of them by the prior (a stream was missing)"
    )
    if result.trained.stopped:
        print(f"training stopped after epoch {result.trained.stopped} of {result.epochs}: it got no better")
    lacking = {name: count for name, count in (rows.missing or {}).items() if count}
    if lacking:
        print("rows without a stream: " + ", ".join(f"{name} {count:,}" for name, count in lacking.items()))


def epoch_in_words(done: int, total: int, epochs: int) -> str:
    """The epoch that the last of `done` updates is of."""
    return f"epoch {-(-done * epochs // total)} of {epochs}"


def line_in_words(line: CurveLine, epochs: int) -> str:
    """`epoch 3 of 30: loss 2.3145, verb top-1 41.2, action top-1 20.3`; its loss alone where an epoch is not
    scored.
    """
    scores = [
        f", {spoken(f'all_{key}')} {value:.1f}"
        for key, value in line.items()
        if key.endswith(("_top1", "_map", f"_{RECALL5}")) and value is not None
    ]
    return f"epoch {line['epoch']} of {epochs}: loss {line['loss']:.4f}{''.join(scores)}"


def print_without(found: Without) -> None:
    """The metrics of a run with and without some streams, and the difference: what they are worth."""
    names = ", ".join(found.streams)
    title = f"{found.title}, {found.split}, without {names}"
    table = Table("", *found.targets)
    for label, key in KINDS:
        cells = _percents(found, found.with_all, key)
        if key == "top1" or any(cell != "-" for cell in cells):
            table.add_row(label, *cells)
            table.add_row(f"  without {names}", *_percents(found, found.without, key))
            worth = [found.difference(f"all_{target}_{key}") for target in found.targets]
            table.add_row("  difference", *("-" if points is None else f"{points:+.1f}" for points in worth))
    out.print(escape(title), style="italic")
    out.print(table)
    if found.notice:
        out.print(escape(found.notice), style="bold red")
    print(
        f"{found.rows:,} rows scored, {found.changed:,} of them had {' or '.join(found.streams)}; "
        f"{found.left_with_nothing:,} of these had nothing else and got the prior"
    )


@contextmanager
def show_sweep() -> Iterator[OnChange]:
    """Yields what to call when a point changes: it redraws a table on a terminal, prints lines in a log."""
    if not console.is_terminal:
        yield _SweepLines()
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda points: live.update(sweep_view(points, console))
        live.transient = True  # the table that is printed at the end takes its place


def sweep_view(points: list[Point], console: Console) -> RenderableType:
    """All points where the console's screen holds them; else how many are in which state, those that are
    being trained, and in the lines that are left the best.
    """
    counts = Text(f"{counted(len(points), 'point')}: {counted_states(Counter(p.state for p in points))}")
    if len(points) < console.height:
        whole = Group(counts, sweep_table(points, short=True))
        if len(console.render_lines(whole)) <= console.height:
            return whole
    running = [point for point in points if point.state == "running"]
    scored = [point for point in points if score_of(point.result, point.recipe.rank_by) is not None]
    scored.sort(key=lambda point: -(score_of(point.result, point.recipe.rank_by) or 0.0))
    room = max(console.height - AROUND, 1)
    shown = running[:room]
    best = scored[: min(BEST, room - len(shown))]
    if len(shown) < len(running):
        counts.append(f"; {len(running) - len(shown)} more are running than the screen has lines for")
    return Group(counts, sweep_table([*shown, *best], short=True))


def counted_states(states: Counter[str]) -> str:
    """`120 done, 4 running, 68 waiting`."""
    return ", ".join(f"{number:,} {state}" for state, number in states.most_common())


def sweep_table(points: list[Point], *, short: bool = False) -> Table:
    """A row for every point of the grid: its state, and its scores once it has them. short: a line each, with
    as much of its name as there is room for.
    """
    results = [point.result for point in points if point.result]
    targets = list(dict.fromkeys(name for result in results for name in result.targets))
    others = [Column(header, no_wrap=short) for header in ("state", "epoch", "text", *targets)]
    table = Table("point", *others)  # the only column that may be too narrow for what is in it
    notices = set()
    for point in points:
        epoch = f"{point.epoch}/{point.recipe.train.epochs}" if point.epoch else ""
        text, scores = "", [""] * len(targets)
        if point.result:
            text, scores = point.result.protocols, _headlines(point.result, targets)
            if point.result.notice:
                text += " (!)"
                notices.add(point.result.notice)
        name = Text(point.name, no_wrap=short, overflow="ellipsis" if short else None)
        table.add_row(name, point.state, epoch, text, *scores)
    table.caption = "\n".join(f"(!) {notice}" for notice in sorted(notices)) or None
    return table


def said_of_choice(chosen: Chosen) -> list[str]:
    """What a sweep with select_on ends with: what was chosen, on which rows, and how it scores on others."""
    if chosen.selection is None:
        return []
    lines = [f"{chosen.selection.in_words}; of equals the first of the grid:"]
    for point in chosen.runs:
        lines.append(f"  {point.run}: {_scores_in_words(point)}")
    for run in chosen.earlier:
        lines.append(
            f"an earlier choice of this sweep is in {run}: say so where you report on one of them, for both "
            "were scored on the same rows"
        )
    return lines


def said_without_choice(points: list[Point], recipe: Path) -> list[str]:
    """What a sweep without select_on ends with, where it has candidates to choose among."""
    scored = [point for point in points if score_of(point.result, point.recipe.rank_by) is not None]
    tried = len(candidates([point.values for point in scored]))
    splits = {point.result.split for point in scored if point.result}
    if tried < 2 or len(splits) != 1:
        return []  # nothing to choose; or parts held out in turn
    measures = {point.result.measure_of(point.recipe.rank_by) for point in scored if point.result}
    if len(measures) > 1:
        listed = ", ".join(sorted(spoken(measure) for measure in measures))
        return [
            f"these points cannot be compared: their last targets differ, and they are scored by {listed}"
        ]
    return [
        f"the best of these {tried} was chosen on the rows it is reported on, and stands out by chance, too "
        f"({splits.pop()}); `mambavl sweep {recipe} --set select_on=0/5 --out FOLDER` chooses on others"
    ]


def _scores_in_words(point: Point) -> str:
    result = point.result
    if result is None:
        return f"{point.state} ({point.error})" if point.error else point.state
    scores = zip(result.targets, _headlines(result, list(result.targets)), strict=True)
    return ", ".join(f"{name} {score}" for name, score in scores) + f" on {result.split}"


class _SweepLines:
    """A line in the log for each change of a point's state."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}

    def __call__(self, points: list[Point]) -> None:
        for point in points:
            if self.states.get(point.name, "waiting") != point.state:
                self.states[point.name] = point.state
                why = f" ({point.error})" if point.error else ""
                say(f"{point.name}: {point.state}{why}")


def _percents(result: Result | Without, metrics: Metrics, key: str) -> list[str]:
    """A measure over all rows of each target, in percent; a dash where it was not measured."""
    return [_percent(metrics.get(f"all_{target}_{key}")) for target in result.targets]


def _headlines(result: Result, targets: list[str]) -> list[str]:
    """Top-1 over all rows of each target, or mAP where a row may have several classes."""
    metrics = result.metrics
    return [_percent(metrics.get(f"all_{name}_top1", metrics.get(f"all_{name}_map"))) for name in targets]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
