"""Released checkpoints as heads: every key and shape written out, and the numbers they stand for.

No released file is at hand: these are made up, of the keys that the released code's modules have.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from mambavl.configs.errors import UsageError
from mambavl.heads import convert, load

D, TEXT, VERBS, NOUNS, STATES = 24, 20, 5, 7, 16
RANK = math.ceil(D / 16)


def released(**other):
    """What a checkpoint holds of its head; other: tensors in place of these, None for none."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "txt_proj.0.weight": (D, TEXT),
        **{f"txt_proj.{i}.weight": (D, D) for i in (2, 4)},
        **{f"txt_proj.{i}.bias": (D,) for i in (2, 4)},
        "A_log": (2 * D, STATES),
        "head0.weight": (VERBS, D), "head0.bias": (VERBS,),
        "head1.weight": (NOUNS, D), "head1.bias": (NOUNS,),
    }  # fmt: skip
    for mamba in ("mamba_video", "mamba_text"):
        shapes |= {
            f"{mamba}.in_proj.weight": (4 * D, D),
            f"{mamba}.conv1d.weight": (2 * D, 1, 4),
            f"{mamba}.conv1d.bias": (2 * D,),
            f"{mamba}.x_proj.weight": (RANK + 2 * STATES, 2 * D),
            f"{mamba}.dt_proj.weight": (2 * D, RANK),
            f"{mamba}.dt_proj.bias": (2 * D,),
            f"{mamba}.D": (2 * D,),
            f"{mamba}.out_proj.weight": (D, 2 * D),
        }
    found = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()} | other
    return {name: tensor for name, tensor in found.items() if tensor is not None}


ENCODERS = {
    "orvit.blocks.0.attn.qkv.weight": torch.ones(3, 3),
    "text_model.embeddings.word_embeddings.weight": torch.ones(4, 2),
    "head.weight": torch.ones(2, 2),
}


def write(folder, state, around="model_state"):
    file = folder / "released.pyth"
    torch.save({around: state, "epoch": 99, "cfg": "a: 1"} if around else state, file)
    return file


def block(w, name, x):
    """A Mamba block of one row x (L, d), step by step; without its own A."""
    inner, gate = (x @ w[f"{name}.in_proj.weight"].T).chunk(2, -1)
    taps, before = w[f"{name}.conv1d.weight"][:, 0], F.pad(inner, (0, 0, 3, 0))
    u = sum(before[i : i + len(x)] * taps[:, i] for i in range(4)) + w[f"{name}.conv1d.bias"]
    u = F.silu(u)
    low, b, c = (u @ w[f"{name}.x_proj.weight"].T).split([RANK, STATES, STATES], -1)
    delta = F.softplus(low @ w[f"{name}.dt_proj.weight"].T + w[f"{name}.dt_proj.bias"])
    a, h, found = -torch.exp(w["A_log"]), torch.zeros(2 * D, STATES), []
    for t in range(len(x)):
        h = torch.exp(delta[t, :, None] * a) * h + delta[t, :, None] * b[t] * u[t, :, None]
        found.append(h @ c[t] + w[f"{name}.D"] * u[t])
    return (torch.stack(found) * F.silu(gate)) @ w[f"{name}.out_proj.weight"].T


def text(w, x):
    x = F.pad(x, (0, 0, 0, 40 - len(x)))
    x = (x @ w["txt_proj.0.weight"].T).relu()
    x = (x @ w["txt_proj.2.weight"].T + w["txt_proj.2.bias"]).relu()
    return x @ w["txt_proj.4.weight"].T + w["txt_proj.4.bias"]


@pytest.mark.usefixtures("forked_readers")
@pytest.mark.parametrize("around", ["model_state", ""])
@pytest.mark.parametrize("before", ["", "module."])
def test_a_released_checkpoint_computes_what_its_tensors_say(tmp_path, around, before):
    state = released()
    file = write(tmp_path, {before + name: one for name, one in {**ENCODERS, **state}.items()}, around)
    said = convert(file, tmp_path / "head.safetensors")
    assert said["tensors"] == len(state) == 26
    assert said["parameters"] == sum(tensor.numel() for tensor in state.values())
    assert said["tensors_left_out"] == 3
    head = load(tmp_path / "head.safetensors")
    assert not head.training
    video, verb, noun = torch.randn(9, D), torch.randn(6, TEXT), torch.randn(40, TEXT)
    given = {"video": video, "verb_question": verb, "noun_question": noun}
    found = head({name: (x[None], torch.tensor([len(x)])) for name, x in given.items()})
    for target, classifier, question in (("verb", "head0", verb), ("noun", "head1", noun)):
        pooled = block(state, "mamba_video", video).mean(0)
        pooled = pooled + block(state, "mamba_text", text(state, question)).mean(0)
        expected = state[f"{classifier}.weight"] @ pooled + state[f"{classifier}.bias"]
        torch.testing.assert_close(found[target][0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("forked_readers")
def test_of_orvit_every_video_token_goes_through_its_pre_logits(tmp_path):
    generator = torch.Generator().manual_seed(1)
    shapes = {"pre_logits.fc.weight": (D, D), "pre_logits.fc.bias": (D,)}
    state = released(**{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})
    said = convert(write(tmp_path, {**ENCODERS, **state}), tmp_path / "head.safetensors")
    assert (said["tensors"], said["tensors_left_out"]) == (28, 3)
    head = load(tmp_path / "head.safetensors")
    video, words = torch.randn(9, D), torch.randn(6, TEXT)
    given = {"video": video, "verb_question": words, "noun_question": words}
    found = head({name: (x[None], torch.tensor([len(x)])) for name, x in given.items()})["noun"][0]
    seen = torch.tanh(video @ state["pre_logits.fc.weight"].T + state["pre_logits.fc.bias"])
    pooled = block(state, "mamba_video", seen).mean(0)
    pooled = pooled + block(state, "mamba_text", text(state, words)).mean(0)
    expected = state["head1.weight"] @ pooled + state["head1.bias"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("forked_readers")
@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"mamba_text.D": None}, r"1 missing \(mamba_text.D\)"),
        ({"mamba_text.A_log": torch.ones(2 * D, STATES)}, r"1 not known \(mamba_text.A_log\)"),
        ({"A_log_text": torch.ones(2 * D, STATES)}, r"1 not known \(A_log_text\)"),
        ({"A_log": torch.ones(2 * D, 8)}, r"A_log \(48, 8\), expected \(48, 16\)"),
        ({"head1.bias": torch.ones(9)}, r"head1.bias \(9,\), expected \(7,\)"),
        ({"A_log": None}, "no matrix A_log"),
        ({"pre_logits.fc.weight": torch.ones(D, D)}, r"1 missing \(pre_logits.fc.bias\)"),
        ({"head0.weight": torch.ones(3)}, "no matrix head0.weight"),
        ({"head0.bias": torch.full((VERBS,), torch.nan)}, r"NaN or infinity in 1 tensors \(verb_head.bias\)"),
    ],
)
def test_what_is_not_exactly_such_a_head_is_refused_and_nothing_is_written(tmp_path, other, says):
    file = write(tmp_path, released(**other))
    with pytest.raises(UsageError, match=f"released.pyth: .*{says}"):
        convert(file, tmp_path / "head.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["released.pyth"]


@pytest.mark.usefixtures("forked_readers")
def test_a_file_that_is_there_and_another_ending_are_refused(tmp_path):
    file = write(tmp_path, released())
    with pytest.raises(UsageError, match=r"named \*\.safetensors"):
        convert(file, tmp_path / "head.pt")
    convert(file, tmp_path / "head.safetensors")
    with pytest.raises(UsageError, match="exists already"):
        convert(file, tmp_path / "head.safetensors")


@pytest.mark.usefixtures("forked_readers")
def test_a_converted_file_names_its_source_and_others_are_not_loaded(tmp_path):
    file, out = write(tmp_path, released()), tmp_path / "head.safetensors"
    said = convert(file, out)
    with safe_open(out, "pt") as opened:
        assert opened.metadata()["source_sha256"] == said["source_sha256"]
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="was not written by `mambavl heads convert`"):
        load(tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(out.read_bytes()[:100])
    for name in ("cut.safetensors", "none.safetensors"):
        with pytest.raises(UsageError, match=f"{name}: cannot be read"):
            load(tmp_path / name)
