"""Scores of several finished runs as one, in a folder that is read as a run's is.

    RUN ... -> fusion.json, classes.json, scores/SPLIT.npz, result.json

`loglinear` chooses weights and exponent on training rows that were held out: each RUN has a HELD, the same
recipe trained without them. It mixes plain probabilities, also of runs that count (`fused_runs`). The other
rules take all scores as the runs gave them, and without HELD weigh all runs alike. Formulas: `fused`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mambavl.cache import canonical, fsops
from mambavl.cache.rows import Segment
from mambavl.configs.errors import DataError, UsageError, counted
from mambavl.fuse import fused, metrics, notices
from mambavl.fuse.data import in_group
from mambavl.fuse.fused import Rule
from mambavl.fuse.fused_record import Fused, FusedInput
from mambavl.fuse.fused_runs import (
    Member,
    read_member,
    refuse_other_recipe,
    refuse_trained_on,
    refuse_unlike,
)
from mambavl.fuse.owner import held as locked
from mambavl.fuse.result import Metrics, Params, Result, Rows, Scored, StreamProvenance, Trained
from mambavl.fuse.run import (
    CLASSES,
    FUSION,
    LOCK,
    environment,
    scores_file,
    write_arrays,
    write_result,
)
from mambavl.fuse.scored import ScoresFile, read_scores_file
from mambavl.fuse.targets import is_labelled

HEAD = "fused"  # `head` of such a result
MOST = 4  # runs of a log-linear mixture: 286 weights, which are 1,430 candidates


class _Told(NamedTuple):
    """What the heads were fed and told, and what must be said of it."""

    streams: dict[str, StreamProvenance]
    text: str
    history: str
    notice: str | None


def fuse_scores(
    runs: Sequence[Path],
    out: Path,
    *,
    rule: Rule = "loglinear",
    chosen_on: Sequence[Path] = (),
    per: Sequence[str] | None = None,
    also: Sequence[str] = (),
) -> Result:
    """Mix the scores of finished runs of the same rows; writes the folder `out` and returns its result.

    chosen_on: for each run the same recipe trained with `data.hold_out`; `loglinear` needs them. per: the
    targets to choose for; None: all. also: other splits that all runs have scores of, such as `test`: mixed
    in the same way, into scores/SPLIT.npz; the result is of the runs' own split. Raises UsageError for a call
    that cannot be meant and an `out` that holds something else; DataError for runs that do not belong
    together or were trained on what they are scored or chosen on.
    """
    _refuse_call(runs, rule, chosen_on, per)
    rows_of: dict[str, tuple[Segment, ...]] = {}
    members = [read_member(run, rows_of) for run in runs]
    held = [read_member(run, rows_of) for run in chosen_on]
    refuse_unlike(members)
    for member, other in zip(members, held, strict=False):
        refuse_other_recipe(member, other)
    refuse_unlike(held)
    refuse_trained_on(members, held)
    plan, told = _plan(rule, members, held, per), _told(members)
    _refuse_targets(plan, members[0].file)
    others = [_scored_on(members, held, split) for split in also]
    _refuse_other_folder(out, plan)
    with locked(out):
        _refuse_other_folder(out, plan)
        fsops.write_file(out / FUSION, canonical.pretty_json(plan.to_dict()))
        plan = replace(plan, chosen={name: _choose(held, name, rule) for name in _chosen_for(plan, members)})
        scores = _mixed(plan, members)
        result = _result(plan, told, members, scores)
        fsops.write_file(out / CLASSES, members[0].file.classes.to_json())
        for split, ones in zip(also, others, strict=True):
            _write(out, split, ones[0].file, _mixed(plan, ones))
        _write(out, result.split, members[0].file, scores)
        write_result(out, result)
        return result


def _refuse_call(
    runs: Sequence[Path], rule: Rule, chosen_on: Sequence[Path], per: Sequence[str] | None
) -> None:
    every = [*runs, *chosen_on]
    for number, run in enumerate(every):
        if any(run.exists() and other.exists() and run.samefile(other) for other in every[:number]):
            raise UsageError(f"{run}: is named twice; each run has its scores, and its HELD is another run")
    if rule != "loglinear" and len(runs) < 2:
        raise UsageError(f"--rule {rule}: one run is its own mixture; name two or more")
    if rule != "loglinear" and not chosen_on:
        if per is not None:
            raise UsageError("--per: nothing is chosen without --chosen-on; name that, or leave --per out")
        return
    if len(chosen_on) != len(runs):
        raise UsageError(
            f"{counted(len(runs), 'run')} and {len(chosen_on)} --chosen-on: repeat --chosen-on for each run, "
            "in their order, with its recipe trained with --set data.hold_out=0/5; or --rule mean, which "
            "needs none"
        )
    if len(runs) > MOST:
        raise UsageError(
            f"{len(runs)} runs have too many weights to choose among; {MOST} at most, or --rule mean, which "
            "without --chosen-on takes any number"
        )


def _refuse_other_folder(out: Path, plan: Fused) -> None:
    """Raises UsageError where the folder holds anything but this mixture."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; name a folder with --out")
    if (out / FUSION).is_file():
        try:
            before = Fused.from_dict(json.loads((out / FUSION).read_bytes()))
        except ValueError as error:
            raise UsageError(f"{out / FUSION}: {error}; use another --out") from None
        if before.sources != plan.sources:
            was = ", ".join(one.run for one in before.inputs)
            raise UsageError(f"{out}: is a {before.rule} mixture of other scores ({was}); use another --out")
        return
    foreign = [one.name for one in out.glob("*") if one.name != LOCK and fsops.TEMPORARY not in one.name]
    if foreign:
        raise UsageError(f"{out}: is not empty ({sorted(foreign)[0]}); use another --out")


# --- mixing


def _refuse_targets(plan: Fused, file: ScoresFile) -> None:
    """Raises UsageError for a target that is not there, and one that cannot be mixed or chosen for so."""
    for name in plan.per or ():
        if name not in file.scores:
            raise UsageError(f"--per {name}: the runs score {', '.join(file.scores)}")
    for name, target in file.classes.targets.items():
        if target.kind == "single":
            continue
        if plan.rule != "mean":
            raise UsageError(
                f"{name}: several classes of a row are not ranked against each other, as --rule {plan.rule} "
                "does; use --rule mean"
            )
        if plan.on and (plan.per is None or name in plan.per):
            raise UsageError(
                f"{name}: with several classes a row there is no class-mean recall@5 to choose by; name the "
                "other targets with --per, or leave --chosen-on out"
            )


def _scored_on(members: Sequence[Member], held: Sequence[Member], split: str) -> list[Member]:
    """The runs with their scores of another split. Raises as `refuse_unlike` and `refuse_trained_on` do."""
    if split == members[0].result.split:
        raise UsageError(f"--also {split}: is what the runs are scored on, and mixed as it is")
    found = [
        replace(one, file=read_scores_file(scores_file(one.run, split), one.file.classes)) for one in members
    ]
    refuse_unlike(found)
    refuse_trained_on(found, held)
    return found


def _plan(rule: Rule, members: Sequence[Member], held: Sequence[Member], per: Sequence[str] | None) -> Fused:
    inputs = []
    for number, one in enumerate(members):
        other = held[number] if held else None
        inputs.append(
            FusedInput(
                run=str(one.run),
                title=one.result.title,
                sha256=one.file.sha256,
                held_run=str(other.run) if other else None,
                held_sha256=other.file.sha256 if other else None,
            )
        )
    if not held:
        return Fused(rule=rule, inputs=tuple(inputs))
    cooks = held[0].participants(held[0].file.ids)
    known = set().union(*(one.participants(one.trained_on) for one in held))
    return Fused(
        rule=rule,
        inputs=tuple(inputs),
        on=held[0].result.split,
        participants=tuple(sorted(cooks)),
        known=tuple(sorted(cooks & known)),
        per=tuple(per) if per is not None else None,
    )


def _chosen_for(plan: Fused, members: Sequence[Member]) -> list[str]:
    if not plan.on:
        return []
    return [name for name in members[0].file.scores if plan.per is None or name in plan.per]


def _mixed(plan: Fused, members: Sequence[Member]) -> dict[str, np.ndarray]:
    scores = {}
    for name in members[0].file.scores:
        logs, weights = _logs(members, name, plan.rule), plan.weights(name)
        if plan.rule == "mean":
            scores[name] = fused.mean(logs, weights)
        elif plan.rule == "loglinear":
            exponent = plan.chosen[name].exponent if name in plan.chosen else 0.0
            scores[name] = fused.loglinear(logs, [one.prior[name] for one in members], weights, exponent)
        else:
            scores[name] = fused.summed(logs, plan.rule, weights)
        if not np.isfinite(scores[name]).any(1).all():
            raise DataError(f"{name}: of some rows no class has a chance in all runs, so nothing is left")
    return scores


def _logs(members: Sequence[Member], name: str, rule: Rule) -> list[np.ndarray]:
    """Of loglinear plain log-probabilities, whose exponent is the mixture's; else what the runs gave."""
    return [one.log_p(name) if rule == "loglinear" else one.file.scores[name] for one in members]


def _write(out: Path, split: str, file: ScoresFile, scores: Mapping[str, np.ndarray]) -> None:
    write_arrays(out, split, file.ids, file.classes, dict(scores), dict(file.labels))


def _choose(held: Sequence[Member], name: str, rule: Rule) -> fused.Choice:
    """Of a target, on the rows that were held out."""
    file = held[0].file
    columns, classes = label_columns(file, name)
    rows = np.flatnonzero(classes >= 0)
    if not len(rows):
        raise DataError(f"{held[0].run}: none of the rows to choose on has a label of {name}")
    logs = [one[rows] for one in _logs(held, name, rule)]
    priors = [one.prior[name] for one in held]
    return fused.choose(logs, priors, columns[rows], classes[rows], rule)


def label_columns(file: ScoresFile, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(N,) the column of each row's label, -1 where it has none; (N,) a number for its class, -1 without."""
    if name in file.classes.targets:
        return file.labels[name], file.labels[name]
    derived = file.classes.derived[name]
    parts = np.stack([file.labels[part] for part in derived.of], 1).astype(np.int64)
    column = {pair: number for number, pair in enumerate(derived.pairs or ())}
    columns = np.array([column.get(tuple(row), -1) for row in parts.tolist()], np.int64)
    counts = [file.classes.targets[part].count for part in derived.of]
    numbers = np.ravel_multi_index(np.maximum(parts, 0).T, counts)
    return columns, np.where((parts >= 0).all(1), numbers, -1)


# --- the result


def _told(members: Sequence[Member]) -> _Told:
    """Raises DataError for runs that were told under different protocols, or of different tasks."""
    results, streams = [one.result for one in members], _streams(members)
    text, history = (_protocol(what, results) for what in ("text", "history"))
    recipes = {name: stream.recipe for name, stream in streams.items()}
    said = notices.notice_of(recipes, text, history, allow_oracle=True) or ""
    others = dict.fromkeys(one.notice for one in results if one.notice and one.notice not in said)
    return _Told(streams, text, history, ". ".join(filter(None, [said, *others])) or None)


def _result(plan: Fused, told: _Told, members: Sequence[Member], scores: Mapping[str, np.ndarray]) -> Result:
    results, first = [one.result for one in members], members[0]
    titles = list(dict.fromkeys(one.title for one in results))
    recipes = [one.recipe for one in results]
    ranked = {one.recipe.rank_by for one in members}
    precision = ", ".join(sorted({one.trained.precision for one in results}))
    trained = {one.trained.train_rows for one in results}
    return Result(
        title=f"{' + '.join(titles)}, {plan.rule}",
        head=HEAD,
        split=first.result.split,
        text_protocol=told.text,
        history_protocol=told.history,
        notice=told.notice,
        streams=told.streams,
        targets=first.file.classes.names,
        metrics=_measure(first, scores),
        prior_metrics=first.result.prior_metrics,
        rows=Rows(
            scored=len(first.file.ids),
            scored_by_prior=int(
                np.all([one.by_prior(name) for one in members for name in scores], axis=0).sum()
            ),
            failed=max(one.rows.failed for one in results),
        ),
        params=Params(
            total=sum(one.params.total for one in results),
            without_classifiers=sum(one.params.without_classifiers for one in results),
        ),
        seed=first.result.seed,
        epochs=max(one.epochs for one in results),
        recipe={"runs": recipes}
        | ({"rank_by": ranked.pop()} if len(ranked) == 1 and None not in ranked else {}),
        trained=Trained(precision=precision, train_rows=trained.pop() if len(trained) == 1 else None),
        scored=Scored(environment=environment(torch.device("cpu")), scan_backend=None, precision=precision),
        fused=plan,
    )


def _measure(first: Member, scores: Mapping[str, np.ndarray]) -> Metrics:
    file = first.file
    if not any(is_labelled(one).any() for one in file.labels.values()):
        return {}
    rows = tuple(first.segments[name] for name in file.ids)
    groups = {name: in_group(rows, group) for name, group in file.classes.groups.items()}
    return metrics.measure(file.classes, scores, file.labels, groups)


def _protocol(what: str, results: Sequence[Result]) -> str:
    """That of all runs which have such a stream."""
    found = {getattr(one, f"{what}_protocol"): one.title for one in results}
    told = {protocol: title for protocol, title in found.items() if protocol != "absent"}
    if len(told) > 1:
        listed = ", ".join(f"{protocol} of “{title}”" for protocol, title in sorted(told.items()))
        raise DataError(f"the runs were told under different {what} protocols: {listed}")
    return next(iter(told), "absent")


def _streams(members: Sequence[Member]) -> dict[str, StreamProvenance]:
    """Those of all runs; of one name and not of one kind, with their run's name behind."""
    found: dict[str, StreamProvenance] = {}
    for one in members:
        for name, stream in one.result.streams.items():
            is_other = name in found and found[name] != stream
            found[f"{name} of {one.run.name}" if is_other else name] = stream
    return found
