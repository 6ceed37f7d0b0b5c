"""Pictures, as SVG. Those of the report take their ink from the page: curves of training, what was taken for
what, how sure and how often right.
"""

import html
import io
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = ("-", "--", ":", "-.")
# of lines; each has a contrast of 3 or more to both grounds of the page
COLOURS = (
    "#2878b8", "#c8601a", "#2c8a3e", "#c9403f", "#8a63b8",
    "#8c6a5a", "#c4579c", "#6f7a83", "#85801f", "#12888f",
)  # fmt: skip
INK = "#010203"  # stands for the page's own colour until the picture is written
MOST_LETTERS = 24  # of a class's name beside a matrix
OF_PAGE = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and needs no outlines
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"),
        INK,
    ),
}
CLASSES_SHOWN = 20  # in a confusion matrix; the rest is one row and one column


def style(number: int) -> tuple[str, str]:
    """Colour and dashes of the line of so many-th entry, the same in every picture."""
    return COLOURS[number % len(COLOURS)], LINES[number % len(LINES)]


def curves(runs: Sequence[list[dict[str, Any]]], measures: Mapping[str, str]) -> str:
    """Loss and measures by epoch. runs: the lines of curves.jsonl of each, drawn as `style` says; measures:
    key of a line -> its name.
    """
    plt = _pyplot()
    with plt.rc_context(OF_PAGE):
        figure, axes = plt.subplots(1, 1 + len(measures), figsize=(13, 3.6), squeeze=False)
        for axis, key, title in zip(
            axes[0], ("loss", *measures), ("training loss", *measures.values()), strict=True
        ):
            for number, epochs in enumerate(runs):
                scored = [line for line in epochs if key in line]
                colour, dashes = style(number)
                axis.plot(
                    [line["epoch"] for line in scored], [line[key] for line in scored], dashes, color=colour
                )
            axis.set_title(title)
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
            axis.grid(alpha=0.3)
        return _svg(plt, figure)


def reliabilities(
    targets: Mapping[str, Mapping[int, tuple[np.ndarray, np.ndarray]]],
) -> str:
    """A diagram a target. targets: name -> number of an entry -> confidence and share that is right of each
    bin, in percent, NaN where it is empty.
    """
    plt = _pyplot()
    with plt.rc_context(OF_PAGE):
        figure, axes = plt.subplots(1, len(targets), figsize=(4.3 * len(targets), 4), squeeze=False)
        for axis, (target, entries) in zip(axes[0], targets.items(), strict=True):
            axis.plot([0, 100], [0, 100], color=INK, linewidth=0.8)
            for number, (confidence, right) in entries.items():
                colour, dashes = style(number)
                filled = ~np.isnan(confidence)
                axis.plot(confidence[filled], right[filled], dashes, color=colour, marker="o", markersize=3)
            axis.set_title(target)
            axis.set_xlabel("confidence, %")
            axis.set_ylabel("right, %")
            axis.grid(alpha=0.3)
        return _svg(plt, figure)


def matrix(shares: np.ndarray, names: Sequence[str], title: str) -> str:
    """What `confusion` found: a row a label, a column a prediction; the fuller, the larger the share."""
    cell, margin = 18, 150
    side = margin + cell * len(names) + 2
    short = [f"{name[:MOST_LETTERS]}…" if len(name) > MOST_LETTERS else name for name in names]
    parts = [
        f'<svg viewBox="0 0 {side} {side}" width="{side}" height="{side}" role="img" '
        f'aria-label="{html.escape(title)}" font-family="sans-serif" font-size="11" fill="currentColor">'
    ]
    for row, column in zip(*np.nonzero(shares), strict=True):
        x, y = margin + cell * column, cell * row
        parts.append(
            f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" fill-opacity="{shares[row, column]:.2f}">'
            f"<title>{html.escape(names[row])}: {100 * shares[row, column]:.0f} % "
            f"{html.escape(names[column])}</title></rect>"
        )
    for place, name in enumerate(short):
        middle, edge = cell * place + 13, margin + cell * place + 13
        below = cell * len(names) + 6
        parts.append(f'<text x="{margin - 6}" y="{middle}" text-anchor="end">{html.escape(name)}</text>')
        parts.append(
            f'<text transform="translate({edge} {below}) rotate(-90)" text-anchor="end">'
            f"{html.escape(name)}</text>"
        )
    return "".join([*parts, "</svg>"])


def intervals(groups: Mapping[str, Mapping[str, tuple[float, float, float]]], label: str) -> str:
    """A dot with its interval for each row, one group of rows above another. groups: title -> name of a row
    -> value, low, high.
    """
    plt = _pyplot()
    heights = [len(rows) for rows in groups.values()]
    size = (8, 1.2 + 0.32 * sum(heights) + 0.5 * len(heights))
    figure, axes = plt.subplots(
        len(groups), 1, figsize=size, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axis, (title, rows) in zip(axes[:, 0], groups.items(), strict=True):
        for place, (value, low, high) in enumerate(rows.values()):
            axis.plot([low, high], [place, place], color="tab:blue")
            axis.plot([value], [place], "o", color="tab:blue")
        axis.set_yticks(range(len(rows)), list(rows), fontsize=8)
        axis.invert_yaxis()
        axis.set_title(title, fontsize=9)
        axis.grid(axis="x", alpha=0.3)
    axes[-1, 0].set_xlabel(label)
    return _svg(plt, figure)


def confusion(
    labels: np.ndarray, predicted: np.ndarray, names: Mapping[int, str]
) -> tuple[np.ndarray, list[str]]:
    """(matrix, class names): rows sum to 1; the most frequent classes of the labels, everything else as
    `other`.
    """
    classes, counts = np.unique(labels, return_counts=True)
    shown = sorted(classes[np.argsort(-counts, kind="stable")][:CLASSES_SHOWN].tolist())
    place = {c: i for i, c in enumerate(shown)}
    matrix = np.zeros((len(shown) + 1, len(shown) + 1))
    for label, guess in zip(labels.tolist(), predicted.tolist(), strict=True):
        matrix[place.get(label, len(shown)), place.get(guess, len(shown))] += 1
    ticks = [names.get(c, str(c)) for c in shown] + ["other"]
    if not matrix[-1].any() and not matrix[:, -1].any():
        matrix, ticks = matrix[:-1, :-1], ticks[:-1]
    return matrix / np.maximum(matrix.sum(1, keepdims=True), 1), ticks


def _pyplot() -> ModuleType:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["text.parse_math"] = False  # a title with a dollar sign is a title
    plt.rcParams["svg.hashsalt"] = "mambavl"  # the same runs give the same page
    plt.rcParams["figure.constrained_layout.use"] = True
    return plt


def _svg(plt: ModuleType, figure: "Figure") -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :].replace(INK, "currentColor")
