"""Challenge files, good and spoilt: each gets its verdict, and what is good is read as it stands."""

import json
import re

import numpy as np
import pytest

from helpers.submissions import IDS, LEVELS, submission, written, zipped
from mambavl.fuse import submission as module
from mambavl.fuse.submission import examine

GOOD = {  # what may differ between good ones
    "no actions": {},
    "actions": {"actions": True},
    "anticipation": {"challenge": "action_anticipation"},
}


def changed(**keys):
    """A good one with some keys of its head changed; None: left out."""
    found = {**submission(actions=True), **keys}
    return {key: value for key, value in found.items() if value is not None}


def spoilt(change, row=IDS[1], *, actions=True):
    """A good one of which `change` spoils a row."""
    found = submission(actions=actions)
    change(found["results"][row])
    return found


def without(part, key):
    return lambda row: row[part].pop(key)


def with_key(part, key, value=0.5):
    return lambda row: row[part].__setitem__(key, value)


def with_pairs(count):
    return lambda row: row.update(action=dict(list(row["action"].items())[:count]))


def renamed(old, new):
    found = submission()
    found["results"] = {new if name == old else name: row for name, row in found["results"].items()}
    return found


def as_text(found, old, new):
    """Its JSON with a text replaced that stands there once."""
    text = json.dumps(found)
    assert text.count(old) == 1
    return text.replace(old, new)


ROWS = json.dumps(submission()["results"])[1:-1]
# name -> (file, the verdict: patterns of all faults, in any order)
SPOILT = {
    "an older version": (changed(version="0.1"), ['version is "0.1".*EPIC-KITCHENS-55']),
    "a version that is a number": (changed(version=0.2), ['version is 0.2; it is the text "0.2"']),
    "another challenge": (changed(challenge="action_detection"), ['challenge is "action_detection"; it is']),
    "no levels": (
        changed(sls_pt=None, sls_tl=None, sls_td=None),
        ["has no sls_pt .*pretraining", "has no sls_tl .*labels", "has no sls_td .*data"],
    ),
    "levels out of range": (
        changed(sls_pt=6, sls_tl=-1, sls_td=True),
        ["sls_pt is 6; .* 0 to 5", "sls_tl is -1; ", "sls_td is true; "],
    ),
    "a level that is text": (changed(sls_pt="2"), ['sls_pt is "2"; it is a whole number']),
    "a level that is no whole number": (changed(sls_td=3.0), ["sls_td is 3.0; it is a whole number"]),
    "another key": (changed(team="us"), ['has "team", which is not of the format']),
    "no results": (changed(results=None), ["has no results", "3 rows of the list not in the file"]),
    "results that are a list": (changed(results=[1]), ["results is a list; it is an object"]),
    "no row": (changed(results={}), ["results holds no row", "3 rows of the list not in the file: P01_11_0"]),
    "a row less": (
        changed(results=dict(list(submission()["results"].items())[:2])),
        ["1 row of the list not in the file: P22_107_38"],
    ),
    "a row of another list": (
        renamed("P22_107_38", "P22_107_39"),
        ["1 row of the list not in the file: P22_107_38", '1 row of the file not in the list: "P22_107_39"'],
    ),
    "an id that is none": (
        renamed("P22_107_38", "video 7"),
        ['row "video 7": this is no narration_id', "not in the file: P22_107_38", "not in the list: .video"],
    ),
    "a score less": (
        spoilt(without("verb", "5")),
        ['row "P01_11_1": verb has 96 of 97 scores, none of class 5'],
    ),
    "a class more": (spoilt(with_key("noun", "300")), ['noun "300" is no class; they are "0" to "299"']),
    "a class with a zero before": (spoilt(with_key("verb", "05")), ['verb "05" is no class']),
    "a score that is text": (spoilt(with_key("verb", "5", "0.5")), ['verb "5" is "0.5", which is not']),
    "a score that is null": (spoilt(with_key("noun", "7", None)), ['noun "7" is null, which is not']),
    "a score that is true": (spoilt(with_key("noun", "7", True)), ['noun "7" is true, which is not']),
    "NaN": (spoilt(with_key("verb", "5", float("nan"))), ['verb "5" is NaN or infinite']),
    "infinity": (spoilt(with_key("noun", "5", float("-inf"))), ['noun "5" is NaN or infinite']),
    "a number beyond all floats": (
        as_text(spoilt(with_key("noun", "5", 31415926), actions=False), "31415926", "1e999"),
        ['noun "5" is NaN or infinite'],
    ),
    "a whole number beyond all floats": (
        as_text(spoilt(with_key("noun", "5", 31415926), actions=False), "31415926", "9" * 400),
        ['noun "5" is NaN or infinite'],
    ),
    "no noun": (spoilt(lambda row: row.pop("noun")), ['row "P01_11_1" has no noun']),
    "scores in a list": (
        spoilt(lambda row: row.update(verb=list(row["verb"].values()))),
        ["verb is a list; it is an object, class to score"],
    ),
    "a row that is a list": (
        changed(results={**submission(actions=True)["results"], IDS[1]: []}),
        ['row "P01_11_1" is a list; it is an object', "action stands in 2 of 3 rows"],
    ),
    "another key of a row": (spoilt(lambda row: row.update(score=1)), ['row "P01_11_1" has "score"']),
    "99 pairs": (spoilt(with_pairs(99)), ["action has 99 pairs; it has 100"]),
    "pairs more": (
        spoilt(lambda row: row["action"].update({"96,299": 0.0, "96,298": 0.0})),
        [r"action has 10[12] pairs; it has 100"],
    ),
    "no pair": (spoilt(with_pairs(0)), ["action has 0 pairs; it has 100"]),
    "a pair with a space": (
        spoilt(lambda row: row.update(action={key.replace(",", ", "): 0 for key in row["action"]})),
        ['action ".*, .*", .* is no pair; one is "3,17"'],
    ),
    "a pair of a verb that is none": (
        spoilt(lambda row: row.update(action={**dict(list(row["action"].items())[:99]), "97,0": 0})),
        ['action "97,0" is no pair'],
    ),
    "a pair of a noun that is none": (
        spoilt(lambda row: row.update(action={**dict(list(row["action"].items())[:99]), "0,300": 0})),
        ['action "0,300" is no pair'],
    ),
    "actions in some rows": (
        spoilt(lambda row: row.pop("action")),
        ["action stands in 2 of 3 rows; it is in all or in none"],
    ),
    "a pair's score is NaN": (
        spoilt(lambda row: row.update(action=dict.fromkeys(row["action"], float("nan")))),
        ["action .* is NaN or infinite"],
    ),
    "a row twice": (
        as_text(submission(), '"results": {', '"results": {' + ROWS + ", "),
        [r'row "P01_11_0" stands there twice \(and 2 more\)'],
    ),
    "a class twice": (
        as_text(submission(), '"P22_107_38": {"verb": {"0"', '"P22_107_38": {"verb": {"0": 1, "0"'),
        ['row "P22_107_38": key "0" stands there twice'],
    ),
    "a key of the head twice": (
        as_text(submission(), '"sls_pt": 2', '"sls_pt": 2, "sls_pt": 5'),
        ['"sls_pt" stands there twice'],
    ),
    "a file that was cut off": (json.dumps(submission())[:9000], ["is not JSON, at or after character"]),
    "a file that goes on": (json.dumps(submission()) + "{}", ["goes on after its end"]),
    "a list": (b"[]", ["begins with '\\['; a submission is a JSON object"]),
    "nothing": (b"", ["begins with nothing"]),
    "a zip with another name in it": (
        zipped(json.dumps(submission()), "validation.json"),
        ["the zip holds 'validation.json'; it holds test.json and nothing else"],
    ),
    "a zip with a folder in it": (
        zipped(json.dumps(submission()), "sub/test.json"),
        ["the zip holds 'sub/test.json'"],
    ),
    "a zip of several": (
        zipped(json.dumps(submission()), "test.json", "__MACOSX/._test.json"),
        ["the zip holds 'test.json', '__MACOSX/._test.json'"],
    ),
    "a pickle": (b"\x80\x04]\x94.", ["is a pickle, which is not opened"]),
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["zip", "json"])
@pytest.mark.parametrize("name", GOOD)
def test_a_good_one_has_no_fault_and_is_read_as_it_stands(tmp_path, name, suffix):
    raw = submission(**GOOD[name])
    found = examine(written(tmp_path / f"s.{suffix}", raw), listed=IDS)
    assert found.faults == ()
    assert (found.challenge, found.levels, found.ids) == (raw["challenge"], LEVELS, IDS)
    for number, row in enumerate(raw["results"].values()):
        for part in ("verb", "noun"):
            assert found.scores[part][number].tolist() == list(row[part].values())
        if "action" in row:
            pairs = [f"{verb},{noun}" for verb, noun in found.pairs[number].tolist()]
            assert dict(zip(pairs, found.pair_scores[number].tolist(), strict=True)) == row["action"]
    assert (found.pairs is None) == (name != "actions")


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_one_has_its_verdict_and_no_other(tmp_path, name):
    raw, verdict = SPOILT[name]
    found = examine(written(tmp_path / "s.json", raw), listed=IDS)
    left = list(found.faults)
    for pattern in verdict:
        matching = [fault for fault in left if re.search(pattern, fault)]
        assert len(matching) == 1, (pattern, found.faults)
        left.remove(matching[0])
    assert left == []


def test_faults_of_a_kind_are_said_once_and_counted(tmp_path):
    raw = submission()
    for row in raw["results"].values():
        row["verb"].pop("3")
        row["noun"]["1"] = None
    verb, noun = examine(written(tmp_path / "s.json", raw)).faults
    assert verb == 'row "P01_11_0": verb has 96 of 97 scores, none of class 3 (and 2 more)'
    assert noun == 'row "P01_11_0": noun "1" is null, which is not a number (and 2 more)'


def test_of_a_file_with_a_spoilt_row_no_scores_are_given(tmp_path):
    """They would stand beside other ids than their own."""
    found = examine(written(tmp_path / "s.json", spoilt(without("verb", "5"))))
    assert (found.ids, found.scores, found.pairs, found.pair_scores) == (IDS, {}, None, None)


def test_all_faults_of_one_file_are_named(tmp_path):
    raw = changed(version="1", challenge=None, sls_pt=9)
    raw["results"][IDS[0]]["verb"].pop("96")
    raw["results"].pop(IDS[2])
    assert len(examine(written(tmp_path / "s.json", raw), listed=IDS).faults) == 5


def test_without_a_list_ids_are_not_held_against_one(tmp_path):
    found = examine(written(tmp_path / "s.zip", submission()))
    assert (found.faults, found.is_listed) == ((), False)
    assert examine(found.path, listed=IDS).is_listed


def test_a_task_asks_for_its_challenge(tmp_path):
    path = written(tmp_path / "s.zip", submission())
    assert examine(path, task="recognition").faults == ()
    [fault] = examine(path, task="anticipation").faults
    assert fault == 'challenge is "action_recognition"; it is "action_anticipation"'


def test_the_order_of_classes_and_rows_does_not_count(tmp_path):
    raw = submission()
    turned = {key: raw[key] for key in reversed(raw)}
    turned["results"] = {
        name: {part: dict(reversed(scores.items())) for part, scores in reversed(row.items())}
        for name, row in reversed(raw["results"].items())
    }
    one, other = (
        examine(written(tmp_path / f"{name}.json", each), listed=IDS)
        for name, each in (("a", raw), ("b", turned))
    )
    assert other.faults == ()
    assert other.ids == tuple(reversed(one.ids))
    for part in ("verb", "noun"):
        assert np.array_equal(one.scores[part], other.scores[part][::-1])


def test_indented_json_is_read_too(tmp_path):
    text = json.dumps(submission(actions=True), indent=2).replace("\n", "\r\n")
    assert examine(written(tmp_path / "s.json", text), listed=IDS).faults == ()


def test_more_rows_or_keys_than_any_submission_has_end_the_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", 2)
    [fault] = examine(written(tmp_path / "s.json", submission()), listed=IDS).faults
    assert fault == "has more than 2 rows, which no list of EK100 has"
    monkeypatch.undo()
    many = changed(**{f"key{number}": 0 for number in range(module.MAX_KEYS)})
    [fault] = examine(written(tmp_path / "t.json", many)).faults
    assert "keys beside results" in fault
