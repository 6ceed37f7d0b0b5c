"""Scores without their runs: `mambavl evaluate --scores`, a file measured against a list of rows; and
`mambavl fuse-scores`, those of several runs as one.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mambavl.cli.options import annotations_of, splits_of
from mambavl.cli.show import print_result
from mambavl.configs.errors import UsageError, counted, some
from mambavl.extract.sampling import Task
from mambavl.fuse.fused import Rule
from mambavl.fuse.result import Metrics
from mambavl.terminal import out

if TYPE_CHECKING:
    from mambavl.fuse.scored import PairsOf
    from mambavl.fuse.targets import Average, Pairs

# rows of a table, of what each task is ranked by
MEASURES = {
    "recognition": (("top-1", "top1"), ("top-5", "top5"), ("mAP", "map")),
    "anticipation": (("mean class recall@5", "mean_class_recall5"), ("mAP", "map")),
}


def pairs_of_lists(annotations: Path) -> "PairsOf":
    """What the columns of 3,806 actions are, by a folder's lists, which are read when it is asked for."""
    from mambavl.fuse.scored import pairs_by_text

    def pairs_of(name: str) -> "Pairs":
        both = annotations_of(annotations, "train,validation")
        return pairs_by_text(both.segments, both.classes.derived[name].of)

    return pairs_of


def evaluate_file(
    scores: Path, annotations: Path, *, split: str, task: Task | None, average: "Average", as_json: bool
) -> None:
    """Measure a file of scores against an annotations folder and print what was found."""
    from mambavl.fuse.scored import measure_scores, read_scores_file

    if len(splits_of(split)) > 1:
        raise UsageError(f"--split {split}: name one, that the scores are of")
    listed = annotations_of(annotations, split)
    pairs_of = pairs_of_lists(annotations)
    file = read_scores_file(scores, listed.classes, pairs_of=pairs_of, average=average)
    found = measure_scores(file, listed.segments, split)
    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
        return
    tasks = [task] if task else list(MEASURES)
    kinds = dict.fromkeys(kind for name in tasks for kind in MEASURES[name])
    out.print(_table(f"{scores}, {split}", found.targets, found.groups, list(kinds), found.metrics))
    relaxed = {name: found.metrics.get(f"relaxed_{name}_mean_class_recall5") for name in found.targets}
    if task != "recognition" and any(value is not None for value in relaxed.values()):
        cells = ", ".join(f"{name} {value:.1f}" for name, value in relaxed.items() if value is not None)
        print(f"relaxed recall@5, each part among its own five best: {cells}")
    print(f"{found.scored:,} of {counted(found.listed, 'row')} of {split} are in the file")
    for rows, side, other in ((found.missing, "list", "file"), (found.unlisted, "file", "list")):
        if rows:
            verb = "is" if len(rows) == 1 else "are"
            print(f"{counted(len(rows), 'row')} of the {side} {verb} not in the {other}: {some(rows)}")
    for name, rows in found.relabelled.items():
        verb = "has" if len(rows) == 1 else "have"
        print(f"{counted(len(rows), 'row')} {verb} another label of {name} in the file: {some(rows)}")
    for name in found.supposed:
        print(
            f"{name}: the file does not say what its columns are; they were taken for the pairs of the train "
            'and validation lists in the order of "verb:noun" as text, as LaViLa, AVION and RULSTM have them'
        )
    if found.views > 1:
        print(f"{found.views} views a row, the mean of their {average}; see --average")
    if found.unused:
        print(f"not read, for no target of the list is called so: {', '.join(found.unused)}")


def _table(
    title: str,
    targets: tuple[str, ...],
    groups: tuple[str, ...],
    kinds: list[tuple[str, str]],
    metrics: Metrics,
) -> Table:
    """A row for each measure of each group that has it."""
    table = Table("", *targets, title=title, title_justify="left")
    for label, key in kinds:
        for group in groups:
            values = [metrics.get(f"{group}_{target}_{key}") for target in targets]
            if any(value is not None for value in values):
                cells = ("-" if value is None else f"{value:.1f}" for value in values)
                table.add_row(label if group == "all" else f"  {group}", *cells)
    return table


def fuse_scores(
    *,
    runs: Annotated[list[Path], typer.Argument(help="Finished run folders, scored on the same rows.")],
    target: Annotated[Path, typer.Option("--out", help="The folder to write, of this mixture alone.")],
    chosen_on: Annotated[
        list[Path],
        typer.Option(
            default_factory=list,
            show_default=False,
            help="For each RUN, in their order, the same recipe trained with data.hold_out: on the rows that "
            "it held out, weights and exponent are chosen. loglinear needs it; without it others weigh all "
            "runs alike. Repeatable.",
        ),
    ],
    rule: Annotated[
        Rule,
        typer.Option(
            help="loglinear: sum of w log p, less e log prior; mean: sum of w p; confidence: sum of w m p, m "
            "the largest p of the row; rrf: sum of w / (60 + rank). w and e are each target's."
        ),
    ] = "loglinear",
    per: Annotated[
        str | None,
        typer.Option(
            help="With --chosen-on: the targets to choose for, such as verb,noun; of the others all runs "
            "weigh alike.",
            show_default="all",
        ),
    ] = None,
    also: Annotated[
        list[str],
        typer.Option(
            default_factory=list,
            show_default=False,
            help="Another split that all RUNs have scores of, such as test: mixed with the same weights, for "
            "`mambavl submit OUT`. Repeatable.",
        ),
    ],
) -> None:
    """Mix the scores of several finished runs; writes scores and a result that `report` reads like a run's.

    With --chosen-on all weights in steps of 0.1 that sum to 1 are tried for each target and, by loglinear,
    the exponents 0, 0.25, 0.5, 0.75 and 1 of the training prior. Those with the best class-mean recall@5 on
    the rows that --chosen-on held out are taken; the rows that are scored have no part in it. Of one RUN
    alone loglinear chooses the exponent.
    Runs of other rows, labels, targets or protocols are refused, and a RUN whose recipe or stores are not
    those of its --chosen-on.
    """
    from mambavl.fuse.fusing import fuse_scores as fuse
    from mambavl.fuse.run import RESULT, SCORES

    fields = [name.strip() for name in per.split(",")] if per is not None else None
    result = fuse(runs, target, rule=rule, chosen_on=chosen_on, per=fields, also=also)
    print_result(result)
    assert result.fused is not None  # of a mixture
    for line in result.fused.in_words:
        print(line)
    files = [f"{target / SCORES / split}.npz" for split in (result.split, *also)]
    print(f"wrote {', '.join(files)} and {target / RESULT}")
