"""The report's pictures, as SVG: curves of training, and what was taken for what."""

import io
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = ("-", "--", ":", "-.")
CLASSES_SHOWN = 20  # in a confusion matrix; the rest is one row and one column


def curves(runs: list[tuple[str, list[dict[str, Any]]]], measures: Mapping[str, str]) -> str:
    """Loss and measures by epoch. runs: title and the lines of curves.jsonl; measures: key of a line -> its
    name. A run without lines is left out.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(1, 1 + len(measures), figsize=(13, 3.6))
    lines, titles = [], []
    for title, epochs in runs:
        if not epochs:
            continue
        lines += axes[0].plot([e["epoch"] for e in epochs], [e["loss"] for e in epochs])
        titles.append(title)
        for axis, key in zip(axes[1:], measures, strict=True):
            scored = [e for e in epochs if key in e]
            axis.plot([e["epoch"] for e in scored], [e[key] for e in scored])
    for number in range(len(lines)):  # two runs may lie on each other: let the lower one show through
        for axis in axes:
            axis.lines[number].set_linestyle(LINES[number % len(LINES)])
    for axis, title in zip(axes, ("training loss", *measures.values()), strict=True):
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    if lines:
        figure.legend(lines, titles, loc="outside lower center", ncols=4, fontsize=8)
    return _svg(plt, figure)


def confusions(tables: Mapping[str, tuple[np.ndarray, np.ndarray, Mapping[int, str]]]) -> str:
    """A matrix a target: rows are labels, columns predictions, shares of each row. tables: target -> labels
    (N,), predictions (N,), names of its classes.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(1, len(tables), figsize=(13, 6), squeeze=False)
    for axis, (target, table) in zip(axes[0], tables.items(), strict=True):
        matrix, ticks = confusion(*table)
        shares = axis.imshow(100 * matrix, vmin=0, vmax=100, cmap="viridis")
        figure.colorbar(shares, ax=axis, shrink=0.7, label="% of the label's rows")
        axis.set_xticks(range(len(ticks)), ticks, rotation=90, fontsize=7)
        axis.set_yticks(range(len(ticks)), ticks, fontsize=7)
        axis.set_title(f"{target}: label (row) and prediction (column)")
    return _svg(plt, figure)


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
    return text.getvalue()[text.getvalue().index("<svg") :]
