"""The text job: both questions of every row, as tokens of their own length."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.jobs import make_roberta, text_run
from mambavl.cache import open_store
from mambavl.cache.rows import STATUS
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.annotations import read_annotations
from mambavl.extract.encoders import registry
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
