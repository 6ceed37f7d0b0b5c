"""What streams were told of past actions: which may meet, and that every result says it."""

import json

import pytest

from helpers.cli import call
from helpers.pages import column_of, tables_of
from helpers.tiny import ROWS, make_history_store, make_segments, tiny_recipe
from mambavl.cache.spec import FeatureRecipe, HistoryRecipe, QuestionsProvenance
from mambavl.configs import validate
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse import report
from mambavl.fuse.notices import (
    ACTION_IN_ANTICIPATION,
    ORACLE_ANTICIPATION,
    ORACLE_HISTORY,
    history_protocol,
    notice_of,
    text_protocol,
)
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.result import Result
from mambavl.fuse.run import read_result
from mambavl.fuse.train import train


def past(protocol="oracle", tau=1.0):
    told = HistoryRecipe(protocol=protocol, last=8, tau_a=tau, age="log(1 + seconds)", order="time")
    return FeatureRecipe(history=told)


def video(task="anticipation", tau=1.0, rule="strict"):
    return FeatureRecipe(sampling={"task": task, "tau_a": tau, "rule": rule})


ORACLE_TEXT = FeatureRecipe(questions=QuestionsProvenance(protocol="oracle"))


def said(allow_oracle=False, **recipes):
    text = text_protocol(recipes, dict.fromkeys(recipes, "any"))
    return notice_of(recipes, text, history_protocol(recipes), allow_oracle=allow_oracle)


def test_an_oracle_history_is_said_aloud_and_a_predicted_one_is_not():
    assert said(past=past()) == said(past=past(), video=video()) == ORACLE_HISTORY
    assert said(past=past("predicted")) is None
    assert said(past=past(), video=video(rule="inavit")) == f"{ACTION_IN_ANTICIPATION}. {ORACLE_HISTORY}"


def test_two_protocols_of_history_never_meet():
    with pytest.raises(DataError, match="history streams were made under different protocols: oracle, pred"):
        said(one=past(), other=past("predicted"))


def test_a_narrated_past_is_no_question():
    """Its encoder reads text, but which protocol its words are of is the history's to say."""
    assert text_protocol({"said": past()}, {"said": "text"}) == "absent"
    assert history_protocol({"said": past()}) == "oracle"
    assert history_protocol({"video": video()}) == "absent"


def test_oracle_text_beside_a_history_is_of_what_is_to_be_foreseen():
    """No video says the task, and the questions name the answer all the same."""
    with pytest.raises(UsageError, match="the text protocol is oracle"):
        said(past=past("predicted"), verb_question=ORACLE_TEXT)
    both = said(True, past=past(), verb_question=ORACLE_TEXT)
    assert both == f"{ORACLE_ANTICIPATION}. {ORACLE_HISTORY}"
    assert said(past=past(), video=video("recognition"), verb_question=ORACLE_TEXT) == ORACLE_HISTORY


def test_a_history_ends_no_later_than_what_the_other_streams_see():
    with pytest.raises(DataError, match=r"past tells of actions up to 0\.5 s .*video ends 1 s.*--tau 1"):
        said(past=past(tau=0.5), video=video(tau=1.0))
    with pytest.raises(DataError, match=r"near tells of actions up to 1 s .* far ends 2 s"):
        said(near=past(tau=1.0), far=past(tau=2.0))
    assert said(past=past(tau=1.5), video=video(tau=1.0)) == ORACLE_HISTORY
    assert said(past=past(tau=0.0), video=video("recognition")) == ORACLE_HISTORY


@pytest.fixture
def run(tmp_path):
    make_history_store(tmp_path / "past.zarr", make_segments(ROWS))
    raw = tiny_recipe(tmp_path, title="mine", epochs=1).model_dump(mode="json", exclude_none=True)
    streams = {"past": {"store": str(tmp_path / "past.zarr"), "level": "past/actions"}}
    train(validate({**raw, "streams": streams}, Recipe, "mine.toml"), tmp_path / "run")
    return tmp_path / "run"


def test_every_result_names_the_protocol_of_its_history(run, tmp_path, capsys):
    result = read_result(run)
    assert (result.text_protocol, result.history_protocol) == ("absent", "oracle")
    assert result.streams["past"].recipe.history.last == 8
    assert result.rows.scored_by_prior == result.rows.missing["past"] > 0
    assert result.rows.failed == 0
    found = json.loads((run / "result.json").read_bytes())
    assert Result.from_dict(found).to_dict() == found
    assert call("evaluate", run) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "mine, validation, absent text, oracle history" in shown
    assert ORACLE_HISTORY in shown
    report.write_report([run], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert page.count(f"”: {ORACLE_HISTORY}.") == 1
    headline = tables_of(page)["headline"]
    assert [column_of(headline, name)[0] for name in ("text", "history")] == ["absent", "oracle"]
