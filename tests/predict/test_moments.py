"""Moments: whole windows, nothing later, and times that a video has."""

import re
from types import SimpleNamespace

import pytest

from mambavl.cache.rows import Segment
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.sampling import Sampling
from mambavl.predict.moments import Question, moments, moments_of, question_of
from mambavl.predict.trained import open_trained

REC, ANT = Question("recognition", 0.0, 1.5), Question("anticipation", 1.0, 2.0)


def times(question, end, every=1.0, start=None, stop=None):
    return [moment.time for moment in moments("v", end, question, every, start, stop)]


def test_recognition_begins_where_a_whole_window_has_passed():
    assert times(REC, 4.0) == [1.5, 2.5, 3.5]
    assert times(REC, 3.5) == [1.5, 2.5, 3.5]
    assert times(REC, 3.49) == [1.5, 2.5]
    assert times(ANT, 3.0) == [1.0, 2.0, 3.0]


def test_from_one_time_to_another():
    assert times(REC, 10.0, 0.5, 3.0, 4.2) == [3.0, 3.5, 4.0]
    assert times(REC, 10.0, 1.0, 5.0, 5.0) == [5.0]
    # tenths do not add up in binary: (0.7 - 0.1) / 0.1 is below 6
    assert times(ANT, 10.0, 0.1, 0.1, 0.7) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_a_moment_is_a_row_whose_window_ends_there():
    [first, *_] = moments("v", 10.0, REC, 1.0, 4.0, None)
    assert (first.segment.start, first.segment.stop) == (2.5, 4.0)
    assert (first.begins, first.time, first.about) == (2.5, 4.0, 4.0)
    assert (first.segment.video_id, first.segment.narration_id) == ("v", "v_0")
    [ahead, *_] = moments("v", 10.0, ANT, 1.0, 4.0, None)
    assert ahead.segment.start == ahead.about == 5.0
    assert (ahead.begins, ahead.time) == (2.0, 4.0)
    assert moments("v", 10.0, ANT, 1.0, 1.0, None)[0].begins == 0.0


@pytest.mark.parametrize(
    ("question", "asked", "said"),
    [
        (REC, {"start": 1.0}, "--start 1: a window of 1.5 s that ends there begins before the video"),
        (ANT, {"start": 0.0}, "--start 0: "),
        (REC, {"stop": 11.0}, "--stop 11: the video ends at 10.00 s"),
        (REC, {"start": 9.0, "stop": 8.0}, "no moment from 9 s to 8.00 s"),
        (REC, {"every": 0.0}, "--every 0: is a number of seconds above 0"),
        (ANT, {"every": -1.0}, "--every -1: "),
    ],
)
def test_times_that_cannot_be_are_refused(question, asked, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        times(question, 10.0, **asked)


def test_a_video_shorter_than_a_window_asks_for_a_shorter_one():
    with pytest.raises(UsageError, match=r"no moment from 1\.5 s to 1\.20 s.*or a shorter --window"):
        times(REC, 1.2)


def test_rows_of_a_store_are_moments():
    row = Segment("a", "P", "v", "", 5.0, 7.0, 0, 0, "train")
    [seen] = moments_of([row], REC)
    assert (seen.begins, seen.time, seen.about) == (5.0, 7.0, 7.0)
    [ahead] = moments_of([row], ANT)
    assert (ahead.begins, ahead.time, ahead.about) == (2.0, 4.0, 5.0)


def test_a_run_says_what_it_answers(kit):
    """The median row of the toy data set lasts 1.6 s; the rule of anticipation looks at 64 of 30 a second."""
    rec, ant = (open_trained(kit / name, {}) for name in ("rec", "ant"))
    assert question_of(rec, None, None) == Question("recognition", 0.0, 1.6)
    assert question_of(rec, "recognition", 3.0) == Question("recognition", 0.0, 3.0)
    assert question_of(ant, "anticipation", None) == Question("anticipation", 1.0, 2.133)
    with pytest.raises(UsageError, match=r"--task recognition: .* was trained for anticipation"):
        question_of(ant, "recognition", None)
    with pytest.raises(UsageError, match=r"--window: .*the rule .* says what is seen, 2\.133 s"):
        question_of(ant, None, 3.0)
    with pytest.raises(UsageError, match=r"--window 0\.01: a window lasts at least 0\.1 s"):
        question_of(rec, None, 0.01)


def fake(**sampling_of):
    """A run whose streams were sampled so."""
    streams = {}
    for name, sampling in sampling_of.items():
        recipe = SimpleNamespace(sampling=sampling)
        spec = SimpleNamespace(recipe=recipe, kind="audio")
        row = Segment("a", "P", "v", "", 0.0, 2.0, 0, 0, "train")
        streams[name] = SimpleNamespace(is_text=False, store=SimpleNamespace(spec=spec, segments=(row,)))
    return SimpleNamespace(run="RUN", streams=streams)


def test_features_that_look_into_the_action_foretell_nothing():
    looks = fake(video=Sampling(task="anticipation", rule="inavit").model_dump())
    looks.streams["video"].store.spec.kind = "video"
    with pytest.raises(UsageError, match=r"look into the action that is to be foretold \(rule inavit\)"):
        question_of(looks, None, None)
    vjepa = fake(video=Sampling(task="anticipation", rule="vjepa").model_dump())
    vjepa.streams["video"].store.spec.kind = "video"
    assert question_of(vjepa, None, None) == Question("anticipation", 1.0, 4.0)


def test_streams_of_different_questions_have_no_common_moment():
    one, other = ({"task": "anticipation", "tau_a": tau, "seconds": 2.0} for tau in (1.0, 0.5))
    assert question_of(fake(audio=one, sound=one), None, None) == Question("anticipation", 1.0, 2.0)
    with pytest.raises(DataError, match=r"tau_a 1 s\), stream sound for anticipation \(tau_a 0\.5 s\)"):
        question_of(fake(audio=one, sound=other), None, None)
    with pytest.raises(UsageError, match="reads mine, none of them made from video or sound"):
        question_of(fake(mine=None), None, None)
