"""Own encoders: somebody's module on their path becomes an encoder of the job, and what is wrong with it is
said by name.
"""

import hashlib

import pytest
import torch

from helpers.dataset import make_dataset
from helpers.own import GOOD, PLAIN, WORDS, failing, notes
from mambavl.cache import open_store
from mambavl.configs.errors import UsageError
from mambavl.extract import MASK
from mambavl.extract.annotations import read_annotations
from mambavl.extract.encoders import registry
from mambavl.extract.encoders.conformance import check_encoder
from mambavl.extract.encoders.levels import video_levels
from mambavl.extract.encoders.weights import weights_sha256
from mambavl.extract.options import TextExtraction, VideoExtraction
from mambavl.extract.questions import generate, write_questions
from mambavl.extract.text_job import extract_text
from mambavl.extract.video_job import extract_video


def test_three_methods_are_enough_and_the_rest_is_found_out(module):
    encoder = registry.build(f"{module(GOOD)}:build")
    assert (encoder.name, encoder.state, encoder.width, encoder.prefix_tokens) == (
        "stranger:build",
        "pretrained",
        8,
        1,
    )
    assert encoder.sha256 == weights_sha256(encoder.encoder)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(part.training for part in encoder.modules())
    video = torch.randn(2, 3, 4, 32, 32)
    levels = video_levels(encoder, video, ("clip", "frame", "grid", "patch"), 2)
    assert {name: tuple(value.shape) for name, value in levels.items()} == {
        "clip": (2, 8),
        "frame": (2, 2, 8),
        "grid": (2, 2, 2, 2, 8),
        "patch": (2, 32, 8),
    }
    torch.testing.assert_close(levels["patch"], encoder.encoder.tokens(video)[:, 1:])
    torch.testing.assert_close(levels["clip"], encoder.pooled(video))


def test_weights_and_image_size_reach_the_function_only_where_they_are_given(module, tmp_path):
    name = f"{module(GOOD)}:build"
    first = registry.build(name)
    state = {key: value + 1 for key, value in first.encoder.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    loaded = registry.build(name, weights=str(tmp_path / "w.pth"), image_size=16)
    assert torch.equal(loaded.encoder.first, first.encoder.first + 1)
    assert loaded.sha256 != first.sha256
    assert loaded.pixels.image_size == 16
    assert registry.build(f"{module(PLAIN, 'plain')}:build").width == 3
    with pytest.raises(
        UsageError, match=r"plain:build: cannot be called as build\(weights=\): got an unexpected keyword"
    ):
        registry.build("plain:build", weights="w.pth")


def test_an_object_that_is_no_module_names_its_weights_itself(module):
    encoder = registry.build(f"{module(PLAIN)}:build")
    assert (encoder.sha256, encoder.state, encoder.prefix_tokens) == ("0" * 64, None, 0)
    assert encoder.details["own"] == {"cells": [2, 2]}
    assert failing("stranger:build") == {}
    assert "weights_state=" in notes("stranger:build")["identity"]
    assert "image_size=" in notes("stranger:build")["image_size"]


def test_random_weights_are_random_whatever_is_not_said(module):
    quiet = GOOD.replace('    state = "pretrained"\n', "").replace(
        "    if weights:", "    if weights != 'random':"
    )
    assert registry.build(f"{module(quiet)}:build", weights="random").state == "random"
    with pytest.raises(UsageError, match="asked for random weights and calls its state 'pretrained'"):
        registry.build(f"{module(GOOD.replace('if weights:', 'if False:'))}:build", weights="random")


def test_words_of_ones_own(module):
    encoder = registry.build(f"{module(WORDS)}:build")
    assert (encoder.width, encoder.state, encoder.kind) == (6, "random", "text")
    ids = [encoder.tokenize(text) for text in ("cut the cup", "", f"{MASK} it")]
    assert [len(tokens) for tokens in ids] == [3, 0, 2]
    assert [tuple(state.shape) for state in encoder.encode(ids, ("last_hidden",))["last_hidden"]] == [
        (3, 6),
        (0, 6),
        (2, 6),
    ]
    with pytest.raises(UsageError, match="gave 0 texts at level pooled for 2; it has last_hidden"):
        encoder.encode(ids, ("pooled",))
    assert {finding.verdict for finding in check_encoder("stranger:build")} == {"ok"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"))


def extract(dataset, out, name, **changes):
    options = {"encoder": name, "levels": ["grid"], "grid": 2, "sampling": {"frames": 4}, **changes}
    annotations = read_annotations(dataset / "annotations")
    return extract_video(annotations, dataset / "videos", out, VideoExtraction.model_validate(options))


def test_a_store_of_an_own_encoder_names_its_code_and_is_not_resumed_with_other_code(
    module, dataset, tmp_path
):
    name, out = f"{module(GOOD)}:build", tmp_path / "v.zarr"
    assert extract(dataset, out, name).finalized
    store = open_store(out)
    identity = store.spec.recipe.encoder
    source = hashlib.sha256((tmp_path / "stranger.py").read_bytes()).hexdigest()
    assert identity.name == name
    assert identity.details == {"function": name, "source_sha256": {"stranger": source}}
    assert identity.state == "pretrained"
    assert store.batch([0], "grid")[0].shape == (1, 2 * 2 * 2, 8)
    assert extract(dataset, out, name).rows == 0  # all done, the same code
    module(GOOD + "# edited\n")
    with pytest.raises(UsageError, match=r"recipe\.encoder\.details\.source_sha256\.stranger"):
        extract(dataset, out, name)


def test_extraction_asks_for_the_state_that_an_encoder_does_not_say(module, dataset, tmp_path):
    name = f"{module(PLAIN)}:build"
    with pytest.raises(
        UsageError, match=r"does not say .*--set weights_state=pretrained\|ek100-finetuned\|random"
    ):
        extract(dataset, tmp_path / "v.zarr", name)
    assert extract(dataset, tmp_path / "v.zarr", name, weights_state="random").finalized
    assert open_store(tmp_path / "v.zarr").spec.recipe.encoder.state == "random"


def test_an_encoder_of_the_other_kind_is_sent_to_its_command(module, dataset, tmp_path):
    annotations, questions = read_annotations(dataset / "annotations"), tmp_path / "q.jsonl"
    write_questions(questions, generate(annotations, "oracle"))
    words, tubelets = module(WORDS, "words"), module(GOOD)
    with pytest.raises(UsageError, match=r"words:build reads text; use `mambavl extract text`"):
        extract(dataset, tmp_path / "v.zarr", f"{words}:build")
    with pytest.raises(UsageError, match=r"stranger:build reads video; use `mambavl extract video`"):
        extract_text(annotations, questions, tmp_path / "t.zarr", TextExtraction(encoder=f"{tubelets}:build"))
    assert extract_text(
        annotations, questions, tmp_path / "t.zarr", TextExtraction(encoder=f"{words}:build")
    ).finalized
    store = open_store(tmp_path / "t.zarr")
    assert "words" in store.spec.recipe.encoder.details["source_sha256"]
