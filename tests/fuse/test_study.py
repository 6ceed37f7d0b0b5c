"""What a search proposes: within its choices, the same for one seed, better than chance."""

import importlib.util
import json
import math
import statistics
import tomllib

import numpy as np
import optuna
import pytest

from mambavl.configs.errors import UsageError
from mambavl.fuse.drawn import Interval, drawn
from mambavl.fuse.study import JOURNAL, Settings, Study, samples, settings_of

LR = "train.lr = { low = 1e-4, high = 1e-2, log = true }\n"
KEYS = LR + "fusion.d_state = { low = 2, high = 9 }\nhead.dropout = [0.1, 0.3]\n"
TOP = 'select_on = "0/5"\n'


def settings(text, top=TOP):
    return settings_of(tomllib.loads(f"{top}[search]\n{text}"), "mine.toml")


def proposed(study):
    return study.values(study.ask())


@pytest.mark.parametrize(
    ("top", "text", "said"),
    [
        ("", f"trials = 3\n{LR}", r"mine\.toml \[search\]: would choose .* --set select_on=0/5"),
        (TOP, LR, r"trials must be a whole number from 1 to 100,000, got None"),
        (TOP, f"trials = 0\n{LR}", "trials must be a whole number from 1"),
        (TOP, f"trials = 3\nseed = -1\n{LR}", "seed must be a whole number from 0"),
        (TOP, f"trials = 3\nprune = 1\n{LR}", "prune must be true or false, got 1"),
        (TOP, "trials = 3\n", "name what is drawn"),
        (TOP, "trials = 3\ntrain.lr = 1e-3\n", r"train\.lr must be a list"),
        (f"{TOP}[grid]\ntrain.seed = [0, 1]\n", f"trials = 3\n{LR}", r"leave \[grid\] out, or \[search\]"),
        (f"{TOP}[random]\npoints = 2\n{LR}", f"trials = 3\n{LR}", r"leave \[random\] out, or \[search\]"),
    ],
)
def test_a_section_that_cannot_be_meant_is_refused(top, text, said):
    with pytest.raises(UsageError, match=said):
        settings(text, top)


def test_without_optuna_the_command_that_installs_it_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else find(name))
    with pytest.raises(UsageError, match=r"needs the package optuna: `pip install -e '\.\[search\]'`"):
        settings(f"trials = 3\n{LR}")


def test_samples_hold_every_end_and_value_and_none_twice():
    found = samples(settings(f"trials = 3\n{KEYS}"))
    assert {values["train.lr"] for values in found} >= {1e-4, 1e-2}
    assert {values["fusion.d_state"] for values in found} >= {2, 9}
    assert {values["head.dropout"] for values in found} == {0.1, 0.3}
    assert len(found) > 32
    assert all(values not in found[:number] for number, values in enumerate(found))


def test_what_is_proposed_is_of_the_choices_and_short_enough_for_a_name(tmp_path):
    study = Study(tmp_path, settings(f"trials = 30\n{KEYS}"))
    found = []
    for number in range(30):
        found.append(proposed(study))
        study.end(number, "COMPLETE", float(number % 7))
    for values in found:
        assert list(values) == ["train.lr", "fusion.d_state", "head.dropout"]
        assert 1e-4 <= values["train.lr"] <= 1e-2
        assert float(f"{values['train.lr']:.4g}") == values["train.lr"]
        assert isinstance(values["fusion.d_state"], int)
        assert 2 <= values["fusion.d_state"] <= 9
        assert values["head.dropout"] in (0.1, 0.3)
    assert len({values["train.lr"] for values in found}) == 30


def test_a_seed_gives_the_same_proposals_also_where_the_search_is_opened_anew_for_each(tmp_path):
    asked = settings(f"trials = 16\nseed = 3\n{KEYS}")
    for name in ("whole", "anew", "other"):
        (tmp_path / name).mkdir()
    whole = Study(tmp_path / "whole", asked)
    other = Study(tmp_path / "other", asked._replace(seed=4))
    found = []
    for number in range(16):
        anew = Study(tmp_path / "anew", asked)
        triple = [proposed(study) for study in (whole, anew, other)]
        for study, values in zip((whole, anew, other), triple, strict=True):
            study.end(number, "COMPLETE", -abs(math.log(values["train.lr"] / 1e-3)))
        found.append(triple)
    assert all(first == second for first, second, _ in found)
    assert sum(first == third for first, _, third in found) < 4
    assert len({first["train.lr"] for first, _, _ in found}) == 16


def test_it_finds_what_as_many_draws_do_not(tmp_path):
    """Four keys, and the optimum where all of them are right; the mean over five seeds."""

    def loss(values):
        rates = [values[f"train.{key}"] for key in ("lr", "lr_ssm", "lr_end")]
        return sum(abs(math.log10(rate / 3e-4)) for rate in rates) + (values["head.dropout"] != 0.3)

    span = "{ low = 1e-6, high = 1e-1, log = true }"
    text = f"train.lr = {span}\ntrain.lr_ssm = {span}\ntrain.lr_end = {span}\nhead.dropout = [0.1, 0.2, 0.3]"
    searched, chance = [], []
    for seed in range(5):
        asked = settings(f"trials = 40\nseed = {seed}\n{text}")
        (tmp_path / str(seed)).mkdir()
        study, losses, by_chance = Study(tmp_path / str(seed), asked), [], []
        for number in range(40):
            losses.append(loss(proposed(study)))
            study.end(number, "COMPLETE", -losses[-1])
            keys = enumerate(asked.choices.items())
            by_chance.append(loss({key: drawn(choice, [seed, number, i]) for i, (key, choice) in keys}))
        searched.append(min(losses))
        chance.append(min(by_chance))
    assert np.mean(searched) < 0.7 * np.mean(chance), (searched, chance)


def test_pruned_is_what_never_was_at_the_median_of_completed_trials_at_its_epoch(tmp_path):
    study = Study(tmp_path, settings(f"trials = 20\n{LR}"))
    curves = [[10, 30, 50], [20, 10, 60], [30, 50, 20], [40, 40, 10], [50, 20, 80]]

    def begin(curve):
        number = study.ask()
        for epoch, value in enumerate(curve, 1):
            study.report(number, epoch, value)
        return number

    for curve in curves[:4]:
        study.end(begin(curve), "COMPLETE", curve[-1])
    assert not study.is_below_median(begin([0]))  # four are too few
    study.end(begin(curves[4]), "COMPLETE", 80)
    study.end(begin([90, 90, 90]), "PRUNED")  # neither this one
    study.end(begin([90, 90, 90]), "FAIL")  # nor this one counts
    for epoch in (1, 2, 3):
        median = statistics.median(curve[epoch - 1] for curve in curves)
        for value, below in ((median - 0.1, True), (median, False), (median + 0.1, False)):
            assert study.is_below_median(begin([0] * (epoch - 1) + [value])) == below, (epoch, value)
    assert not study.is_below_median(begin([45, 0]))  # its best was above 30, the median of the second epoch


def test_half_a_line_and_half_a_proposal_of_a_process_that_was_killed_are_mended(tmp_path):
    asked = settings(f"trials = 5\n{KEYS}")
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        study = Study(tmp_path / name, asked)
        study.ask()
        study.ask()
    whole = [study.values(number) for number in (0, 1)]
    lines = (tmp_path / "cut" / JOURNAL).read_bytes().splitlines(keepends=True)
    of_second = [b'"trial_id":1' in line and b'"train.lr"' in line for line in lines]
    kept = lines[: of_second.index(True) + 1]
    (tmp_path / "cut" / JOURNAL).write_bytes(b"".join(kept) + b'{"op_code": 5, "wor')
    again = Study(tmp_path / "cut", asked)
    assert again.trials()[1].params.keys() == {"train.lr"}
    assert [again.values(number) for number in (0, 1)] == whole
    assert Study(tmp_path / "cut", asked).values(1) == whole[1]


def test_a_journal_of_another_search_is_refused_and_more_trials_are_not(tmp_path):
    asked = settings(f"trials = 2\n{KEYS}")
    Study(tmp_path, asked)
    Study(tmp_path, asked._replace(trials=9))
    with pytest.raises(UsageError, match=r"another search[\s\S]*seed: 0 -> 1[\s\S]*--out"):
        Study(tmp_path, asked._replace(seed=1))
    changed = settings(f"trials = 2\n{KEYS.replace('1e-2', '1e-1')}")
    with pytest.raises(UsageError, match=r"train\.lr\.high: 0\.01 -> 0\.1"):
        Study(tmp_path, changed)


def test_the_journal_is_one_that_optuna_reads(tmp_path):
    choices = {"head.dropout": [0.1, 0.3], "fusion.d_state": Interval(2, 9, False)}
    study = Study(tmp_path, Settings(1, 0, False, choices))
    study.end(study.ask(), "COMPLETE", 41.5)
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL))
    [trial] = optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(backend)).trials
    assert trial.value == 41.5
    assert json.loads(trial.params["head.dropout"]) in (0.1, 0.3)
    assert isinstance(trial.params["fusion.d_state"], int)


def test_what_others_train_is_not_what_is_proposed_to_all(tmp_path):
    """One value of four has been the best twelve times; ten workers come at once, who have told nothing."""
    values = [0.1, 0.2, 0.3, 0.4]
    study = Study(tmp_path, Settings(30, 0, False, {"head.dropout": values}))
    for number in range(12):
        found = proposed(study)["head.dropout"]
        study.end(number, "COMPLETE", 100.0 if found == 0.2 else 10.0 * found)
    at_once = [proposed(study)["head.dropout"] for _ in range(10)]
    assert len(set(at_once)) > 1
