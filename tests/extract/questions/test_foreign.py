"""Foreign question files: every shape that is read, every fault named, and a hostile pickle that does not
run.
"""

import csv
import json
import os
import pickle
import struct

import pytest

from helpers.cli import call
from helpers.dataset import make_dataset
from helpers.toyclasses import annotations, segment
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.annotations import read_annotations
from mambavl.extract.questions import read_questions
from mambavl.extract.questions.foreign import import_questions

DATA = annotations(
    segments=tuple(segment("take plate", "take", "plate", name=f"P01_01_{n}") for n in range(5))
)
ROWS = [
    {
        "uid": f"P01_01_{n}",
        "Verb Question": f"Who <MASK> it {n}?",
        "noun_q": f'What is [mask], "é", \n{{{{ masked }}}} or <mask>? {n}',
    }
    for n in (2, 0, 1)
]
VERB, NOUN = "Who <mask> it {}?", 'What is <mask>, "é", \n<mask> or <mask>? {}'


def write_csv(path, delimiter=","):
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
        table.writeheader()
        table.writerows(ROWS)


def write_pickle(path, data):
    path.write_bytes(pickle.dumps(data))


BY_NAME = {row["uid"]: {k: v for k, v in row.items() if k != "uid"} for row in ROWS}
IN_COLUMNS = {key: [row[key] for row in ROWS] for key in ROWS[0]}
PAIRS = {row["uid"]: (row["Verb Question"], row["noun_q"]) for row in [*ROWS, {**ROWS[0], "uid": "P01_01_4"}]}
WRITERS = {
    "q.csv": write_csv,
    "q.tsv": lambda path: write_csv(path, "\t"),
    "q.jsonl": lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in ROWS)),
    "rows.json": lambda path: path.write_text(json.dumps(ROWS)),
    "rows.pkl": lambda path: write_pickle(path, ROWS),
    "by_name.pkl": lambda path: write_pickle(path, BY_NAME),
    "columns.pickle": lambda path: write_pickle(path, IN_COLUMNS),
    "pairs.pkl": lambda path: write_pickle(path, PAIRS),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_shape_gives_the_same_questions(tmp_path, name):
    WRITERS[name](tmp_path / name)
    found = import_questions(tmp_path / name, DATA, "oracle")
    questions = [q for q in found.questions if q.narration_id != "P01_01_4"]
    assert [q.narration_id for q in questions] == ["P01_01_0", "P01_01_1", "P01_01_2"]
    for number, question in enumerate(questions):
        assert (question.verb_question, question.noun_question) == (VERB.format(number), NOUN.format(number))
        assert (question.protocol, question.backend, question.prompt_version) == (
            "oracle",
            "import",
            "unknown",
        )
    assert found.placeholders == 3 * len(found.questions)
    assert found.without_question == 5 - len(found.questions)


def test_columns_are_guessed_or_told(tmp_path):
    write_csv(tmp_path / "q.csv")
    assert import_questions(tmp_path / "q.csv", DATA, "oracle").columns == {
        "narration_id": "uid", "verb_question": "Verb Question", "noun_question": "noun_q",
    }  # fmt: skip
    swapped = import_questions(
        tmp_path / "q.csv",
        DATA,
        "oracle",
        columns={"verb_question": "noun_q", "noun_question": "Verb Question"},
    )
    assert swapped.questions[0].noun_question == VERB.format(0)
    for columns, message in (
        ({"verb_qestion": "uid"}, r"no column verb_qestion; did you mean `verb_question`"),
        ({"verb_question": "noun_p"}, r"q\.csv has no noun_p; did you mean `noun_q`"),
        ({"verb_question": "noun_q"}, r"one column cannot serve twice"),
    ):
        with pytest.raises(UsageError, match=message):
            import_questions(tmp_path / "q.csv", DATA, "oracle", columns=columns)
    (tmp_path / "odd.csv").write_text("narration_id,text\nP01_01_0,x\n")
    with pytest.raises(
        UsageError,
        match=r"which column is verb_question\? Add --column verb_question=NAME; there are narration_id, "
        "text",
    ):
        import_questions(tmp_path / "odd.csv", DATA, "oracle")


HEAD = "narration_id,verb_question,noun_question\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.csv", HEAD, "holds no row"),
        ("q.csv", HEAD + "P01_01_0,a\n", r"q\.csv:2: has fewer fields"),
        ("q.csv", HEAD + "P01_01_0,a,b,c\n", r"q\.csv:2: has more fields"),
        (
            "q.csv",
            HEAD + "P01_01_0,a,b\nP01_01_0,c,d\n",
            r"q\.csv:3: narration_id P01_01_0 is already at .*q\.csv:2",
        ),
        ("q.csv", HEAD + "P99_01_0,a,b\n", r"q\.csv:2: narration_id 'P99_01_0' is not in toy"),
        ("q.csv", "a,a\n1,2\n", "names a column twice"),
        ("q.csv", HEAD + 'P01_01_0,"a,b\n' + "P01_01_1,a,b\n" * 9, r"q\.csv:2: the row .* is not valid CSV"),
        ("q.csv", HEAD + "P01_01_0,a,nan\n", r"q\.csv:2: noun_question 'nan' says nothing"),
        ("q.csv", b"\xff\xfe", "byte 0 is not UTF-8"),
        ("q.jsonl", "{\n", r"q\.jsonl:1: is not valid JSON"),
        ("q.jsonl", '{"id": 1, "id": 2}', "a key occurs twice"),
        ("q.jsonl", "[]\n", r"q\.jsonl:1: is not a JSON object"),
        ("q.jsonl", "[" * 100_000, "is not valid JSON"),
        (
            "q.jsonl",
            '{"id": "P01_01_0", "verb_question": null, "noun_question": "a"}',
            "verb_question is 'None', not a text",
        ),
        ("q.json", '["a"]', "holds a list, expected a list of rows"),
        (
            "q.json",
            '{"id": ["P01_01_0"], "verb": [], "noun": ["a"]}',
            "columns differ in length: id 1, verb 0, noun 1",
        ),
        ("q.pkl", b"not a pickle", "cannot be read"),
        ("q.pkl", pickle.dumps(ROWS)[:-20], "cannot be read"),
        ("q.pkl", b"", "cannot be read"),
        ("q.pkl", pickle.dumps({1, 2}), "set is not JSON serializable"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_place(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        import_questions(path, DATA, "oracle")


def test_wrong_calls(tmp_path):
    with pytest.raises(UsageError, match="protocol 'magic' is none of oracle"):
        import_questions(tmp_path / "q.csv", DATA, "magic")
    with pytest.raises(UsageError, match=r"ends in \.xlsx"):
        import_questions(tmp_path / "q.xlsx", DATA, "oracle")
    for name in ("gone.csv", "gone.pkl"):
        with pytest.raises(DataError, match=r"gone\.(csv|pkl): (cannot be read|no such file)"):
            import_questions(tmp_path / name, DATA, "oracle")


class Evil:
    """Would make a file if anything ran."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(mark) -> dict[str, bytes]:
    command = f"touch {mark}"
    return {
        "system": pickle.dumps([Evil(os.system, command)]),
        "eval": pickle.dumps({"P01_01_0": Evil(eval, f"open({str(mark)!r}, 'w')")}),
        "open": pickle.dumps([*ROWS, Evil(open, str(mark), "w")]),
        "protocol 0": pickle.dumps(Evil(os.system, command), protocol=0),
        "inst": b"(S'" + command.encode() + b"'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nS'" + command.encode() + b"'\no.",
        "stack_global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c"
        + bytes([len(command)])
        + command.encode()
        + b"\x85R.",
        "builtins by getattr": b"c__builtin__\ngetattr\n(c__builtin__\n__import__\nS'os'\ntR.",
        "persistent": b"Pwhatever\n.",
        "extension": b"\x82\x01.",
        "length of a terabyte": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
        "memo of a terabyte": b"\x80\x04]r\xff\xff\xff\xff.",
        "deep": b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b".",
    }


@pytest.mark.parametrize("name", hostile("x"))
def test_a_hostile_pickle_does_not_run_and_ends_in_one_line(tmp_path, name):
    mark = tmp_path / "ran"
    path = tmp_path / "evil.pkl"
    path.write_bytes(hostile(mark)[name])
    with pytest.raises(DataError, match=r"evil\.pkl: ") as error:
        import_questions(path, DATA, "oracle")
    assert not mark.exists()
    assert "\n" not in str(error.value)


def test_the_marks_of_the_hostile_files_would_have_appeared(tmp_path):
    """The same bytes do run where nothing stands in their way: the test above can fail."""
    for name in ("system", "protocol 0", "inst", "obj", "stack_global"):
        mark = tmp_path / name.replace(" ", "_")
        pickle.loads(hostile(mark)[name])
        assert mark.exists(), name


def test_what_a_pickle_of_another_kind_needs_is_said(tmp_path):
    import numpy as np

    write_pickle(tmp_path / "q.pkl", {"uid": np.array(["a"])})
    with pytest.raises(DataError, match=r"asks for numpy.*; of a pickle only lists.*save it as CSV"):
        import_questions(tmp_path / "q.pkl", DATA, "oracle")


def test_the_command_refuses_a_leak_and_loses_nothing_when_it_is_allowed(tmp_path, capsys):
    data = make_dataset(tmp_path)
    read = read_annotations(data / "annotations")
    ids = [s.narration_id for s in read.segments]
    texts = {
        s.narration_id: (f"What about the [MASK] {n}?", "Which one?") for n, s in enumerate(read.segments)
    }
    texts[ids[3]] = (
        (f"Is somebody {read.segments[3].verb}ting?", "Which one?")
        if read.segments[3].verb == "cut"
        else ("washes?", "x")
    )
    with open(tmp_path / "q.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [("id", "verb_q", "noun_q"), *((name, *pair) for name, pair in texts.items())]
        )
    words = (
        "questions",
        "import",
        tmp_path / "q.csv",
        "--annotations",
        data / "annotations",
        "--protocol",
        "oracle",
    )
    out = tmp_path / "q.jsonl"
    out.write_text("mine")
    assert call(*words, "--out", out) == 1
    said = capsys.readouterr()
    assert f"{ids[3]}: verb_question says its verb" in said.out
    assert "1 rows leak; nothing was written" in said.err
    assert out.read_text() == "mine"
    assert call(*words, "--out", out, "--allow-leaks", "--prompt-version", "gpt-1") == 0
    questions = read_questions(out)
    assert {name: (q.verb_question, q.noun_question) for name, q in questions.items()} == {
        name: (verb.replace("[MASK]", "<mask>"), noun) for name, (verb, noun) in texts.items()
    }
    assert {q.prompt_version for q in questions.values()} == {"gpt-1"}
    assert call(*words, "--out", out, "--column", "verb_question") == 2
