"""What [search] of a sweep's recipe asks for, and Optuna's study of it in a journal.

    select_on = "0/5"                                  # points are compared on training rows held out
    [search]
    trials = 50
    seed = 0
    prune = true                                       # give up what is below the median of earlier trials
    train.lr = { low = 1e-4, high = 1e-2, log = true } # keys as of [random]
    head.dropout = [0.1, 0.3, 0.5]

A proposal follows from `seed`, its number and what the journal holds: a search that was stopped goes on as if
it had not been. Optuna is optional, and imported where a study is opened.
"""

import importlib.util
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from mambavl.cache import canonical, fsops
from mambavl.configs.errors import UsageError, differs, to_install
from mambavl.fuse.drawn import SECTIONS, Choice, Interval, choices_of, drawn, has_points, whole
from mambavl.fuse.selection import KEY

if TYPE_CHECKING:
    import optuna

JOURNAL = "search.journal"
NAME = "search"  # of the study, the only one in the journal
OF_SEARCH = ("trials", "seed", "prune")  # keys of [search] itself
ASKED, WHY = "asked", "why"  # attributes: of the study, what is searched; of a trial, why it ended so
BEFORE_PRUNING = 5  # trials that have been completed before any is given up
DRAWS = 32  # of the section, that are checked before anything runs

End = Literal["COMPLETE", "PRUNED", "FAIL"]


class Settings(NamedTuple):
    """The section, checked."""

    trials: int
    seed: int
    prune: bool
    choices: dict[str, Choice]


def settings_of(data: dict[str, Any], source: str) -> Settings:
    """Raises UsageError where the section is not right, stands beside another one, nothing says on which rows
    points are compared, or Optuna is not installed.
    """
    where, section = f"{source} [search]", data["search"]
    beside = [name for name in SECTIONS if name != "search" and has_points({name: data.get(name)})]
    if beside:
        raise UsageError(f"{where}: proposes all points by itself; leave [{beside[0]}] out, or [search]")
    if KEY not in data:
        raise UsageError(
            f"{where}: would choose on the rows that are reported on; say which training rows are held out "
            f'to compare points on: {KEY} = "0/5" above the first section, or --set {KEY}=0/5'
        )
    prune = section.get("prune", False)
    if not isinstance(prune, bool):
        raise UsageError(f"{where}: prune must be true or false, got {prune!r}")
    settings = Settings(
        trials=whole(section, "trials", where, least=1),
        seed=whole(section, "seed", where, default=0),
        prune=prune,
        choices=choices_of({key: value for key, value in section.items() if key not in OF_SEARCH}, where),
    )
    if importlib.util.find_spec("optuna") is None:
        raise UsageError(f"{where}: needs the package optuna: {to_install('search')}")
    return settings


def samples(settings: Settings) -> list[dict[str, Any]]:
    """Values that stand for those which nobody knows yet: every end of an interval and value of a list, the
    other keys at their first; and some draws.
    """
    ends = {
        key: [choice.low, choice.high] if isinstance(choice, Interval) else choice
        for key, choice in settings.choices.items()
    }
    first = {key: values[0] for key, values in ends.items()}
    found = [{**first, key: value} for key, values in ends.items() for value in values]
    for draw in range(DRAWS):
        entropy = {key: [settings.seed, draw, zlib.crc32(key.encode())] for key in ends}
        found.append({key: drawn(choice, entropy[key]) for key, choice in settings.choices.items()})
    return [values for number, values in enumerate(found) if values not in found[:number]]


class Study:
    """The trials in a folder's journal. One process at a time may use it."""

    def __init__(self, out: Path, settings: Settings) -> None:
        """Raises UsageError where the journal is another search's: but for `trials`, that is."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        class Ours(JournalFileOpenLock):
            """The lock that we hold ends with its process; Optuna's, a file, would be waited for."""

            def acquire(self) -> bool:
                return True

            def release(self) -> None:
                pass

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.settings, self.journal = settings, out / JOURNAL
        self.cut_half_line()
        self.storage = JournalStorage(JournalFileBackend(str(self.journal), lock_obj=Ours(str(self.journal))))
        self.study = optuna.create_study(
            storage=self.storage,
            study_name=NAME,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=BEFORE_PRUNING, n_warmup_steps=0),
            load_if_exists=True,
        )
        self.id = self.storage.get_study_id_from_name(NAME)
        asked = _asked(settings)
        before = self.storage.get_study_user_attrs(self.id).get(ASKED)
        if before is None:
            self.storage.set_study_user_attr(self.id, ASKED, asked)
        elif faults := canonical.differences(before, asked):
            what = differs(faults, "there -> asked for")
            raise UsageError(f"{out}: belongs to another search. {what}\nUse another --out.")

    def cut_half_line(self) -> None:
        """A process that was killed may have left one; what is appended to it could never be read."""
        if self.journal.exists():
            written = self.journal.read_bytes()
            if not written.endswith(b"\n"):
                fsops.truncate(self.journal, written.rfind(b"\n") + 1)

    def trials(self) -> "list[optuna.trial.FrozenTrial]":
        """In the order of their numbers, which count from 0."""
        return self.storage.get_all_trials(self.id, deepcopy=False)

    def ask(self) -> int:
        """The number of a new trial; its values are proposed."""
        number = len(self.trials())
        self.study.sampler = self._sampler(number)
        self._propose(number, self.study.ask())
        return number

    def values(self, number: int) -> dict[str, Any]:
        """What a trial proposes: key -> value."""
        import optuna

        params = self.trials()[number].params
        if not self.settings.choices.keys() <= params.keys():  # killed while it was proposed
            self.study.sampler = self._sampler(number)
            self._propose(number, optuna.trial.Trial(self.study, self._trial_id(number)))
            params = self.trials()[number].params
        return {key: _read(choice, params[key]) for key, choice in self.settings.choices.items()}

    def report(self, number: int, epoch: int, value: float) -> None:
        self.storage.set_trial_intermediate_value(self._trial_id(number), epoch, value)

    def is_below_median(self, number: int) -> bool:
        """Whether the best of a trial so far is below the median, over completed trials, of what they were at
        its last epoch (Optuna's MedianPruner).
        """
        return self.study.pruner.prune(self.study, self.trials()[number])

    def end(self, number: int, end: End, score: float | None = None, why: str = "") -> None:
        """A trial ends. score: of one that was completed."""
        from optuna.trial import TrialState

        if why:
            self.storage.set_trial_user_attr(self._trial_id(number), WHY, why)
        self.study.tell(number, score, state=TrialState[end])

    def _trial_id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.id, number)

    def _sampler(self, number: int, key: str = "") -> "optuna.samplers.TPESampler":
        """TPE; trials that others are training count as bad ones, so that they are not proposed again."""
        import optuna

        # one for each trial and key: a stream of random numbers would begin anew whenever the search goes on
        entropy = [self.settings.seed, number, zlib.crc32(key.encode())]
        [seed] = np.random.SeedSequence(entropy).generate_state(1)
        return optuna.samplers.TPESampler(seed=int(seed), constant_liar=True)

    def _propose(self, number: int, trial: "optuna.trial.Trial") -> None:
        for key, choice in self.settings.choices.items():
            self.study.sampler = self._sampler(number, key)
            if not isinstance(choice, Interval):
                trial.suggest_categorical(key, [json.dumps(value) for value in choice])
            elif choice.is_whole:
                trial.suggest_int(key, int(choice.low), int(choice.high), log=choice.log)
            else:
                trial.suggest_float(key, choice.low, choice.high, log=choice.log)


def _read(choice: Choice, param: Any) -> Any:
    return choice.rounded(param) if isinstance(choice, Interval) else json.loads(param)


def _asked(settings: Settings) -> dict[str, Any]:
    """What may not change while a search goes on; as JSON."""
    choices = {
        key: choice._asdict() if isinstance(choice, Interval) else choice
        for key, choice in settings.choices.items()
    }
    return {"seed": settings.seed, "prune": settings.prune, **choices}
