"""`mambavl compare A B`: is one better than the other, on the same rows?"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.markup import escape
from rich.table import Table

from mambavl.cache import canonical, fsops
from mambavl.cli.options import annotations_of, splits_of
from mambavl.cli.scores import pairs_of_lists
from mambavl.configs.errors import UsageError, counted
from mambavl.fuse.aligned import Listed
from mambavl.fuse.compare import Comparison, Measure, Row, compare
from mambavl.fuse.sides import Allowed, Side, find_side
from mambavl.terminal import out


def compare_two(
    *,
    a: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="A run; a folder of runs, or a quoted pattern such as 'runs/x/*share=A', that differ in "
            "their seed alone; or a file of scores, or a pattern of several.",
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Likewise, what A is compared with.")],
    seeds: Annotated[
        bool,
        typer.Option(
            "--seeds", help="A run stands for all beside it that differ from it in their seed alone."
        ),
    ] = False,
    measures: Annotated[
        list[str],
        typer.Option(
            "--measure",
            default_factory=list,
            show_default="what the task is ranked by",
            help="top1, top5 or recall5: what is judged, in this order. Repeatable.",
        ),
    ],
    targets: Annotated[
        list[str],
        typer.Option(
            "--target",
            default_factory=list,
            show_default="all, the one that runs are ranked by first",
            help="Such as action: what is judged, in this order. Repeatable.",
        ),
    ],
    allowed: Annotated[
        list[str],
        typer.Option(
            "--allow",
            default_factory=list,
            show_default=False,
            help="What A and B may differ in: rows (those of both are compared), protocols (of text, history "
            "and task), stores, seeds. Repeatable.",
        ),
    ],
    planned: Annotated[
        bool,
        typer.Option(
            "--planned",
            help="That A and B would be compared was settled before any score was seen: other candidates of "
            "their sweeps do not count.",
        ),
    ] = False,
    annotations: Annotated[
        Path | None,
        typer.Option(
            show_default=False,
            help="Folder of EPIC_100_*.csv, or of own lists: needed for files of scores, and for runs whose "
            "stores are gone. Its labels count.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="With --annotations: the list. Default: the runs' split, else validation."),
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--out", help="Write everything there, too, as JSON.", show_default=False)
    ] = None,
) -> None:
    """Say whether A is better than B, or why that cannot be said; docs/comparing.md has the rules.

    Both are measured on the same rows. One is better where two rules hold: the interval of the difference,
    over draws of videos and seeds, lies on one side of 0, and the signs of six or more pairs of seeds are no
    chance. Measures are judged one after the other; those after one that is not decided are not judged.
    """
    sides = [find_side(one, all_seeds=seeds) for one in (a, b)]
    listed = None
    if annotations:
        scored = sides[0].results[0].split if sides[0].results else "validation"
        of = split or re.sub(r"_\d+_of_\d+$", "", scored)  # rows held out are of their split's list
        if len(splits_of(of)) > 1:
            raise UsageError(f"--split {of}: name one, that the scores are of")
        found = annotations_of(annotations, of)
        listed = Listed(found.segments, found.classes, pairs_of_lists(annotations))
    elif split:
        raise UsageError("--split says which list of --annotations the scores are of; name both or neither")
    result = compare(
        *sides,
        listed=listed,
        split=split,
        measures=[_known("--measure", one, get_args(Measure)) for one in measures],
        targets=targets,
        allowed=[_known("--allow", one, get_args(Allowed)) for one in allowed],
        planned=planned,
    )
    _show(result)
    if target:
        fsops.make_folder(target.parent)
        fsops.write_file(target, canonical.pretty_json(result.to_dict()))
        print(f"wrote {target}")


def _known(option: str, word: str, known: tuple[Any, ...]) -> Any:
    if word not in known:
        raise UsageError(f"{option} {word}: use {', '.join(known)}")
    return word


def _show(found: Comparison) -> None:
    for name, side in (("A", found.a), ("B", found.b)):
        print(f"{name} = {side.asked}: {_members(side)}")
    for line in found.told:
        print(line)
    out.print(_table(found))
    for line in _notes(found):
        out.print(escape(line), soft_wrap=True)


def _members(side: Side) -> str:
    if not side.results:
        return counted(len(side.members), "file")
    first = side.results[0]
    seeds = f"{counted(len(side.seeds), 'run')}, seed {', '.join(str(seed) for seed in side.seeds)}"
    return f"“{first.title}”, {seeds if side.has_seeds else 'which has no seeds'}; text {first.protocols}"


def _table(found: Comparison) -> Table:
    first = found.table[0]
    title = (
        f"{found.split}: {counted(found.rows, 'row')} of {counted(first.videos, 'video')}, "
        f"{counted(first.evidence.pairs, 'pair')} of seeds"
    )
    table = Table("", "A", "B", "A - B, 95 %", "p of seeds", "", title=title, title_justify="left")
    for row, verdict in zip(found.table, found.verdicts, strict=True):
        table.add_row(row.name, f"{row.a:.1f}", f"{row.b:.1f}", _apart(row), _of_signs(row), verdict.short)
    return table


def _apart(row: Row) -> str:
    if row.interval is None:
        return f"{row.a - row.b:+.2f}"
    return f"{row.interval.value:+.2f} ({row.interval.low:+.2f} to {row.interval.high:+.2f})"


def _of_signs(row: Row) -> str:
    return f"{row.evidence.p:.2g}" if row.evidence.pairs > 1 else "-"


def _notes(found: Comparison) -> Iterator[str]:
    """What the table does not say."""
    for row, verdict in zip(found.table, found.verdicts, strict=True):
        if verdict.is_judged and not verdict.better:
            yield f"{row.name}: {verdict.in_words}"
            if row is not found.table[-1]:
                yield "What comes after it is shown and not judged: all verdicts together err in 5 % at most."
    for row in found.table:
        if row.mcnemar:
            one = row.mcnemar
            ties = f", {counted(one.left_out, 'row')} with ties left out" if one.left_out else ""
            yield (
                f"{row.name}: {one.only_a:,} rows that A alone has right, {one.only_b:,} that B alone has; "
                f"McNemar's mid-p {one.p:.2g}{ties}. It takes rows for independent, and decides nothing here."
            )
    if found.left_out:
        yield f"{counted(found.left_out, 'row')} that not all have are left out."
    if found.not_compared:
        names = ", ".join(found.not_compared)
        yield f"Not compared, for one side lacks it or its rows have several labels: {names}."
    yield from _of_selection(found)


def _of_selection(found: Comparison) -> Iterator[str]:
    """What was looked at on these rows, and what the best of it is worth on others."""
    for sweep in found.looked:
        yield f"Looked at on {found.split} by sweep {sweep.in_words}."
    if found.planned:
        yield "Other candidates do not count: the comparison was planned, by --planned."
    elif found.among > 1:
        yield (
            f"One of {found.among} stands out by chance, too: both rules are {found.among} times as strict. "
            "A sweep with select_on chooses on other rows; --planned says that nothing was chosen."
        )
    row = found.table[0]
    for name, one in found.nested.items():
        yield (
            f"{row.name} in sweep {name}: the best of {one.candidates} is {one.best} with {one.plain:.2f}. "
            f"Chosen for each of {one.participants} participants on the rows of all others ({one.same} times "
            f"the same one), the best has {one.nested:.2f}; A has {row.a:.2f}, B {row.b:.2f}."
        )
