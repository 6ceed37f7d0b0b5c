"""Which stores a row of a table takes, what it says of others, and whether its commands are commands."""

from dataclasses import replace

import pytest

from helpers.calls import fault_of_call
from helpers.tables import make_store, spec_of
from mambavl.cache.spec import EncoderIdentity, QuestionsProvenance
from mambavl.configs.errors import UsageError
from mambavl.reproduce.inputs import Features, commands, find
from mambavl.reproduce.rows import table

VIDEO = Features(kind="video", encoder="orvit-hr", levels=("frame",), boxes=True)
AHEAD = Features(kind="video", encoder="orvit", levels=("patch", "cls"), task="anticipation", rule="strict")
TEXT = Features(kind="text", encoder="roberta-base", levels=("verb_question/last_hidden",), protocol="oracle")


@pytest.mark.parametrize("wanted", [VIDEO, AHEAD, TEXT, replace(TEXT, is_random=True)])
def test_a_store_that_is_what_a_row_asks_for_is_taken(wanted):
    assert wanted.faults(spec_of(wanted), ()) == []


def test_what_keeps_a_store_from_being_taken_is_named():
    def only(wanted, spec):
        [fault] = wanted.faults(spec, ())
        return fault

    other = replace(VIDEO, encoder="motionformer")
    assert only(VIDEO, spec_of(other)) == "it is video by motionformer"
    assert only(TEXT, spec_of(VIDEO)) == "it is video by orvit-hr"
    assert "random; --allow-random orvit-hr takes" in only(VIDEO, spec_of(VIDEO, state="random"))
    assert "pretrained, and the row is of random" in only(replace(TEXT, is_random=True), spec_of(TEXT))
    assert only(replace(VIDEO, levels=("patch",)), spec_of(VIDEO)) == "it has no level patch, but frame"
    assert only(VIDEO, spec_of(VIDEO, boxes=None)) == "it was extracted without object boxes"
    assert only(VIDEO, spec_of(VIDEO, sampling={"task": "anticipation", "rule": "strict"})) == (
        "it was extracted for anticipation, not recognition"
    )
    inavit = {"task": "anticipation", "rule": "inavit"}
    assert only(AHEAD, spec_of(AHEAD, sampling=inavit)) == "its sampling.rule is inavit, not strict"
    generic = QuestionsProvenance(protocol="generic")
    assert only(TEXT, spec_of(TEXT, questions=generic)) == "its questions are generic, not oracle"
    assert only(VIDEO, spec_of(VIDEO, encoder=None)) == "it is video by unknown"


def test_random_weights_are_taken_where_the_encoder_is_named():
    spec = spec_of(VIDEO, state="random")
    assert VIDEO.faults(spec, ("orvit-hr",)) == []
    assert VIDEO.faults(spec, ("orvit",)) != []


def test_stores_are_found_in_folders_and_halves_belong_together(tmp_path):
    both = ("train", "validation")
    halves = [make_store(tmp_path / f"{half}.zarr", VIDEO, splits=(half,)) for half in both]
    text = make_store(tmp_path / "text.zarr", TEXT)
    found = find([tmp_path], [VIDEO, TEXT], ())
    assert found.fitting(VIDEO) == tuple(halves)
    assert found.fitting(TEXT) == (text,)
    assert found.fitting(AHEAD) == ()
    (tmp_path / "train.zarr" / "manifest.json").unlink()
    again = find([tmp_path], [VIDEO], ())
    assert again.fitting(VIDEO) == (halves[1],)
    assert again.why_not(AHEAD) == [f"{halves[0]}: is not finished; the command that made it goes on with it"]


def test_two_stores_of_different_recipes_leave_the_choice_to_the_user(tmp_path):
    make_store(tmp_path / "a.zarr", VIDEO)
    make_store(tmp_path / "b.zarr", VIDEO, encoder=EncoderIdentity(name="orvit-hr", sha256="b" * 64))
    with pytest.raises(UsageError, match=r"a\.zarr, .*b\.zarr: each is video by orvit-hr.*--stores"):
        find([tmp_path], [VIDEO], ()).fitting(VIDEO)
    assert find([tmp_path / "b.zarr"], [VIDEO], ()).fitting(VIDEO) == (tmp_path / "b.zarr",)


def test_a_store_that_no_row_reads_is_refused_where_it_is_named_itself(tmp_path):
    path = make_store(tmp_path / "a.zarr", replace(VIDEO, encoder="motionformer"))
    assert find([tmp_path], [VIDEO], ()).fitting(VIDEO) == ()
    with pytest.raises(UsageError, match="no row of this table reads it\n  not video by orvit-hr"):
        find([path], [VIDEO, TEXT], ())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="is no feature store and holds none"):
        find([tmp_path / "empty"], [VIDEO], ())


@pytest.mark.parametrize("inputs", ["matched", "released"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_command_of_a_plan_is_one_and_makes_a_store_that_fits(number, inputs):
    wanted = table(number, inputs).wanted
    shown = commands(wanted)
    assert [(line, fault) for line in shown if (fault := fault_of_call(line, True))] == []
    assert len(shown) == len(set(shown))
    made = [line for line in shown if line.startswith("mambavl extract")]
    outs = [line.split("--out ")[1].split()[0] for line in made]
    assert len(outs) == len(set(outs))
    for one in wanted:
        [command] = [line for line in made if f"--out stores/{one.name}.zarr" in line]
        assert f"--encoder {one.encoder} " in command
        assert ("--weights random" in command) == one.is_random
        assert all(
            level.rpartition("/")[2] in command or level.endswith("last_hidden") for level in one.levels
        )
        assert ("boxes=hoa" in command) == one.boxes
        assert ("--task anticipation" in command) == (one.task == "anticipation" and one.kind == "video")


def test_predicted_questions_are_made_from_scores_of_the_windows_that_were_seen():
    """Train rows by heads that never saw their kitchens, validation by one that saw all of train."""
    [generate] = [line for line in commands(table(2, "matched").wanted) if "questions generate" in line]
    assert "--protocol predicted --out questions-predicted.jsonl --scores runs/seen/scores/valid" in generate
    assert generate.count("--train-from") == 5
    before = "\n".join(commands(table(2, "released").wanted)).partition("mambavl questions")[0]
    assert "--encoder avion-vit-b" in before
    assert "sampling.rule=strict" in before  # what a recogniser sees is before the action in any case
    assert before.count("data.hold_out=") == 5
