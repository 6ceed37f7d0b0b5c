"""The list of faults that tests must notice is one that can be planted; planting one says what came of it."""

from dataclasses import replace

import pytest
from mutations import (
    Ended,
    Fault,
    Outcome,
    check,
    first_failed,
    main,
    outcome_of,
    read_faults,
    without_a_fault,
    without_those_that_fail_anyway,
)

FAULT = Fault("fuse/a.py", "a sign is turned", "help is said to harm", "x - y", "y - x", "fuse/test_a.py")


@pytest.fixture
def tree(tmp_path):
    for folder in ("fuse", "tests/fuse"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "fuse" / "a.py").write_text("z = x - y\n")
    (tmp_path / "tests" / "fuse" / "test_a.py").touch()
    return tmp_path


def test_every_fault_can_be_planted(capsys):
    """Where this fails, code has changed in which a fault is planted: write the fault's text again, as the
    code has it now; a fault that can no longer happen is left out.
    """
    assert check(read_faults()) == []
    assert main(["--check"]) == 0
    assert "stands once" in capsys.readouterr().out


def test_modules_in_which_no_fault_is_planted_are_named(tree):
    (tree / "fuse" / "b.py").touch()
    (tree / "fuse" / "__init__.py").write_text('"""What is in here."""\n')
    assert without_a_fault([FAULT], tree) == ["fuse/b.py"]


def test_a_text_that_is_not_there_once_is_named(tree):
    assert check([FAULT], tree) == []
    (tree / "fuse" / "a.py").write_text("z = x - y\nv = x - y\n")
    [said] = check([FAULT], tree)
    assert said == "fuse/a.py: a sign is turned: the file holds its text 2 times: 'x - y'"
    (tree / "fuse" / "a.py").write_text("z = x-y\n")
    assert "holds its text 0 times" in check([FAULT], tree)[0]
    (tree / "fuse" / "a.py").unlink()
    assert "holds its text 0 times" in check([FAULT], tree)[0]


def test_a_fault_that_changes_nothing_has_no_tests_or_two_of_one_name_is_none(tree):
    assert "it changes nothing" in check([replace(FAULT, instead="x - y")], tree)[0]
    elsewhere = replace(FAULT, tests="fuse/test_b.py -k x")
    assert "tests/fuse/test_b.py is not there" in check([elsewhere], tree)[0]
    assert "there are 2 faults of this name" in check([FAULT, replace(FAULT, instead="x + y")], tree)[0]


def test_an_entry_that_is_not_whole_is_refused(tmp_path):
    path = tmp_path / "faults.toml"
    path.write_text('[["fuse/a.py"]]\nfault = "f"\nwhy = "w"\ntext = "x"\nsilnet = "never"\n')
    with pytest.raises(ValueError, match=r"fuse/a\.py: f: keys \['instead', 'silnet'\]"):
        read_faults(path)
    path.write_text('[["fuse/scan/__init__.py"]]\nfault = "f"\nwhy = "w"\ntext = "x"\ninstead = "y"\n')
    [fault] = read_faults(path)
    assert (fault.name, fault.tests) == ("fuse/scan/__init__.py: f", "fuse/scan/test_scan.py")


SUMMARY = """F
=========================== short test summary info ============================
FAILED fuse/test_a.py::test_x[a - b] - AssertionError: 1 - 2
1 failed in 0.01s
"""


@pytest.mark.parametrize(
    ("code", "silent", "state"),
    [
        (1, "", "noticed"),
        (1, "only a GPU tells", "noticed"),
        (0, "", "missed"),
        (0, "only a GPU tells", "silent"),
        (None, "", "too slow"),
        (2, "", "in vain"),  # the tests could not be collected
        (5, "", "in vain"),  # there are none
        (99, "", "in vain"),
    ],
)
def test_only_a_failed_test_has_noticed_a_fault(code, silent, state):
    fault = replace(FAULT, silent=silent)
    assert outcome_of(fault, Ended(fault, code, SUMMARY, 1.0)).state == state


def test_the_test_that_failed_is_named():
    assert first_failed(SUMMARY.replace("[a - b]", "[1]")) == "fuse/test_a.py::test_x[1]"
    assert first_failed("no tests ran in 0.01s\n") == "no tests ran in 0.01s"
    assert first_failed("") == ""


def test_a_test_that_fails_anyway_has_noticed_nothing():
    noticed = Outcome(FAULT.name, "noticed", "fuse/test_a.py::test_x[1]", 1.0)
    missed = replace(noticed, state="missed", said="")

    def after(outcome, code, said=""):
        return without_those_that_fail_anyway(outcome, Ended("fuse/test_a.py", code, said, 1.0))

    failed = SUMMARY.replace("[a - b]", "[1]")
    assert after(noticed, 0) == noticed
    assert after(noticed, 1, failed.replace("test_x", "test_y")) == noticed
    assert (
        after(noticed, 1, failed).state == after(noticed, None).state == after(noticed, 4).state == "in vain"
    )
    assert after(missed, 1, failed) == missed
