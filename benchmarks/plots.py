"""What people would rather look at than read: results/*.json drawn into docs/figures.

    python benchmarks/plots.py            draw them anew
    python benchmarks/plots.py --check    change nothing; exit code 1 where one shows something else

Versions of matplotlib draw differently, so --check does not compare pictures. Each holds, as its identifier,
the sha256 of all that it shows: numbers, names, titles, units. That is compared with what would be drawn
today. A result that is not there yet is skipped, and said to be. The ground is white on dark pages, too.
"""

import argparse
import hashlib
import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS, FIGURES = ROOT / "benchmarks" / "results", ROOT / "docs" / "figures"
OURS, OTHERS = "#1f6feb", "#8c959f"
LINES = (OURS, "#d1242f", "#bf8700", "#8250df", "#1a7f37")

Line = tuple[tuple[float, float], ...]  # x, y


@dataclass(frozen=True)
class Bars:
    """One below the other, on a scale of tens; ours in blue."""

    title: str
    unit: str
    values: dict[str, float]  # name -> value
    ours: tuple[str, ...]


@dataclass(frozen=True)
class Lines:
    """On scales of doubling and of tens."""

    title: str
    unit: str
    values: dict[str, Line]


Panel = Bars | Lines


@dataclass(frozen=True)
class Picture:
    title: str
    panels: tuple[tuple[Panel, ...], ...]  # rows of them
    size: tuple[float, float]  # inches


# --- what is shown


def scan(found: dict[str, Any]) -> Picture:
    """Forward and backward of each way at each shape; what was not run is left out."""
    key = "plain forward+backward"
    ours = found["ours"] if "ours" in found else found["conditions"]["ours"]  # as older results have it
    names = {
        **{way: f"mambavl, {way}" for way in (ours, "reference", "chunked")},
        "loop": "PyTorch loop",
        "compiled": "PyTorch loop, compiled",
    }
    panels = []
    for shape, ways in found["scans_milliseconds"].items():
        batch, steps, channels = (f"{int(size):,}" for size in shape.split("x"))
        times = {names.get(way, way): one[key] for way, one in ways.items() if one.get(key) is not None}
        panels.append(Bars(f"{batch} x {steps} x {channels}", "ms", in_order(times), (names[ours],)))
    longest = max(len(one.values) for one in panels)
    return Picture(
        "Selective scan, forward and backward: batch x steps x channels",
        (tuple(panels),),
        (4 * len(panels), 0.8 + 0.32 * longest),
    )


def loading(found: dict[str, Any]) -> Picture:
    """Milliseconds a batch of each reader, 16 x 768 a row."""
    readers = found["batches"]["16x768"]
    times = {name: one["milliseconds"] for name, one in readers.items() if one}
    ours = tuple(name for name in times if name.startswith("mambavl"))
    bars = Bars("A random batch of 128 rows of 16 x 768", "ms", in_order(times), ours)
    return Picture("", ((bars,),), (7, 0.8 + 0.32 * len(times)))


def scaling(found: dict[str, Any]) -> Picture:
    """Time and memory of a step of training over each axis."""
    titles = {"length": "tokens of the video", "rows": "rows of a batch", "heads": "heads in one pass"}
    rows = []
    for key, unit in (("fastest", "ms a step"), ("megabytes", "MB")):
        row = []
        for axis, title in titles.items():
            kinds = dict.fromkeys(one["kind"] for one in found[axis])
            lines = {
                kind: tuple((one["x"], one[key]) for one in found[axis] if one["kind"] == kind)
                for kind in kinds
            }
            row.append(Lines(title, unit, lines))
        rows.append(tuple(row))
    return Picture("", tuple(rows), (4.4 * len(titles), 6))


PICTURES: dict[str, Callable[[dict[str, Any]], Picture]] = {  # by the result, which gives the figure its name
    "scan": scan,
    "loading": loading,
    "scaling": scaling,
}


def in_order(values: dict[str, float]) -> dict[str, float]:
    """The smallest first."""
    return dict(sorted(values.items(), key=lambda pair: pair[1]))


# --- drawing


def fingerprint(picture: Picture) -> str:
    kinds = [[type(panel).__name__ for panel in row] for row in picture.panels]
    shown = json.dumps([kinds, asdict(picture)], ensure_ascii=False)
    return f"sha256:{hashlib.sha256(shown.encode()).hexdigest()}"


def fingerprint_of(svg: str) -> str | None:
    found = re.search(r"<dc:identifier>(.*?)</dc:identifier>", svg)
    return found and found[1]


def draw(picture: Picture) -> str:
    """As SVG, the same to the byte for the same matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    settings = {"svg.hashsalt": "mambavl", "svg.fonttype": "none", "font.size": 9, "text.parse_math": False}
    with plt.rc_context(settings):
        rows = picture.panels
        figure, grid = plt.subplots(
            len(rows), len(rows[0]), figsize=picture.size, squeeze=False, layout="constrained"
        )
        for number, row in enumerate(rows):
            for axes, panel in zip(grid[number], row, strict=True):
                if isinstance(panel, Bars):
                    draw_bars(axes, panel)
                else:
                    draw_lines(axes, panel, legend=number == 0)
        figure.suptitle(picture.title or None, fontsize=10)
        text = io.StringIO()
        metadata = {"Date": None, "Creator": None, "Identifier": fingerprint(picture)}
        figure.savefig(text, format="svg", metadata=metadata, facecolor="white")
        plt.close(figure)
    return text.getvalue()


def draw_bars(axes: Any, panel: Bars) -> None:
    names, values = list(panel.values), list(panel.values.values())
    bars = axes.barh(names, values, color=[OURS if name in panel.ours else OTHERS for name in names])
    axes.bar_label(bars, [_said(value) for value in values], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 3, max(values) * 5)  # room for the last number
    axes.set_title(panel.title, fontsize=9)
    axes.set_xlabel(panel.unit)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, place: _said(value))


def draw_lines(axes: Any, panel: Lines, *, legend: bool) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    for (name, points), color in zip(panel.values.items(), LINES, strict=False):
        axes.plot(*zip(*points, strict=True), "o-", label=name, color=color)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    xs = sorted({x for points in panel.values.values() for x, _ in points})
    axes.set_xticks(xs, [f"{x:,}" for x in xs], fontsize=8)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, place: _said(value))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(panel.title)
    axes.set_ylabel(panel.unit)
    axes.grid(alpha=0.3)
    if legend:
        axes.legend(fontsize=8)


def _said(value: float) -> str:
    """Three digits at most, thousands with commas."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


# --- files


def renew(results: Path, figures: Path, *, write: bool) -> tuple[list[str], list[str]]:
    """Draw every figure or, where nothing is written, say which ones show something else than their results;
    and which were skipped.
    """
    faults, skipped = [], []
    for name, make in PICTURES.items():
        source, target = results / f"{name}.json", figures / f"{name}.svg"
        if not source.exists():
            skipped.append(f"{target.name}: skipped, since there is no {source.name}")
            continue
        picture = make(json.loads(source.read_bytes()))
        there = target.read_text(encoding="utf-8") if target.exists() else ""
        if write:
            target.write_text(draw(picture), encoding="utf-8")
        elif fingerprint_of(there) != fingerprint(picture):
            faults.append(f"{target}: does not show {source.name}; python benchmarks/plots.py draws it anew")
    return faults, skipped


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 where one differs")
    check = parser.parse_args(arguments).check
    faults, skipped = renew(RESULTS, FIGURES, write=not check)
    for one in skipped:
        print(one)
    for fault in faults:
        print(fault, file=sys.stderr)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
