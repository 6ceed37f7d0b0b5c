"""A run and a video: the answers are those that evaluation gives the same windows; nothing later is seen."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.clips import write_video
from helpers.predicting import ask, make_run, scored, video_of
from mambavl.cache import open_store
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.predict.predict import Request, length_of, predict, video_id_of
from mambavl.predict.trained import open_trained


def rec(kit, **changes):
    """A request of the run `rec` about its validation video."""
    asked = {"run": kit / "rec", "video": video_of(kit, 104), **changes}
    weights = {"verb_question": str(kit / "roberta")}
    return Request(**{"weights": weights, **asked})


def ant(kit, **changes):
    return Request(**{"run": kit / "ant", "video": video_of(kit, 104), **changes})


def probabilities(answer, target):
    """Class -> probability."""
    return {guess.ids[0]: guess.probability for guess in answer.best[target]}


def assert_equals_scores(answer, run, narration_id):
    for target, expected in scored(run, narration_id).items():
        found = probabilities(answer, target)
        assert found == {one: pytest.approx(value, abs=1e-4) for one, value in enumerate(expected)}


def test_a_window_that_is_a_row_gets_the_scores_that_evaluation_gave_the_row(kit):
    """Two views of video and two questions, made anew, through everything that a run goes through."""
    segment = next(s for s in open_store(kit / "rec.zarr").segments if s.narration_id == "P01_104_1")
    span = round(segment.stop - segment.start, 6)
    found = predict(rec(kit, window=span, start=segment.stop, stop=segment.stop))
    [answer] = found.answers
    assert answer.moment.time == segment.stop
    assert answer.moment.begins == pytest.approx(segment.start)
    assert_equals_scores(answer, kit / "rec", segment.narration_id)


def test_an_action_ahead_gets_the_scores_that_evaluation_gave_it(kit):
    segment = next(s for s in open_store(kit / "ant.zarr").segments if s.narration_id == "P01_104_3")
    found = predict(ant(kit, start=segment.start - 1.0, stop=segment.start - 1.0))
    [answer] = found.answers
    assert answer.moment.about == pytest.approx(segment.start)
    assert_equals_scores(answer, kit / "ant", segment.narration_id)


def test_rows_of_a_store_get_the_scores_that_evaluation_gave_them(kit):
    """Their questions are made here, or come from a store, too."""
    request = rec(kit, video=Path("P01_104"), stores={"video": kit / "rec.zarr"})
    texts = {f"{kind}_question": kit / "text.zarr" for kind in ("verb", "noun")}
    for found in (predict(request), predict(rec(kit, stores={"video": kit / "rec.zarr", **texts}))):
        names = [answer.moment.segment.narration_id for answer in found.answers]
        assert names == [f"P01_104_{number}" for number in range(5)]
        for answer in found.answers:
            assert_equals_scores(answer, kit / "rec", answer.moment.segment.narration_id)


def test_rows_of_a_store_between_two_times(kit):
    stores = {"video": kit / "ant.zarr"}
    found = predict(ant(kit, stores=stores, start=1.0, stop=3.0)).answers
    assert [answer.moment.segment.narration_id for answer in found] == ["P01_104_2", "P01_104_3"]
    with pytest.raises(UsageError, match="none of 5 rows of P01_104 ends between them"):
        predict(ant(kit, stores=stores, start=5.5))
    for option, value in (("every", 1.0), ("window", 2.0)):
        with pytest.raises(UsageError, match=f"--{option}: with --store the moments are the rows"):
            predict(rec(kit, stores={"video": kit / "rec.zarr"}, **{option: value}))
    with pytest.raises(DataError, match="has no row of video P09_1 for stream video; its videos are P01_101"):
        predict(ant(kit, video=Path("P09_1"), stores=stores))


def test_a_row_without_anything_to_observe_says_so(kit):
    found = predict(ant(kit, stores={"video": kit / "ant.zarr"}, start=-10.0)).answers
    assert found[0].status == "empty_window"
    assert found[0].best is None
    assert "starts at 0.00 s" in found[0].reason
    assert all(answer.best for answer in found[1:])


def test_nothing_after_a_moment_reaches_its_answer(kit, tmp_path):
    """The file is cut off behind it, in a place where the codec looks at no later frame."""
    whole = write_video(tmp_path / "whole.MP4", frames=60, gop=1, bf="0")
    cut = write_video(tmp_path / "cut.MP4", frames=41, gop=1, bf="0")
    for request in (rec, ant):
        times = {"start": 2.0, "stop": 4.0, "every": 0.5}
        before, after = (predict(request(kit, video=video, **times)).answers for video in (whole, cut))
        assert len(before) == 5
        assert [answer.best for answer in after] == [answer.best for answer in before]


def test_an_observed_frame_changes_the_answers_that_see_it_and_no_others(kit, tmp_path):
    whole = write_video(tmp_path / "whole.MP4", frames=60, gop=1, bf="0")
    later = write_video(
        tmp_path / "later.MP4",
        frames=60,
        gop=1,
        bf="0",
        times=[*range(0, 3500, 100), *range(3500, 8500, 200)],
    )
    asked = {"start": 2.0, "stop": 5.0, "every": 1.0}
    before, after = (predict(ant(kit, video=video, **asked)).answers for video in (whole, later))
    same = [one.best == other.best for one, other in zip(before, after, strict=True)]
    assert same[:2] == [True, True]
    assert same[3] is False


def test_one_damaged_stretch_leaves_the_other_answers_alone(kit, tmp_path):
    times = [*range(0, 3000, 100), *range(4000, 7000, 100)]
    video = write_video(tmp_path / "v.mkv", frames=60, times=times, container="matroska", codec="mpeg4")
    found = predict(ant(kit, video=video, every=1.0)).answers
    assert [answer.moment.time for answer in found] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    bad = [answer for answer in found if answer.best is None]
    assert {answer.status for answer in bad} == {"damaged_frame"}
    assert 0 < len(bad) < len(found)
    assert "stream video: the file holds no frame" in bad[0].reason
    assert found[1].best


def test_a_video_without_any_usable_moment_is_an_error(kit, tmp_path):
    (tmp_path / "v.MP4").write_text("not a video")
    with pytest.raises(DataError, match=r"v\.MP4: "):
        predict(ant(kit, video=tmp_path / "v.MP4"))
    with pytest.raises(DataError, match=r"no\.MP4: no such video file"):
        predict(ant(kit, video=tmp_path / "no.MP4"))
    times = [*range(0, 500, 100), *range(6000, 7500, 100)]
    gap = write_video(tmp_path / "gap.mkv", frames=20, times=times, container="matroska", codec="mpeg4")
    with pytest.raises(DataError, match=r"no moment of it has features \(damaged_frame: "):
        predict(ant(kit, video=gap, start=3.0, stop=4.0))


def test_the_document_says_what_it_must_be_read_with(kit):
    document = predict(rec(kit, questions=["verb=What?", "noun=Which?"])).document
    assert json.loads(json.dumps(document)) == document
    assert document["task"] == "recognition"
    assert document["text"] == {
        "protocol": "generic",
        "trained_on": "generic",
        "questions": {"verb": "What?", "noun": "Which?"},
    }
    assert document["run"]["path"] == str(kit / "rec")
    assert len(document["run"]["model_sha256"]) == 64
    trained = json.loads((kit / "rec" / "result.json").read_text())["streams"]
    for name, stream in document["streams"].items():
        assert stream["encoder"] == trained[name]["encoder"]["name"]
        assert stream["weights_sha256"] == trained[name]["encoder"]["sha256"]
        assert stream["store"] is None
    first = document["predictions"][0]
    assert first["time"] == first["about"] == 1.6
    assert first["window"] == [0.0, 1.6]
    assert first["status"] == "ok"
    assert {target: len(one) for target, one in first["best"].items()} == {"verb": 2, "noun": 2, "action": 4}
    ahead = predict(ant(kit, stop=1.0)).document
    assert ahead["predictions"][0]["about"] == 2.0
    assert ahead["text"] is None
    cached = predict(ant(kit, stores={"video": kit / "ant.zarr"})).document
    assert cached["streams"]["video"]["store"] == str(kit / "ant.zarr")


def test_other_questions_give_other_answers(kit):
    generic, own, none = (
        predict(rec(kit, stop=1.6, questions=questions)).answers[0].best
        for questions in ([], ["verb=Cut or wash?", "noun=Onion or cup?"], ["none"])
    )
    assert generic != own != none != generic


def test_what_cannot_go_together_is_refused(kit):
    with pytest.raises(UsageError, match=r"--store sound=\.\.\.: .* has no stream 'sound'"):
        predict(rec(kit, stores={"sound": kit / "rec.zarr"}))
    with pytest.raises(UsageError, match="so give one for video as well: --store video=PATH"):
        predict(rec(kit, stores={"verb_question": kit / "text.zarr"}))
    texts = {f"{kind}_question": kit / "text.zarr" for kind in ("verb", "noun")}
    request = rec(kit, stores={"video": kit / "rec.zarr", **texts}, questions=["generic"])
    with pytest.raises(UsageError, match="the stores that are given hold the questions of their rows"):
        predict(request)
    with pytest.raises(DataError, match="holds other features than the head was trained on"):
        predict(rec(kit, stores={"video": kit / "ant.zarr"}))


def test_a_signal_stops_it(kit):
    with pytest.raises(Interrupted, match="nothing is kept, and the same command begins again"):
        predict(ant(kit), should_stop=lambda: True)


def test_a_run_whose_stores_have_moved_is_told_where(kit, tmp_path):
    """Four small files of a store are enough."""
    shutil.copytree(kit / "ant", tmp_path / "run")
    recipe = (tmp_path / "run" / "recipe.toml").read_text().replace(str(kit), str(tmp_path))
    (tmp_path / "run" / "recipe.toml").write_text(recipe)
    request = Request(run=tmp_path / "run", video=video_of(kit, 104), stop=1.0)
    with pytest.raises(DataError, match=r"say where it is: --moved video=PATH"):
        predict(request)
    (tmp_path / "meta").mkdir()
    for name in ("spec.json", "manifest.json", "classes.json", "segments.csv"):
        shutil.copy(kit / "ant.zarr" / name, tmp_path / "meta" / name)
    moved = Request(
        run=tmp_path / "run", video=video_of(kit, 104), stop=1.0, moved={"video": tmp_path / "meta"}
    )
    assert predict(moved).answers[0].best == predict(ant(kit, stop=1.0)).answers[0].best


def test_oracle_text_of_a_store_is_named(kit, tmp_path):
    ask(kit, "oracle", tmp_path / "oracle.zarr")
    texts = {f"{kind}_question": tmp_path / "oracle.zarr" for kind in ("verb", "noun")}
    document = predict(rec(kit, stores={"video": kit / "rec.zarr", **texts})).document
    assert document["text"] == {"protocol": "oracle", "trained_on": "generic", "questions": None}


def read_whole(request, moments):
    """Probabilities of verbs that the head gives the tokens of some rows, one after another, at once."""
    trained = open_trained(request.run, request.moved)
    rows = {name: open_store(path) for name, path in request.stores.items()}
    texts = open_store(request.run.parent / "text.zarr")
    views = []
    for view in range(trained.views):
        streams = {}
        for name, stream in trained.streams.items():
            store = rows.get(name, texts)
            where = moments if name in rows else moments[:1]
            tokens, _ = store.batch(where, stream.source.level, view=view if name in rows else 0)
            joined = tokens.float().flatten(0, 1)[None]
            streams[name] = joined, torch.tensor([joined.shape[1]])
        with torch.no_grad():
            views.append(trained.head(streams)["verb"].softmax(-1))
    return torch.stack(views).mean(0)[0].tolist()


@pytest.mark.parametrize("head", ["mambavl", "mlp"])
def test_a_stream_is_the_head_over_all_windows_so_far(kit, head):
    """Two views; the generic questions of the store are those that are asked here."""
    run = make_run(kit, f"stream-{head}", "rec", has_text=True, head=f'name = "{head}"')
    request = rec(kit, run=run, video=Path("P01_104"), stores={"video": kit / "rec.zarr"}, stream=True)
    found = predict(request)
    rows = [n for n, s in enumerate(open_store(kit / "rec.zarr").segments) if s.video_id == "P01_104"]
    for number, answer in enumerate(found.answers):
        expected = read_whole(request, rows[: number + 1])
        verbs = probabilities(answer, "verb")
        assert [verbs[one] for one in range(2)] == pytest.approx(expected, abs=1e-5)
    assert found.document["stream"] is True
    alone = predict(replace(request, stream=False)).answers
    first, third = (
        [probabilities(answers[number], "verb")[0] for answers in (found.answers, alone)] for number in (0, 2)
    )
    assert first[0] == pytest.approx(first[1], abs=1e-5)
    assert third[0] != pytest.approx(third[1], abs=1e-5)


def test_the_windows_of_a_stream_adjoin(kit):
    found = predict(rec(kit, stream=True, window=1.5)).answers
    windows = [(answer.moment.begins, answer.moment.time) for answer in found]
    assert windows == [(0.0, 1.5), (1.5, 3.0), (3.0, 4.5), (4.5, 6.0)]
    ahead = predict(ant(kit, stream=True)).answers
    assert [answer.moment.time for answer in ahead] == [2.133, 4.266]


def test_a_moment_without_features_adds_nothing_to_a_stream(kit, tmp_path):
    times = [*range(0, 3000, 100), *range(4000, 7000, 100)]
    video = write_video(tmp_path / "v.mkv", frames=60, times=times, container="matroska", codec="mpeg4")
    found = predict(ant(kit, video=video, every=1.0, stream=True)).answers
    bad = [answer.status for answer in found if answer.best is None]
    assert bad
    assert set(bad) == {"damaged_frame"}
    assert found[-1].best


def test_what_cannot_be_streamed_is_refused_before_any_work(kit):
    run = make_run(kit, "attends", "rec", has_text=True, head='name = "transformer"')
    with pytest.raises(UsageError, match=r"--stream: .*attends \(transformer\) cannot: every token"):
        predict(rec(kit, run=run, stream=True, video=Path("nowhere")))
    texts = {f"{kind}_question": kit / "text.zarr" for kind in ("verb", "noun")}
    with pytest.raises(UsageError, match="cannot be those of a store's rows"):
        predict(rec(kit, stream=True, stores={"video": kit / "rec.zarr", **texts}))


@pytest.mark.parametrize("head", ["mlp", "transformer"])
def test_every_head_answers(kit, head):
    run = make_run(kit, f"rec-{head}", "rec", has_text=True, head=f'name = "{head}"')
    answers = predict(rec(kit, run=run, stores={"video": kit / "rec.zarr"})).answers
    for answer in answers:
        assert_equals_scores(answer, run, answer.moment.segment.narration_id)


def test_chunks_are_a_video_too(kit, tmp_path):
    for first in range(0, 45, 15):
        write_video(tmp_path / "P01_07" / f"{first}.MP4", frames=150)
    found = predict(ant(kit, video=tmp_path / "P01_07", start=31.0, stop=33.0)).answers
    assert [answer.status for answer in found] == ["ok"] * 3
    assert found[0].moment.segment.video_id == "P01_07"


def test_the_length_of_a_video_and_its_name(tmp_path):
    assert length_of(write_video(tmp_path / "a b.mp4", frames=25, fps=10)) == pytest.approx(2.5)
    assert video_id_of(tmp_path / "a b.mp4") == "a_b"
