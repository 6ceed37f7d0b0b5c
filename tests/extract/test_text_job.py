"""The text job: both questions of every row, as tokens of their own length."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.jobs import make_roberta, text_run, tree
from mambavl.cache import open_store
from mambavl.cache.rows import STATUS
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.extract.annotations import read_annotations
from mambavl.extract.encoders import registry
from mambavl.extract.encoders.text import TransformersTextEncoder
from mambavl.extract.questions import generate, write_questions


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    """A tiny RoBERTa with a tokenizer trained on the spot, saved as any local folder would be."""
    return make_roberta(tmp_path_factory.mktemp("roberta"))


def test_unmasked_questions_are_not_encoded_unless_asked_for(dataset, tmp_path, text_model):
    questions = tmp_path / "q.jsonl"
    write_questions(questions, generate(read_annotations(dataset / "annotations"), "oracle", masked=False))
    with pytest.raises(UsageError, match=r"say their answers \(backend template-unmasked\)"):
        text_run(dataset, tmp_path / "t.zarr", text_model, questions)
    text_run(dataset, tmp_path / "t.zarr", text_model, questions, allow_unmasked=True)
    assert open_store(tmp_path / "t.zarr").spec.recipe.questions.backend == "template-unmasked"


@pytest.mark.parametrize("protocol", ["oracle", "generic", "none"])
def test_questions_become_tokens_of_their_own_length(dataset, tmp_path, text_model, protocol):
    questions = tmp_path / "q.jsonl"
    write_questions(questions, generate(read_annotations(dataset / "annotations"), protocol))
    text_run(
        dataset,
        tmp_path / "t.zarr",
        text_model,
        questions,
        levels=["last_hidden", "embedding_layer", "pooled"],
        dtype="float32",
    )
    store = open_store(tmp_path / "t.zarr")
    assert store.spec.recipe.questions.protocol == protocol
    encoder = registry.build("hf:tiny", weights=str(text_model))
    lines = [json.loads(line) for line in questions.read_text().splitlines()]
    asked = {line["narration_id"]: line for line in lines}
    for question in ("verb_question", "noun_question"):
        for row in (0, 9, 19):
            ids = encoder.tokenize(asked[store.segments[row].narration_id][question])
            assert (protocol == "none") == (not ids)
            for level in ("last_hidden", "embedding_layer", "pooled"):
                tokens, lengths = store.batch([row], f"{question}/{level}")
                expected = encoder.encode([ids], (level,))[level][0]
                assert lengths.tolist() == [len(expected)]
                torch.testing.assert_close(tokens[0, : lengths[0]], expected, rtol=1e-4, atol=1e-5)


LEVELS = ("last_hidden", "embedding_layer", "pooled")
SETTINGS = {"levels": LEVELS, "dtype": "float32", "batch_texts": 4, "rows_per_group": 4}


@pytest.fixture
def varied(dataset, tmp_path):
    """Questions of 20 rows, of different lengths: 11 of verbs, 3 of nouns and an empty one; to be encoded by
    fours.
    """
    asked = []
    for number, question in enumerate(generate(read_annotations(dataset / "annotations"), "oracle")):
        verb = "cut the cup " * (1 + number % 10) if number else ""
        asked.append(replace(question, verb_question=verb, noun_question="wash" * (1 + number % 3)))
    write_questions(tmp_path / "varied.jsonl", asked)
    return tmp_path / "varied.jsonl"


def test_each_text_is_encoded_once_in_batches_of_like_length(
    dataset, tmp_path, text_model, varied, monkeypatch
):
    """The numbers of calls and of padded tokens are those of a formula over the distinct texts."""
    padded, real = [], TransformersTextEncoder._padded

    def counted(self, ids):
        batch, mask = real(self, ids)
        padded.append(tuple(batch.shape))
        return batch, mask

    monkeypatch.setattr(TransformersTextEncoder, "_padded", counted)
    text_run(dataset, tmp_path / "t.zarr", text_model, varied, **SETTINGS)
    lines = [json.loads(line) for line in varied.read_text().splitlines()]
    texts = {line[key] for line in lines for key in ("verb_question", "noun_question")}
    encoder = registry.build("hf:tiny", weights=str(text_model))
    lengths = sorted(len(encoder.tokenize(text)) for text in texts)
    assert lengths[0] == 0
    expected = [lengths[first : first + 4] for first in range(0, len(lengths), 4)]
    expected[0] = expected[0][1:]  # the empty one is not run
    assert sorted(padded) == sorted((len(part), part[-1]) for part in expected)


def test_every_row_holds_what_its_texts_are_alone(dataset, tmp_path, text_model, varied):
    text_run(dataset, tmp_path / "t.zarr", text_model, varied, **SETTINGS)
    store, encoder = open_store(tmp_path / "t.zarr"), registry.build("hf:tiny", weights=str(text_model))
    asked = {line["narration_id"]: line for line in map(json.loads, varied.read_text().splitlines())}
    for question, level in itertools.product(("verb_question", "noun_question"), LEVELS):
        for row, segment in enumerate(store.segments):
            ids = encoder.tokenize(asked[segment.narration_id][question])
            (alone,) = encoder.encode([ids], (level,))[level]
            tokens, lengths = store.batch([row], f"{question}/{level}")
            assert lengths.tolist() == [len(alone)]
            torch.testing.assert_close(tokens[0, : len(alone)], alone, rtol=0, atol=1e-5)


def test_shares_stops_and_the_order_of_groups_do_not_move_a_bit(dataset, tmp_path, text_model, varied):
    def fill(name, **changes):
        return text_run(dataset, tmp_path / name, text_model, varied, **SETTINGS, **changes)

    assert fill("whole.zarr").finalized
    for name, order in (("forward.zarr", (0, 1, 2)), ("backward.zarr", (2, 1, 0))):
        done = [fill(name, shard=(share, 3)).finalized for share in order]
        assert done == [False, False, True]
    for stops in (1, 3, 5, 7):
        calls = itertools.count()
        with pytest.raises(Interrupted, match="resumes"):
            fill(f"stopped-{stops}.zarr", should_stop=lambda calls=calls, stops=stops: next(calls) >= stops)
        assert fill(f"stopped-{stops}.zarr").finalized
    whole = tree(tmp_path / "whole.zarr")
    for store in tmp_path.glob("*.zarr"):
        assert tree(store) == whole, store


def test_a_question_file_that_lacks_rows_is_refused(dataset, tmp_path, text_model):
    read = read_annotations(dataset / "annotations")
    write_questions(tmp_path / "q.jsonl", generate(read, "generic", read.segments[:15]))
    with pytest.raises(DataError, match=r"no question for 5 of 20 rows"):
        text_run(dataset, tmp_path / "t.zarr", text_model, tmp_path / "q.jsonl")


def rewritten(source: Path, target: Path, change) -> Path:
    """A copy of a model folder with its tensors changed."""
    shutil.copytree(source, target)
    save_file(
        change(load_file(source / "model.safetensors")),
        target / "model.safetensors",
        metadata={"format": "pt"},
    )
    return target


def test_text_features_that_are_not_finite_are_failures(dataset, tmp_path, text_model):
    name = "encoder.layer.1.output.LayerNorm.weight"
    # past float16's range
    broken = rewritten(text_model, tmp_path / "broken", lambda state: {**state, name: state[name] * 1e6})
    write_questions(tmp_path / "q.jsonl", generate(read_annotations(dataset / "annotations"), "generic"))
    summary = text_run(dataset, tmp_path / "t.zarr", broken, tmp_path / "q.jsonl")
    assert len(summary.failed) == 20
    assert {STATUS[status] for _, status, _ in summary.failed} == {"nonfinite_features"}


def test_a_text_model_that_lacks_tensors_is_refused_and_one_without_a_pooler_has_no_pooled_level(
    tmp_path, text_model
):
    def without(prefix):
        return lambda state: {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}

    with pytest.raises(UsageError, match=r"lacks \d+ of the model's tensors \(encoder\.layer\.1"):
        registry.build(
            "hf:tiny", weights=str(rewritten(text_model, tmp_path / "layer", without("encoder.layer.1.")))
        )
    encoder = registry.build(
        "hf:tiny", weights=str(rewritten(text_model, tmp_path / "pooler", without("pooler.")))
    )
    ids = [encoder.tokenize("cut the cup")]
    assert len(encoder.encode(ids, ("last_hidden",))["last_hidden"][0]) == len(ids[0])
    with pytest.raises(UsageError, match="no pooled output"):
        encoder.encode(ids, ("pooled",))
