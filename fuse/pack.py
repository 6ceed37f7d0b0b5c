"""Several runs in one pass: heads of one shape read each batch together and are updated side by side.

The runs of a pack read the same rows in the same order: they have one `train.order_seed`, or one seed. What
else they may differ in is MAY_DIFFER. Each has a folder of its own, and ends as it would alone, to rounding.
One that diverges leaves the pack, and so does one whose epochs are over.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mambavl.cache import canonical
from mambavl.configs import Config
from mambavl.configs.errors import DataError, Interrupted
from mambavl.fuse import evaluate, owner
from mambavl.fuse.data import FeatureData, epoch_batches
from mambavl.fuse.idle import without
from mambavl.fuse.losses import losses_of_heads
from mambavl.fuse.member import Member
from mambavl.fuse.processes import Processes
from mambavl.fuse.recipe import Recipe, build_head, run_targets
from mambavl.fuse.run import RESULT, CurveLine, Scores, refuse_other_stores, write_inputs
from mambavl.fuse.stacked import Stack, heads_at_once
from mambavl.fuse.stacked_layers import Read
from mambavl.fuse.stacked_optimizer import StackedOptimizer, limit, norms
from mambavl.fuse.steps import Steps, choose_precision
from mambavl.fuse.targets import refuse_unlabelled

# keys that every head of a pack may have its own value of
MAY_DIFFER = (
    "title", "published", "rank_by", "select_on", "train.eval_every", "train.checkpoint_every",
    "train.keep", "train.score_dtype",
    "train.lr", "train.lr_ssm", "train.lr_start", "train.lr_end", "train.warmup_epochs", "train.epochs",
    "train.momentum", "train.weight_decay", "train.decay_all", "train.label_smoothing", "train.clip_norm",
    "train.ema", "train.stop_after", "head.dropout", "fusion.init", "fusion.preset",
)  # fmt: skip
# keys that a pack knows; a run that asks for another one is trained alone
KNOWN = {
    "train": {
        "epochs", "batch_size", "optimizer", "lr", "lr_ssm", "lr_start", "lr_end", "warmup_epochs",
        "momentum", "weight_decay", "decay_all", "label_smoothing", "clip_norm", "drop_streams",
        "feature_dropout", "seed", "order_seed", "ema", "precision", "eval_every", "checkpoint_every",
        "stop_after", "keep", "score_dtype",
    },
    "head": {
        "name", "d_model", "video_mlp_layers", "text_mlp_layers", "input_norm", "question_routing", "dropout",
    },
    "fusion": {
        "preset", "mixer", "d_state", "d_conv", "expand", "dt_rank", "share", "zoh", "pad_text_to", "init",
        "scan",
    },
    "attentive": {"depth", "num_heads", "max_positions"},
    "targets": {"weight", "streams", "ranked_by", "loss", "gamma"},
}  # fmt: skip
HEADS = ("mambavl", "mlp", "attentive")
# d_model up to which heads are packed unless somebody asks -> how many, as benchmarks/sweeps.py measured;
# of wide heads an MLP reads so little that a pass saves nothing
AUTOMATIC = {96: 20, 256: 8, 768: 4}
WIDEST = {"mlp": 256}

log = logging.getLogger(__name__)


def packs(recipes: Sequence[Recipe], size: int | None = None, shares: int = 1) -> list[list[int]]:
    """The places of recipes that are trained in one pass, pack by pack; a recipe that is trained alone is a
    pack of its own. size: how many at most in one; None: as many as pay at the heads' width, and leave some
    to each of the processes that share the recipes.
    """
    fair = -(-len(recipes) // shares)
    found: list[list[int]] = []
    open_packs: dict[str, list[int]] = {}
    for place, recipe in enumerate(recipes):
        key, most = key_of(recipe), size or min(automatic_size(recipe), fair)
        pack = open_packs.get(key) if key else None
        if pack is None or len(pack) >= most:
            pack = []
            found.append(pack)
        pack.append(place)
        if key:
            open_packs[key] = pack
    return found


def automatic_size(recipe: Recipe) -> int:
    """How many heads of this width are trained in one pass unless somebody asks."""
    d_model = recipe.head.d_model
    if d_model > WIDEST.get(recipe.head.name, d_model):
        return 1
    return next((size for width, size in AUTOMATIC.items() if d_model <= width), 1)


def key_of(recipe: Recipe) -> str | None:
    """Equal for recipes that can be trained in one pass; None for one that can only be trained alone."""
    sections = [(name, getattr(recipe, name)) for name in KNOWN if name != "targets"]
    sections += [("targets", config) for config in recipe.targets.values()]
    if recipe.head.name not in HEADS or any(_asks_for_more(KNOWN[name], own) for name, own in sections):
        return None
    own = (*MAY_DIFFER, "train.seed") if recipe.train.order_seed is not None else MAY_DIFFER
    return canonical.digest(without(recipe.model_dump(mode="json", exclude_none=True), own))


def _asks_for_more(known: set[str], section: Config | None) -> bool:
    if section is None:
        return False
    more = [item for item in type(section).model_fields.items() if item[0] not in known]
    return any(getattr(section, name) != field.get_default(call_default_factory=True) for name, field in more)


def train_together(
    recipes: Sequence[Recipe],
    runs: Sequence[Path],
    data: FeatureData,
    *,
    on_start: Callable[[int], None] = lambda place: None,
    on_epoch: Callable[[int, CurveLine], None] = lambda place, line: None,
    on_end: Callable[[int, Exception | None], None] = lambda place, error: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train those of some runs that can be in one pass: that nobody else holds, that have not finished and
    are equally far. The others are as before, for `train` to take or to refuse.

    recipes: such as have one `key_of`. The callbacks get the place of a run among them; on_end: once it has
    its result, or failed with an error of its own, which is in its failure.json then. Raises Interrupted,
    after saving all, when `should_stop()` turns true; any other error is of all of them, and they can be
    trained one by one, from their last checkpoints.
    """
    processes = Processes()
    if processes.count > 1:
        raise ValueError("runs are trained in one pass by one process alone")
    with contextlib.ExitStack() as locks:
        by_position: dict[int, dict[int, Member]] = {}
        for place, (recipe, run) in enumerate(zip(recipes, runs, strict=True)):
            # what cannot begin is left to `train`, which says why
            with contextlib.suppress(owner.RunHeld, DataError):
                locks.enter_context(owner.held(run))
                locks.enter_context(owner.begun(run))
                if not (run / RESULT).exists():
                    member = _begin(recipe, run, data, processes)
                    if not member.is_done:
                        by_position.setdefault(member.updates, {})[place] = member
        members = max(by_position.values(), key=len, default={})
        if len(members) > 1:
            for place in members:
                on_start(place)
            _Pack(members, processes, on_epoch, on_end).fit(should_stop)


def _begin(recipe: Recipe, run: Path, data: FeatureData, processes: Processes) -> Member:
    """Its last checkpoint is taken up. As `train` begins a run."""
    refuse_other_stores(run, data)
    targets = run_targets(recipe, data)
    refuse_unlabelled(targets, data.labels, data.train)
    head = build_head(recipe, data, targets).to(processes.device)
    member = Member(recipe, run, data, targets, head, choose_precision(recipe.train, processes.device))
    for complaint in member.resume():
        log.warning("passed over a checkpoint: %s", complaint)
    member.cut_curves()
    return member


class _Part:
    """Some heads of a pack, whose activations find room in the caches together."""

    def __init__(self, members: dict[int, Member]) -> None:
        self.members = members
        self.stack = Stack([member.head for member in members.values()])
        self.optimizer = StackedOptimizer(
            self.stack,
            [member.optimizer for member in members.values()],
            [member.config for member in members.values()],
        )

    @property
    def seeds(self) -> list[int]:
        """Of their dropout; one where it is of all."""
        seeds = [member.config.seed for member in self.members.values()]
        return seeds if len(set(seeds)) > 1 else seeds[:1]

    def losses(self, read: Read, keys: Tensor, rows: np.ndarray) -> Tensor:
        """(K,): of each, the mean over the labelled rows of a batch, summed over targets. keys: of seeds."""
        smoothing = [member.config.label_smoothing for member in self.members.values()]
        first, losses = next(iter(self.members.values())), []
        for name, logits in self.stack(read, keys).items():
            own = losses_of_heads(name, first.targets, logits, first.labels[name][rows], smoothing)
            losses.append(first.targets.weights[name] * own)
        return torch.stack(losses).sum(0)

    def step(self, gradients: Sequence[Tensor], found: Tensor, losses: Sequence[float]) -> None:
        """One update of each. gradients: of each leaf, of norms `found` (K,)."""
        members = self.members.values()
        gradients = limit(gradients, found, [member.config.clip_norm for member in members])
        self.optimizer.step(gradients, [member.factor(member.updates) for member in members])
        for member, loss in zip(members, losses, strict=True):
            member.loss_sum += loss
            member.batch += 1
            if member.average:
                member.average.update(member.head, member.updates)

    def drop(self, places: set[int]) -> None:
        """Go on without the members at some places."""
        kept = [number for number, place in enumerate(self.members) if place not in places]
        if len(kept) < len(self.members):
            self.members = {place: one for place, one in self.members.items() if place not in places}
            if kept:
                self.stack.keep(kept)
                self.optimizer.keep(kept)


class _Pack:
    """The loop over the updates of several runs that are equally far."""

    def __init__(
        self,
        members: dict[int, Member],
        processes: Processes,
        on_epoch: Callable[[int, CurveLine], None],
        on_end: Callable[[int, Exception | None], None],
    ) -> None:
        self.size, self.processes, self.on_epoch, self.on_end = len(members), processes, on_epoch, on_end
        for member in members.values():
            owner.forget_failure(member.run)
            write_inputs(member.run, member.recipe, member.data, member.targets, member.prior)
        first, items = next(iter(members.values())), list(members.items())
        at_once = heads_at_once(first.head, first.config.batch_size)
        groups = [items[i : i + at_once] for i in range(0, len(items), at_once)]
        self.parts = [_Part(dict(group)) for group in groups]
        self.steps = Steps(first.head, first.data, first.targets, first.labels, first.config, processes)

    @property
    def members(self) -> dict[int, Member]:
        """Those that are still being trained."""
        return {place: member for part in self.parts for place, member in part.members.items()}

    def fit(self, should_stop: Callable[[], bool]) -> None:
        """Train all to their last epochs."""
        while self.parts:
            self._one_epoch(should_stop)
            scores = self._scores()
            members = self.members
            self._drop({p for p in members if not self._end_epoch(p, members[p], scores.get(members[p].run))})

    def _one_epoch(self, should_stop: Callable[[], bool]) -> None:
        first, since = next(iter(self.members.values())), time.perf_counter()
        self.steps.begin(first.epoch)
        batches = epoch_batches(first.rows, first.config.batch_size, first.config.order, first.epoch)
        for number, rows in enumerate(batches):
            if number < first.batch:
                continue  # done before they were interrupted
            if should_stop():
                self._passed(since)
                for member in self.members.values():
                    member.save()
                raise first.interrupted()
            self._update(rows)
            if not self.parts:
                return
        self._passed(since)

    def _passed(self, since: float) -> None:
        """Count the time since then as that of each."""
        passed = time.perf_counter() - since
        for member in self.members.values():
            member.seconds += passed

    def _update(self, rows: np.ndarray) -> None:
        """One update of each; those that diverge leave."""
        streams = self.steps.batch(rows)
        diverged = set()
        with evaluate.autocast(self.processes.device, self.steps.precision):
            read = self.parts[0].stack.read(streams)
        for part in self.parts:
            with evaluate.autocast(self.processes.device, self.steps.precision):
                losses = part.losses(read, self.steps.keys(rows, part.seeds), rows)
            gradients = torch.autograd.grad(losses.sum(), [leaf.values for leaf in part.stack.leaves])
            found = norms(gradients)
            values = torch.stack([losses.detach(), found]).tolist()
            for (place, member), loss, norm in zip(part.members.items(), *values, strict=True):
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    self._fail(place, self._why(member, rows, loss, norm))
                    diverged.add(place)
            part.step(gradients, found, values[0])
        self._drop(diverged)

    def _why(self, member: Member, rows: np.ndarray, loss: float, norm: float) -> DataError:
        try:
            return member.diverged(rows, self.steps.views, loss, norm)
        except DataError as broken_features:
            return broken_features

    def _scores(self) -> Mapping[Path, Scores | DataError]:
        """By run, of those whose epoch is scored; what to raise where it cannot be."""
        due = [member for member in self.members.values() if member.is_due]
        if not due:
            return {}
        first = due[0]
        heads = {member.run: member.scored for member in due}
        rows, batch_size = first.data.evaluation, first.config.batch_size
        return evaluate.score_together(
            heads, first.data, first.targets, rows, first.prior, first.precision, batch_size
        )

    def _end_epoch(self, place: int, member: Member, scores: Scores | DataError | None) -> bool:
        """Write its line and checkpoint, its result after the last; whether it goes on."""
        try:
            if isinstance(scores, DataError):
                raise scores
            line = member.line(scores)
            member.begin_next(line)
            member.record(line)
            self.on_epoch(place, line)
            if member.is_done:
                member.finish(self.processes, self.size)
        except Interrupted:
            raise
        except Exception as error:  # its own; the others go on
            self._fail(place, error)
            return False
        if member.is_done:
            self.on_end(place, None)
        return not member.is_done

    def _fail(self, place: int, error: Exception) -> None:
        owner.note_failure(self.members[place].run, error)
        self.on_end(place, error)

    def _drop(self, places: set[int]) -> None:
        """Go on without those that have ended."""
        for part in self.parts:
            part.drop(places)
        self.parts = [part for part in self.parts if part.members]
