"""The audit: every planted form is found, a clean file stays clean, a probe finds a planted leak and nothing
where nothing is.
"""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.cli import call
from helpers.dataset import make_dataset
from helpers.toyclasses import NOUNS, VERBS, annotations, segment
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.questions import generate, write_questions
from mambavl.extract.questions.audit import audit, guessers
from mambavl.extract.questions.audit_page import write_page
from mambavl.extract.questions.audit_rows import interval
from mambavl.extract.questions.forms import KINDS, forms, inflections, numbers
from mambavl.extract.questions.leaks import Checker, Names, words
from mambavl.extract.questions.masking import mask
from mambavl.extract.questions.template import GENERIC

VERBS = VERBS | {  # a hint needs three classes to choose among
    "fetch": (("fetch",), "retrieve"), "gather": (("gather",), "retrieve"), "grate": (("grate",), "split"),
    "open": (("open",), "access"), "unlock": (("unlock",), "access"),
}  # fmt: skip
TABLES = {"verb": VERBS, "noun": NOUNS}


def toy_rows(count: int):
    """Rows of four verbs and six nouns, dealt so that neither tells of the other; every fifth video is for
    validation.
    """
    verbs, nouns = ("take", "peel", "turn-on", "cut"), ("tap", "plate", "knife", "leaf", "table", "potato")
    rows = []
    for number in range(count):
        verb, noun = verbs[number % 4 if number % 3 else 0], nouns[number // 4 % 6]
        row = segment(f"{verb} the {noun}", verb, noun, name=f"P01_{number // 8}_{number}")
        rows.append(
            replace(
                row, video_id=f"P01_{number // 8}", split="validation" if number // 8 % 5 == 4 else "train"
            )
        )
    return tuple(rows)


DATA = annotations(VERBS, segments=toy_rows(480))
CLEAN = list(generate(DATA, "oracle"))


def write(path, questions=CLEAN):
    write_questions(path, questions)
    return path


@st.composite
def plants(draw):
    row, question = draw(st.sampled_from([*zip(DATA.segments, CLEAN, strict=True)]))
    kind, key = draw(st.sampled_from(KINDS)), draw(st.sampled_from(["verb_question", "noun_question"]))
    form = draw(st.sampled_from(sorted(forms(TABLES[kind][getattr(row, kind)][0], kind))))
    text = getattr(question, key).split(" ")
    place = draw(st.integers(0, len(text)))
    said = draw(st.sampled_from([str.lower, str.upper, str.title]))(
        draw(st.sampled_from([" ", "-"])).join(form)
    )
    return (
        row,
        kind,
        replace(
            question,
            **{key: " ".join([*text[:place], said + draw(st.sampled_from(["", ",", "'s"])), *text[place:]])},
        ),
    )


@settings(max_examples=500, deadline=None)
@given(plants())
def test_any_form_planted_anywhere_in_a_clean_question_is_found(plant):
    row, kind, question = plant
    assert kind in {leak.kind for leak in Checker(DATA).leaks(row, question)}, question


def test_a_clean_file_is_clean_and_the_placeholder_is_no_word():
    checker = Checker(DATA)
    assert not [leak for row, q in zip(DATA.segments, CLEAN, strict=True) for leak in checker.leaks(row, q)]
    assert words("A <mask> Knife's\u2019 stir-fry_2") == ["a", "\0", "knife", "s", "stir", "fry", "2"]
    names = Names("noun", {0: ("board:chopping",)})
    assert names.find("two chopping-boards") == {0: "chopping boards"}
    assert names.find("the board chopping") == {0: "board chopping"}
    assert not names.find("chopping <mask> board")
    assert not Names("noun", {0: ("clothes",), 1: ("plate",)}).find("a cloth on the plateau")


@pytest.mark.parametrize(
    ("text", "kind", "found"),
    [
        ("picking the plate up", "verb", "picking"),
        ("what was turned on with it", "verb", "turned"),
        ("the peelings in the bin", "verb", "peelings"),
        ("they took it", "verb", "took"),
        ("it hung there", "verb", "hung"),
        ("bay leaves", "noun", "leaves"),
        ("a water-tap", "noun", "water tap"),
    ],
)
def test_what_the_reader_sees_in_a_text(text, kind, found):
    names = Names(
        kind, {i: (key, *instances) for i, (key, (instances, _)) in enumerate(TABLES[kind].items())}
    )
    assert found in names.find(text).values()


def test_every_form_of_every_ek100_class_is_found_and_no_masked_question_raises_an_alarm(
    ek100_validation, count
):
    """The two readers work in opposite directions and share no table; they agree on 58,000 forms and 9,668
    rows.
    """
    data = ek100_validation
    checker = Checker(data)
    planted, missed = 0, []
    for kind, classes, names in (("verb", data.verbs, checker.verbs), ("noun", data.nouns, checker.nouns)):
        for class_id, key in classes.keys.items():
            # all 582,663 were tried once: none is missed
            own = sorted(forms((key, *classes.instances[class_id]), kind))[::10]
            planted += len(own)
            missed += [
                form
                for form in own
                if class_id not in names.find(f"What is the {' '.join(form)} here, <mask>?")
            ]
    assert not missed, (len(missed), missed[:5])
    assert planted > 40_000
    count("planted forms of EK100 classes", planted)
    questions = list(generate(data, "oracle"))
    alarms = [leak for row, q in zip(data.segments, questions, strict=True) for leak in checker.leaks(row, q)]
    assert not alarms, (len(alarms), alarms[:5])


DERIVED = ("", "s", "ing", "ed", "er", "ers", "able", "age", "al", "ation", "ations", "ion", "ions", "ment",
           "ments", "ture", "tures", "ure", "ures")  # fmt: skip


def test_what_the_checker_would_find_is_masked_in_any_text(ek100_validation):
    """Deeds as things, which a language model may write: movement, replacements, closure."""
    data = ek100_validation
    checker, noun_class = Checker(data), next(iter(data.nouns.keys))
    tried, left = 0, []
    for class_id, key in data.verbs.keys.items():
        for name in {words(name)[0] for name in (key, *data.verbs.instances[class_id])}:
            for stem, ending in [
                (stem, ending) for stem in {name, name.removesuffix("e")} for ending in DERIVED
            ]:
                text = f"Which {stem}{ending} of it is seen?"
                if class_id in checker.verbs.find(text):
                    tried += 1
                    if class_id in checker.verbs.find(mask(text, data, class_id, noun_class).text):
                        left.append(stem + ending)
    assert tried > 3_000
    assert not left, (len(left), left[:20])


def test_accents_and_invisible_characters_hide_nothing():
    checker = Checker(DATA)
    for text in ("t\u200bake it", "Ta\u0301ke it", "t\u00adake it"):
        assert checker.verbs.find(text), text


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Clean, leaking and generic questions of the same rows, side by side."""
    folder = tmp_path_factory.mktemp("audit")
    leaking = []
    for row, question in zip(DATA.segments, CLEAN, strict=True):
        form = next(iter(inflections(row.verb.split("-")[0]) - {row.verb}))
        leaking.append(replace(question, verb_question=f"{question.verb_question} Perhaps {form}?"))
    files = [write(folder / "clean.jsonl"), write(folder / "leaking.jsonl", leaking)]
    files.append(write(folder / "generic.jsonl", generate(DATA, "generic")))
    files.append(write(folder / "none.jsonl", generate(DATA, "none")))
    result = audit(files, DATA)
    write_page(result, folder / "audit.html")
    return result, (folder / "audit.html").read_text(encoding="utf-8")


def test_a_planted_leak_is_counted_per_class_and_found_by_the_probe(found):
    clean, leaking, _, _ = found[0]["files"]
    rows = len(DATA.segments)
    assert clean["survivors"]["rows"] == 0
    assert (
        leaking["survivors"]["rows"],
        leaking["survivors"]["verb_rows"],
        leaking["survivors"]["noun_rows"],
    ) == (rows, rows, 0)
    assert all(c["leaking"] == c["rows"] for c in leaking["survivors"]["by_class"]["verb"].values())
    assert leaking["survivors"]["by_question"]["verb_question says the verb"] == rows
    probe = leaking["probes"]["tf-idf"]
    assert probe["top1"]["verb"]["percent"] == 100
    assert leaking["prior"]["verb"]["percent"] < 60
    assert all(fit["converged"] for fit in probe["fits"].values())


def test_where_nothing_is_said_nothing_is_found(found):
    for file in found[0]["files"][2:]:
        for guess in (file["probes"]["tf-idf"]["top1"], file["reader"]["top1"]):
            for target in ("verb", "noun"):
                assert guess[target] == file["prior"][target], (file["protocol"], target)
        assert file["hints"]["verb_question"] == {"rows_with_hint": 0, "distinct": 0, "entropy_bits": 0.0}
        assert file["masks"]["noun_question"]["0"] == 100


def test_the_reader_guesses_what_its_rule_says(found):
    """Of the rows take is `retrieve`, peel and cut are `split`, turn-on is `access`; their nouns tell nothing
    of them.
    """
    clean = found[0]["files"][0]
    test = [s for s in DATA.segments if s.split == "validation"]
    train = [s for s in DATA.segments if s.split == "train"]
    best_split = max(("cut", "peel"), key=lambda verb: sum(s.verb == verb for s in train))
    by_hand = np.mean([s.verb in ("take", "turn-on", best_split) for s in test])
    assert clean["reader"]["top1"]["verb"]["percent"] == pytest.approx(100 * by_hand)
    assert clean["reader"]["mean_compatible"]["verb"] <= 3
    assert clean["hints"]["verb_question"]["distinct"] == 3
    leaking = found[0]["files"][1]
    assert leaking["reader"]["own_class_is_named"]["verb"] == 1  # so the named class is the guess
    assert leaking["reader"]["top1"]["verb"]["percent"] == 100


def test_entropy_and_mask_counts_by_hand(tmp_path):
    rows = toy_rows(4)
    one, two = {"verb_question": "a", "noun_question": None}, {"verb_question": "b", "noun_question": None}
    questions = [
        replace(q, hint=hint, verb_question="<mask> " * n)
        for q, hint, n in zip(CLEAN, (one, two, one, two), (0, 1, 2, 7), strict=False)
    ]
    result = audit([write(tmp_path / "q.jsonl", questions)], annotations(segments=rows), forms_only=True)[
        "files"
    ][0]
    assert result["hints"]["verb_question"] == {"rows_with_hint": 4, "distinct": 2, "entropy_bits": 1.0}
    assert result["hints"]["noun_question"]["rows_with_hint"] == 0
    assert result["masks"]["verb_question"] == {"0": 25, "1": 25, "2": 25, "3": 0, "4+": 25}
    assert "prior" not in result


def test_an_interval_draws_whole_videos():
    hits = np.array([1, 1, 0, 0] * 25)
    assert interval(hits, ["a"] * 100) == (50, 50)  # one video: nothing to draw
    low, high = interval(hits, [str(i) for i in range(100)])
    assert 38 < low < 44
    assert 56 < high < 62
    wide = interval(hits, [str(i % 4) for i in range(100)])  # four videos, each all right or all wrong
    assert wide[0] < low
    assert high < wide[1]
    assert interval(hits, [str(i) for i in range(100)]) == (low, high)


def test_the_page_shows_every_file_needs_nothing_from_outside_and_escapes(found, tmp_path):
    result, page = found
    assert page.count("<svg") == 3
    assert not re.search(r'(src|href)="https?://|<script', page)
    for row in guessers(result):
        assert row["path"] in page
        assert f"{row['top1']['verb']['percent']:.1f}" in page
    path = write(
        tmp_path / "<b>&.jsonl", [replace(CLEAN[0], verb_question="take it", prompt_version="<script>")]
    )
    write_page(audit([path], DATA, forms_only=True), tmp_path / "a.html")
    assert "&lt;b&gt;&amp;.jsonl" in (tmp_path / "a.html").read_text()
    assert "<b>&.jsonl" not in (tmp_path / "a.html").read_text()


def test_files_that_cannot_be_audited_say_why(tmp_path):
    path = write(
        tmp_path / "q.jsonl", [q for q, s in zip(CLEAN, DATA.segments, strict=True) if s.split == "train"]
    )
    with pytest.raises(DataError, match=r"covers 384 train and 0 other rows.*--forms-only"):
        audit([path], DATA)
    assert audit([path], DATA, forms_only=True)["files"][0]["rows_without_question"] == 96
    with pytest.raises(DataError, match=r"1 rows are not in toy \(P09_1_1\)"):
        audit([write(tmp_path / "r.jsonl", [*CLEAN, replace(CLEAN[0], narration_id="P09_1_1")])], DATA)
    with pytest.raises(UsageError, match="named twice"):
        audit([path, path], DATA)


def test_the_probes_need_scikit_learn_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(UsageError, match=r"mambavl\[audit\]"):
        audit([write(tmp_path / "q.jsonl")], DATA)
    audit([tmp_path / "q.jsonl"], DATA, forms_only=True)


def test_the_command_writes_page_and_numbers_and_fails_on_a_leak(tmp_path, capsys):
    data = make_dataset(tmp_path)
    where = ("--annotations", data / "annotations")
    for protocol in ("oracle", "generic"):
        assert (
            call(
                "questions",
                "generate",
                *where,
                "--protocol",
                protocol,
                "--out",
                tmp_path / f"{protocol}.jsonl",
            )
            == 0
        )
    both = (
        tmp_path / "oracle.jsonl",
        "--against",
        tmp_path / "generic.jsonl",
        "--out",
        tmp_path / "a.html",
        "--json",
        tmp_path / "a.json",
    )
    assert call("questions", "audit", *both, *where) == 0
    numbers_found = json.loads((tmp_path / "a.json").read_text())
    assert [file["protocol"] for file in numbers_found["files"]] == ["oracle", "generic"]
    said = capsys.readouterr().out
    assert "0 of 20 rows say their own verb or noun" in said
    assert "a.html" in said
    text = (tmp_path / "oracle.jsonl").read_text().replace("<mask>", "cutting", 1)
    (tmp_path / "oracle.jsonl").write_text(text)
    assert call("questions", "audit", *both, *where, "--forms-only") == 1
    assert call("questions", "audit", *both, *where, "--weights", "x") == 2


def test_numbers_and_generic_words_say_no_class():
    """The fixed pair is read by the same checker: it must name no class of the table."""
    checker = Checker(DATA)
    assert not any(names.find(text) for names in (checker.verbs, checker.nouns) for text in GENERIC.values())
    assert numbers("plate") <= {word for word in numbers("plate") if checker.nouns.find(word)}


def test_pairs_that_mostly_have_one_row_are_fitted_without_a_warning(tmp_path):
    rows = toy_rows(60)
    own = [
        replace(row, noun=f"thing{n}", noun_class=list(NOUNS).index(row.noun)) for n, row in enumerate(rows)
    ]
    result = audit([write(tmp_path / "q.jsonl", CLEAN[:60])], annotations(segments=tuple(own)))["files"][0]
    fit = result["probes"]["tf-idf"]["fits"]["action"]
    assert fit["classes"] == len({(s.verb, s.noun_class) for s in own if s.split == "train"})
    assert fit["converged"]
