"""benchmarks/harness.py, and that every benchmark is run by it."""

import ast
import datetime
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from helpers.benchmarks import BENCHMARKS, load

NO_PROGRAMS = {"harness", "readme", "scale", "plots", "formats"}  # of benchmarks/, but they measure nothing
PROGRAMS = sorted({path.stem for path in BENCHMARKS.glob("*.py")} - NO_PROGRAMS)
OLDER = (  # results of before the harness: made anew, they have to be taken off
    "extraction.json", "job.json", "report.json", "sweeps.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def harness():
    return load("harness")


@pytest.fixture
def clock(harness, monkeypatch):
    """A clock that only jobs move."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(
        harness,
        "time",
        SimpleNamespace(perf_counter=lambda: now.seconds, monotonic=lambda: now.seconds),
    )
    return now


def arguments(harness, *words, repeats=3):
    return harness.options("What?", repeats=repeats).parse_args([str(word) for word in words])


# --- turns


def test_jobs_take_turns_after_each_has_warmed_up(harness, clock):
    calls, checked = [], []
    takes = {"a": iter((9.0, 1.0, 2.0)), "b": iter((8.0, 3.0, 4.0))}

    def job(name):
        def run():
            calls.append(name)
            clock.seconds += next(takes[name])
            return f"{name}{calls.count(name)}"

        return run

    jobs = {"a": job("a"), "b": job("b")}
    found = harness.turns(jobs, 2, check=lambda key, result: checked.append((key, result)))
    assert found == {"a": [1.0, 2.0], "b": [3.0, 4.0]}
    assert "".join(calls) == "ababab"
    assert checked == [("a", "a1"), ("b", "b1")]


def test_a_check_that_fails_ends_it_before_anything_is_timed(harness):
    calls = []

    def check(key, found):
        raise SystemExit(f"{key} is wrong")

    with pytest.raises(SystemExit, match="a is wrong"):
        harness.turns({"a": lambda: calls.append("a")}, 5, check=check)
    assert calls == ["a"]


def test_what_is_slow_takes_part_in_fewer_turns(harness, clock):
    def slow():
        clock.seconds += 20

    def quick():
        clock.seconds += 1

    often = lambda seconds, repeats: 1 if seconds > 15 else repeats
    found = harness.turns({"slow": slow, "quick": quick}, 3, often=often)
    assert found == {"slow": [20.0], "quick": [1.0, 1.0, 1.0]}


def test_what_is_still_at_work_is_waited_for_on_both_sides_of_the_clock(harness, clock):
    """As a GPU's queue: what was asked for before is not this job's, what it asks for itself is."""
    waiting = [5.0]  # seconds of work that were asked for earlier

    def wait():
        clock.seconds += sum(waiting)
        waiting.clear()

    def job():
        waiting.append(2.0)
        return "done"

    assert harness.clock(job, wait) == (2.0, "done")
    waiting.append(5.0)
    assert harness.turns({"a": job}, 2, wait=wait) == {"a": [2.0, 2.0]}


def test_a_spread_by_hand(harness):
    found = harness.spread([0.004, 0.001, 0.0025, 0.0035])
    assert found == {"milliseconds": 3.0, "fastest": 1.0, "slowest": 4.0, "repeats": 4}
    assert list(harness.spread([1.5]).values()) == [1500.0, 1500.0, 1500.0, 1]


# --- conditions


@pytest.fixture
def fake_cpu(harness, monkeypatch, clock):
    """What the system says of seconds of CPU, of all and of our own, in the order of the questions."""
    answers: list[tuple[float, float]] = []
    monkeypatch.setattr(harness, "_seconds_of_cpu", lambda: answers.pop(0))
    monkeypatch.setattr(harness.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(harness.os, "getloadavg", lambda: (1.26, 9.0, 9.0))
    return answers


def test_conditions_say_what_was_asked_where_and_when(harness, fake_cpu, clock, monkeypatch):
    monkeypatch.setattr(harness, "commit", lambda: "abc1234")
    fake_cpu += [(100.0, 10.0), (160.0, 30.0)]
    given = arguments(harness, "--out", "x.json", "--quick")
    given.rows, given.child, given.threads = ["a:1"], None, 7
    run = harness.Harness(given, "numpy", "no-such-package", weights="random")
    clock.seconds += 50
    found = run.conditions()
    assert found.pop("instructions", "") is not None  # where torch has been imported
    assert found == {
        "repeats": 3, "quick": True, "rows": ["a:1"], "threads": 7, "weights": "random",
        "cpu": harness.processor(), "cores": len(harness.os.sched_getaffinity(0)),
        "versions": {
            "python": harness.platform.python_version(),
            "numpy": sys.modules["numpy"].__version__,
            "no-such-package": None,
        },
        "commit": "abc1234", "date": datetime.date.today().isoformat(),
        "seconds": 50, "load_before": 1.3,
        "others_percent": 40.0,  # 60 s less our 20 s, of 50 s on two cores
    }  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "percent"),
    [
        ((100.0, 10.0), (105.0, 10.0), 50.0),  # a child that has not ended is no part of our own yet
        ((100.0, 10.0), (105.0, 15.5), 0.0),  # clocks that disagree by a tick
        ((0.0, 10.0), (0.0, 15.0), None),  # a system that does not tell
    ],
)
def test_how_busy_others_were(harness, fake_cpu, clock, before, after, percent):
    fake_cpu += [before, after]
    run = harness.Harness(arguments(harness))
    clock.seconds += 5
    assert run.conditions()["others_percent"] == percent


def test_a_child_counts_as_our_own_when_it_has_ended(harness):
    code = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    before = harness._seconds_of_cpu()[1]
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    assert harness._seconds_of_cpu()[1] - before < 0.4
    child.communicate(b"\n")
    assert harness._seconds_of_cpu()[1] - before >= 0.4


def test_versions_are_found_under_any_spelling_of_a_name(harness):
    assert harness.versions("NumPy") == {"NumPy": sys.modules["numpy"].__version__}


def test_threads_are_torchs_own_where_there_is_no_option(harness, monkeypatch):
    torch = pytest.importorskip("torch")
    assert harness.Harness(arguments(harness)).conditions()["threads"] == torch.get_num_threads()
    monkeypatch.delitem(sys.modules, "torch")
    assert "threads" not in harness.Harness(arguments(harness)).conditions()


def test_a_commit_says_whether_program_files_differ_from_it(harness, tmp_path):
    def git(*words):
        who = ("-c", "user.name=x", "-c", "user.email=x@y")
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    assert harness.commit(tmp_path) is None
    git("init", "--quiet")
    assert harness.commit(tmp_path) is None  # nothing is committed
    for name in ("deep/x.py", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1\n")
    git("add", ".")
    git("commit", "--quiet", "-m", "x")
    head = git("rev-parse", "--short", "HEAD")
    assert harness.commit(tmp_path) == head
    (tmp_path / "notes.md").write_text("2\n")
    assert harness.commit(tmp_path) == head
    (tmp_path / "deep" / "x.py").write_text("2\n")
    assert harness.commit(tmp_path) == f"{head}+"
    git("add", ".")
    assert harness.commit(tmp_path) == f"{head}+"


def test_memory_is_read_as_linux_keeps_it(harness):
    if not harness.Path("/proc/self/clear_refs").exists():
        pytest.skip("reads memory as Linux keeps it")
    held = bytearray(b"1") * 100_000_000
    assert harness.status_bytes("VmRSS") >= len(held)
    del held
    assert harness.status_bytes("VmHWM") - harness.status_bytes("VmRSS") >= 80_000_000
    harness.reset_peak()
    assert harness.status_bytes("VmHWM") - harness.status_bytes("VmRSS") < 20_000_000


# --- options and files


def test_figures_of_a_quick_run_stay_out_of_results(harness, tmp_path, monkeypatch):
    there = BENCHMARKS / "results" / "x.json"
    monkeypatch.chdir(BENCHMARKS)
    for out in (there, "results/x.json"):
        with pytest.raises(SystemExit, match=r"x\.json: figures of --quick mean nothing"):
            harness.Harness(arguments(harness, "--quick", "--out", out))
    harness.Harness(arguments(harness, "--out", there))
    harness.Harness(arguments(harness, "--quick", "--out", tmp_path / "x.json"))
    harness.Harness(arguments(harness, "--quick"))
    assert not there.exists()


def test_options_show_the_question_and_the_turns(harness):
    parser = harness.options("What does it cost?\n\n    as it stands\n", repeats=4)
    assert "What does it cost?\n\n    as it stands\n" in parser.format_help()
    found = parser.parse_args([])
    assert (found.repeats, found.quick, found.out) == (4, False, None)
    assert vars(harness.options("Which?").parse_args([])) == {"out": None}


def test_figures_are_written_as_often_as_wanted_and_the_last_line_is_json(harness, tmp_path, capsys):
    out = tmp_path / "deep" / "x.json"
    run = harness.Harness(arguments(harness, "--out", out))
    run.write({"a": 1})
    assert json.loads(out.read_text())["a"] == 1
    run.end({"a": 1, "b": [2]}, {"ratio": 1.5})
    found = json.loads(out.read_text())
    assert list(found) == ["conditions", "a", "b"]
    assert found["conditions"]["repeats"] == 3
    assert capsys.readouterr().out == '{"ratio": 1.5}\n'
    harness.Harness(arguments(harness)).end({}, {})
    assert capsys.readouterr().out == "{}\n"


def test_a_process_of_its_own_answers_in_its_last_line(harness, tmp_path, monkeypatch):
    program = tmp_path / "x.py"
    program.write_text(
        "import json, os, sys\nprint('a table')\nprint(json.dumps([sys.argv[1:], os.environ['X']]))"
    )
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("X", "before")
    assert harness.own_process("--size", 3) == [["--size", "3"], "before"]
    assert harness.own_process(X="2") == [[], "2"]
    program.write_text("raise SystemExit('no memory')")
    with pytest.raises(subprocess.CalledProcessError):
        harness.own_process()


# --- every benchmark


def faults_of(source: str) -> list[str]:
    """In which ways a program is not one of the harness."""
    tree = ast.parse(source)
    doc = ast.get_docstring(tree) or ""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {name_of(call) for call in calls}
    shows = any(
        name_of(call) == "options" and call.args and ast.unparse(call.args[0]) == "__doc__" for call in calls
    )
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    rules = {
        "its docstring does not begin with a question": re.match(r"[A-Z](?:[^.?]|\.\d)*\?(?:\s|$)", doc),
        "--help does not show its docstring": shows,
        "no Harness": "Harness" in called,
        "its last line is not the harness's": "end" in called,
        "a parser of its own": "ArgumentParser" not in called,
        "reads the load": "getloadavg" not in called,
        "conditions of its own": "conditions" not in words | functions,
        "memory of its own": not {"VmRSS:", "VmHWM:", "/proc/self/status", "/proc/self/clear_refs"} & words,
    }
    return [fault for fault, holds in rules.items() if not holds]


def name_of(call: ast.Call) -> str:
    """Of what is called, without the module or object that it belongs to."""
    return ast.unparse(call.func).rpartition(".")[2]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_benchmark_is_run_by_the_harness(program):
    assert faults_of((BENCHMARKS / f"{program}.py").read_text()) == []


def test_programs_that_are_not_on_the_harness_are_seen():
    good = '"""How fast, at 2.5 GHz?"""\nrun = Harness(options(__doc__).parse_args())\nrun.end({}, {})\n'
    assert faults_of(good) == []
    in_full = good.replace("Harness(", "harness.Harness(").replace("options(", "harness.options(")
    assert faults_of(in_full) == []
    assert faults_of("") == [
        "its docstring does not begin with a question",
        "--help does not show its docstring",
        "no Harness",
        "its last line is not the harness's",
    ]
    for more, fault in {
        "os.getloadavg()": "reads the load",
        "argparse.ArgumentParser()": "a parser of its own",
        "json.dumps({'conditions': {}})": "conditions of its own",
        "def conditions(): pass": "conditions of its own",
        "Path('/proc/self/status').read_text()": "memory of its own",
    }.items():
        assert faults_of(good + more) == [fault]
    assert faults_of(good.replace("How fast,", "It runs. How fast")) == [
        "its docstring does not begin with a question"
    ]
    assert faults_of(good.replace("__doc__", "")) == ["--help does not show its docstring"]


def test_every_result_has_the_conditions_of_the_harness():
    older = []
    for path in sorted((BENCHMARKS / "results").glob("*.json")):
        found = json.loads(path.read_bytes())["conditions"]
        assert not found.get("quick"), path
        if {"commit", "date", "load_before", "others_percent", "cpu", "cores"} - found.keys():
            older.append(path.name)
    assert older == list(OLDER)


@pytest.mark.parametrize(
    "words",
    [
        "step.py --quick",
        "sweeps.py --quick --threads 1",
        "extraction.py --quick --encoder timm:test_vit --repeats 1",
    ],
)
def test_a_quick_run_ends_with_json_and_writes_what_it_found(words, tmp_path):
    """Others have tests of their own."""
    program, *options = words.split()
    out = tmp_path / "figures.json"
    command = [sys.executable, BENCHMARKS / program, *options, "--out", out]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1])
    found = json.loads(out.read_text())
    assert found["conditions"]["quick"] is True
    spreads = list(times_in(found))
    assert spreads
    for one in spreads:
        assert 0 < one["fastest"] <= one["milliseconds"] <= one["slowest"]
        assert one["repeats"] == found["conditions"]["repeats"] == 1


def times_in(found):
    for key, value in found.items():
        if key == "times":
            yield from value.values()
        elif isinstance(value, dict):
            yield from times_in(value)
