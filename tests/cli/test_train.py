"""Training, sweeps, scoring and the page of results, from the shell."""

import csv
import json
import os
import shutil

from helpers.cli import call
from mambavl.cli import sweeping
from mambavl.fuse.owner import owned


def test_the_road_ends_in_a_result_and_a_report(road, capsys):
    result = json.loads((road / "run" / "result.json").read_text())
    assert result["text_protocol"] == "oracle"
    assert result["streams"]["video"]["encoder"]["state"] == "random"
    assert call("evaluate", road / "run") == 0
    assert call("report", road / "run", "--out", road / "r.html", "--tables", road / "tables") == 0
    assert "wrote 1 run to" in capsys.readouterr().out
    assert (road / "r.html").stat().st_size > 10_000
    header, row = csv.reader((road / "tables" / "cost.csv").read_text().splitlines())
    cost = dict(zip(header, row, strict=True))
    assert float(cost["M multiply-adds a row"]) > 0
    assert "verb_question" in cost["tokens of the longest row"]


def test_a_run_says_within_an_epoch_how_far_it_is_and_after_each_what_came_of_it(
    road, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr("mambavl.terminal.LINE_EVERY", 0.0)
    sets = ("--set", "train.epochs=2", "--set", "train.warmup_epochs=0", "--set", "train.batch_size=2")
    assert call("train", road / "mine.toml", *sets, "--out", tmp_path / "run") == 0
    said = capfd.readouterr().err.splitlines()
    rows = json.loads((tmp_path / "run" / "result.json").read_text())["trained"]["train_rows"]
    an_epoch = -(-rows // 2)
    steps = [line for line in said if line.startswith("training: ")]
    assert [line.partition(" updates")[0] for line in steps] == [
        f"training: {done} of {2 * an_epoch}" for done in range(1, 2 * an_epoch + 1)
    ]
    assert [line.rpartition(", ")[2] for line in steps] == ["epoch 1 of 2"] * an_epoch + [
        "epoch 2 of 2"
    ] * an_epoch
    curves = [json.loads(line) for line in (tmp_path / "run" / "curves.jsonl").read_text().splitlines()]
    epochs = [line for line in said if line.startswith("epoch ")]
    assert [line.partition(", verb top-1 ")[0] for line in epochs] == [
        f"epoch {line['epoch']} of 2: loss {line['loss']:.4f}" for line in curves
    ]
    for line, found in zip(epochs, curves, strict=True):
        assert line.endswith(f"action top-1 {found['action_top1']:.1f}")


def test_what_the_text_is_worth_is_measured_and_the_result_left_alone(road, tmp_path, capsys):
    shutil.copytree(road / "run", tmp_path / "run")
    before = (tmp_path / "run" / "result.json").read_bytes()
    questions = ("--without", "verb_question", "--without", "noun_question")
    assert call("evaluate", tmp_path / "run", *questions) == 0
    said = capsys.readouterr().out
    assert "without verb_question, noun_question" in said
    assert "difference" in said
    written = tmp_path / "run" / "scores" / "validation-without-verb_question-noun_question.npz"
    assert f"wrote {written}" in said
    assert written.exists()
    assert (tmp_path / "run" / "result.json").read_bytes() == before
    assert call("evaluate", tmp_path / "run", "--without", "sound") == 2
    assert "has no stream 'sound' to be left out" in capsys.readouterr().err


def test_a_sweep_from_the_shell(road, capfd):
    recipe = road / "grid.toml"
    recipe.write_text((road / "mine.toml").read_text() + "\n[grid]\nfusion.share = ['A', 'none']\n")
    assert call("sweep", recipe, "--out", road / "sweep") == 0
    # summary.json among them
    assert call("report", *(road / "sweep").glob("*"), "--out", road / "sweep.html") == 0
    captured = capfd.readouterr()
    assert "fusion.share=none: done" in captured.err
    assert "wrote 2 runs and summary.json" in captured.out
    assert call("sweep", recipe, "--out", road / "sweep") == 0
    assert (
        f"wrote 0 runs and summary.json to {road / 'sweep'}; 2 had finished before" in capfd.readouterr().out
    )
    for command in ("report", "evaluate"):
        assert call(command, road / "sweep") == 1
        said = capfd.readouterr().err
        assert f"{road / 'sweep'}: is not a run: " in said
        assert f"it holds runs: name one, such as {road / 'sweep' / 'fusion.share=A'}, or for a" in said


def test_what_another_worker_has_just_trained_had_not_finished_before(road, tmp_path, monkeypatch, capfd):
    """To the worker that comes to it later its state is the same."""
    trained = sweeping.run_sweep

    def come_to_late(*args, **options):
        points, chosen = trained(*args, **options)
        for point in points:
            point.state = "skipped"
        return points, chosen

    monkeypatch.setattr(sweeping, "run_sweep", come_to_late)
    recipe = tmp_path / "grid.toml"
    recipe.write_text((road / "mine.toml").read_text() + "\n[grid]\nfusion.share = ['A', 'none']\n")
    short = ("--set", "train.epochs=1", "--set", "train.warmup_epochs=0")
    assert call("sweep", recipe, *short, "--out", tmp_path / "sweep") == 0
    assert f"wrote 2 runs and summary.json to {tmp_path / 'sweep'}\n" in capfd.readouterr().out


def test_a_sweep_says_first_how_many_points_its_combinations_are(road, tmp_path, capfd):
    """And that the MLP is one of them, whatever is shared."""
    recipe = tmp_path / "heads.toml"
    grid = "head.name = ['mambavl', 'mlp']\nfusion.share = ['A', 'none']\n"
    recipe.write_text((road / "mine.toml").read_text() + f"\n[grid]\n{grid}")
    assert call("sweep", recipe, "--set", "train.epochs=1", "--set", "train.warmup_epochs=0",
                "--out", tmp_path / "sweep") == 0  # fmt: skip
    captured = capfd.readouterr()
    assert captured.out.startswith("4 combinations are 3 points: ")
    assert "wrote 3 runs and summary.json" in captured.out
    assert "\nhead.name=mlp: done\n" in captured.err


def test_a_search_from_the_shell(road, tmp_path, capfd):
    recipe = tmp_path / "search.toml"
    lines = "\n[search]\ntrials = 3\ntrain.lr = { low = 1e-4, high = 1e-2, log = true }\n"
    recipe.write_text((road / "mine.toml").read_text() + lines)
    sets = ("--set", "train.epochs=1", "--set", "train.warmup_epochs=0", "--out", tmp_path / "s")
    assert call("sweep", recipe, *sets) == 2
    assert "--set select_on=0/5" in capfd.readouterr().err
    chooses = ("--set", "select_on=0/2", "--set", "data.hold_out_by=video")
    assert call("sweep", recipe, *sets, *chooses, "--pack", 2) == 2
    assert "leave it out" in capfd.readouterr().err
    assert not (tmp_path / "s").exists()
    assert call("sweep", recipe, *sets, *chooses, "--workers", 2) == 0
    captured = capfd.readouterr()
    assert "wrote 4 runs and summary.json" in captured.out
    assert "chosen among 3 on train_0_of_2" in captured.out
    assert len(list((tmp_path / "s").glob("train.lr=*/result.json"))) == 3
    assert call("train", recipe, *sets, *chooses) == 2
    assert "mambavl sweep" in capfd.readouterr().err


def test_a_sweep_that_chooses_ends_with_what_it_chose(road, tmp_path, capfd):
    """By video: the toy kitchen has one cook. And one that does not choose says what that means."""
    recipe = tmp_path / "grid.toml"
    recipe.write_text((road / "mine.toml").read_text() + "\n[grid]\ntrain.lr = [1e-3, 2e-3]\n")
    short = ("--set", "train.epochs=1", "--set", "train.warmup_epochs=0")
    chooses = ("--set", "select_on=0/2", "--set", "data.hold_out_by=video")
    assert call("sweep", recipe, *short, *chooses, "--out", tmp_path / "chosen") == 0
    said = capfd.readouterr().out
    assert "wrote 3 runs and summary.json" in said
    assert "\nchosen among 2 on train_0_of_2, by action top-1 (" in said
    [run] = (tmp_path / "chosen").glob("chosen,*")
    assert f"\n  {run}: verb " in said
    assert said.rstrip().endswith(" on validation")
    assert call("sweep", recipe, *short, "--out", tmp_path / "plain") == 0
    said = capfd.readouterr().out
    assert "the best of these 2 was chosen on the rows it is reported on" in said
    assert f"`mambavl sweep {recipe} --set select_on=0/5 --out FOLDER`" in said
    assert call("sweep", recipe, "--set", "select_on=5", "--out", tmp_path / "no") == 2
    assert "--set: select_on = 5: expected i/n" in capfd.readouterr().err


def test_damaged_runs_say_so_and_evaluate_mends_what_it_can(road, tmp_path, capsys):
    shutil.copytree(road / "run", tmp_path / "run")
    for name, content, report_says in (
        ("result.json", "{", "is damaged"),
        ("result.json", "{}", "is damaged"),
        ("scores/validation.npz", "PK", "cannot be read"),
    ):
        (tmp_path / "run" / name).write_text(content)
        assert call("report", tmp_path / "run", "--out", tmp_path / "r.html") == 1
        assert report_says in capsys.readouterr().err
        assert call("evaluate", tmp_path / "run") == 0
        assert call("report", tmp_path / "run", "--out", tmp_path / "r.html") == 0
        capsys.readouterr()
    (tmp_path / "run" / "model.safetensors").write_bytes(b"x" * 100)
    assert call("evaluate", tmp_path / "run") == 1
    assert "model.safetensors: is damaged" in capsys.readouterr().err


def test_a_held_run_is_refused_with_2_and_its_holder(road, tmp_path, capsys):
    with owned(tmp_path / "run"):
        assert call("train", road / "mine.toml", "--out", tmp_path / "run") == 2
    assert f"another process (pid {os.getpid()} on host" in capsys.readouterr().err


def test_a_failed_point_is_named_with_its_reason_and_left_out_of_the_report(road, tmp_path, capfd):
    """Nothing of the sweep is lost, and the exit code says that something is."""
    recipe = tmp_path / "grid.toml"
    recipe.write_text((road / "mine.toml").read_text() + "\n[grid]\ntrain.lr = [1e30, 1e-3]\n")
    sets = ("--set", "train.clip_norm=0.0", "--set", "train.warmup_epochs=0.0")
    assert call("sweep", recipe, *sets, "--out", tmp_path / "sweep") == 1
    captured = capfd.readouterr()
    assert "train.lr=0.001: done\n" in captured.err
    assert "train.lr=1e+30: failed (" in captured.err
    assert "mambavl: train.lr=1e+30: diverged: " in captured.err
    assert "wrote 2 runs and summary.json" in captured.out
    runs = sorted((tmp_path / "sweep").glob("*"))
    assert call("report", *runs, "--out", tmp_path / "r.html") == 0
    said = capfd.readouterr().out
    assert "wrote 1 run to" in said
    assert f"left out {tmp_path / 'sweep' / 'train.lr=1e+30'}: failed: " in said
    assert call("report", tmp_path / "sweep" / "train.lr=1e+30", "--out", tmp_path / "r.html") == 1
    assert "no run has finished" in capfd.readouterr().err
