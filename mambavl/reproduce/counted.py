"""`mambavl reproduce table4`: what the paper's models cost, counted from the models beside what is printed.

Parameters are counted exactly; the released code's own were counted once, and ours must be the same. Printed
GFLOPs are multiply-adds, and what they were counted with is not known: ours must come within 0.2 %.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from mambavl.complexity.count import table_4, total
from mambavl.complexity.report import WHY_TABLE_4
from mambavl.configs.errors import DataError
from mambavl.fuse.published import published
from mambavl.reproduce.table import write
from mambavl.terminal import out as console

TOLERANCE = 0.002  # of the printed multiply-adds
RELEASED_PARAMETERS = {  # of the models that the authors' code builds, RoBERTa's frozen ones left out
    "orvit": 147_678_349,
    "transformer_12x12": 242_159_245,
    "mambavl": 156_966_541,
}


def run(folder: Path | None = None) -> None:
    """Count, print and, where a folder is named, write results.json and results.md there. Raises DataError
    where a count is not what it must be.
    """
    found = counts()
    table = Table("model", "GFLOPs, printed", "counted", "differs", "parameters, printed", "counted", "why")
    for name, row in found.items():
        table.add_row(*cells(name, row), WHY_TABLE_4[name])
    console.print(table)
    if folder:
        print(f"wrote {write(folder, found, markdown(found))}")
    if faults := faults_of(found):
        raise DataError("\n".join(faults))
    print(f"parameters exact, multiply-adds within {100 * TOLERANCE:g} % of print")


def counts() -> dict[str, dict[str, Any]]:
    """By row: printed GFLOPs and millions of parameters, and what the models have."""
    found = {}
    for name, parts in table_4().items():
        if name not in WHY_TABLE_4:
            continue  # in the released code, not in the table
        printed, cost = published()[f"table4-{name.replace('_', '-')}"].values, total(parts)
        found[name] = {
            "printed_gflops": printed["gflops"],
            "gmacs": cost.macs / 1e9,
            "printed_million_parameters": printed["million_parameters"],
            "parameters": cost.trainable,
        }
    return found


def faults_of(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is not as it must be, a line each."""
    faults = []
    for name, row in found.items():
        if row["parameters"] != RELEASED_PARAMETERS[name]:
            faults.append(
                f"{name}: {row['parameters']:,} parameters, the released model has "
                f"{RELEASED_PARAMETERS[name]:,}"
            )
        if round(row["parameters"] / 1e6) != row["printed_million_parameters"]:
            faults.append(
                f"{name}: {row['parameters']:,} parameters are not the printed "
                f"{row['printed_million_parameters']} M"
            )
        if abs(row["gmacs"] / row["printed_gflops"] - 1) > TOLERANCE:
            faults.append(
                f"{name}: {row['gmacs']:.2f} G multiply-adds, printed are {row['printed_gflops']:g}, more "
                f"than {100 * TOLERANCE:g} % away"
            )
    return faults


def cells(name: str, row: Mapping[str, Any]) -> list[str]:
    return [
        name,
        f"{row['printed_gflops']:g}",
        f"{row['gmacs']:.2f}",
        f"{100 * (row['gmacs'] / row['printed_gflops'] - 1):+.2f} %",
        f"{row['printed_million_parameters']:g} M",
        f"{row['parameters']:,}",
    ]


def markdown(found: Mapping[str, Mapping[str, Any]]) -> str:
    """results.md."""
    lines = [
        "**Table 4 of the paper**: a clip of 16 frames at 224 px, two questions; GFLOPs are multiply-adds.",
        "",
        "| model | GFLOPs, printed | counted | differs | parameters, printed | counted |",
        "|---|---|---|---|---|---|",
        *(f"| {' | '.join(cells(name, row))} |" for name, row in found.items()),
        "",
        *(f"- {name}: {WHY_TABLE_4[name]}" for name in found),
        "",
    ]
    return "\n".join(lines)
