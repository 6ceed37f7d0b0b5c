"""The conformance test: a good encoder passes every trial, and every broken promise is found by name."""

import re

import pytest

from helpers.cli import call
from helpers.jobs import make_roberta
from helpers.own import GOOD, GRID, TOKENS, WORDS, failing, notes
from mambavl.extract.encoders.conformance import check_encoder


def test_a_good_encoder_passes_every_trial(module):
    findings = list(check_encoder(f"{module(GOOD)}:build", frames=4))
    assert {finding.verdict for finding in findings} == {"ok"}, findings
    assert [finding.name for finding in findings] == [
        "tokens",
        "frames",
        "dtype",
        "finite",
        "pool",
        "frozen",
        "repeatable",
        "input",
        "batch",
        "rows",
        "order",
        "image_size",
        "identity",
        "device",
    ]


RETURN = "        return torch.cat([self.first.expand(len(video), 1, -1), patches], 1)\n"

BUILD = "    model = Tubelets(image_size)\n"


def then(code: str) -> dict[str, str]:
    """The good encoder with a line after its patches were made."""
    return {TOKENS: f"{TOKENS}        {code}\n"}


def built(code: str) -> dict[str, str]:
    """The good encoder with lines after it was built."""
    return {BUILD: BUILD + "".join(f"    {line}\n" for line in code.split("; "))}


BROKEN = {
    # what replaces what, the trial that must fail, what it says
    "a grid that forgets time": (
        {GRID: GRID.replace("frames // 2", "1")},
        "build",
        "more tokens than token_grid",
    ),
    "a grid with too many cells": (
        {GRID: GRID.replace("frames // 2", "frames")},
        "build",
        "129 tokens, but token_grid",
    ),
    "a grid for 16 frames only": ({GRID: GRID.replace("frames // 2", "8")}, "tokens", "by its token_grid"),
    "fewer tokens": (then("patches = patches[:, :16]"), "build", "17 tokens, but token_grid"),
    "maps in place of tokens": (
        {RETURN: "        return self.patch(video)\n"},
        "build",
        r"tokens\(\) gave torch.float32 \(1, 8",
    ),
    "whole numbers": ({"patches], 1)": "patches], 1).long()"}, "dtype", "torch.int64"),
    "not a number": (then("patches = patches / (video.abs().sum() > 0)"), "finite", "of a black clip"),
    "a vector too wide": (
        {"tokens[:, 1:].mean(1)": "tokens[:, :2].flatten(1)"},
        "pool",
        r"pool\(\) gave .*\(2, 16\)",
    ),
    "a vector for all": (
        {"tokens[:, 1:].mean(1)": "tokens.mean((0, 1)).expand(len(tokens), -1)"},
        "pool",
        "depends on its neighbours",
    ),
    "dropout": (then("patches = nn.functional.dropout(patches, 0.1)"), "repeatable", "dropout or noise"),
    "a counter": (
        then("self.n = getattr(self, 'n', 0) + 1; patches = patches + self.n"),
        "repeatable",
        "keeps a state",
    ),
    "hidden parameters": (
        built("model.hidden = [nn.Parameter(torch.ones(8))]") | then("patches = patches * self.hidden[0]"),
        "frozen",
        "carry gradients",
    ),
    "gradients wanted": (
        then("torch.autograd.grad(self.patch(video.clone().requires_grad_()).sum(), video)"),
        "build",
        "failed on a black clip",
    ),
    "pixels changed in place": (then("video.mul_(2)"), "input", "in place"),
    "a norm over the batch": (
        then("patches = patches - patches.mean(0)"),
        "batch",
        "rows leak into each other",
    ),
    "one brightness for all": (then("patches = patches + video.sum()"), "rows", "changing one clip changes"),
    "time backwards": (then("patches = patches.flip(1)"), "order", "the last time step did not"),
    "space before time": (
        then("patches = self.patch(video).transpose(2, 4).flatten(2).transpose(1, 2)"),
        "order",
        "in some cells only",
    ),
    "a size taken and ignored": (
        {BUILD: "    model = Tubelets(32)\n"},
        "image_size",
        "given image_size=16 and its pixels say 32",
    ),
    "weights drawn from elsewhere": (
        built("import os; model.first.data += int.from_bytes(os.urandom(4))"),
        "identity",
        "two builds call themselves",
    ),
    "numbers beside the weights": (
        built("import os; model.shift = int.from_bytes(os.urandom(4))")
        | then("patches = patches + self.shift"),
        "identity",
        "no state dict holds",
    ),
    "an unknown state": ({'state = "pretrained"': 'state = "trained"'}, "build", "its state is 'trained'"),
    "frames that are no number": (
        {'state = "pretrained"': "frames = None"},
        "build",
        "`frames` is a number of frames",
    ),
    "leading tokens not there": (
        {'state = "pretrained"': "prefix_tokens = 0"},
        "build",
        "129 tokens, but prefix_tokens = 0",
    ),
    "details that are no JSON": (
        {'state = "pretrained"': "details = {1j}"},
        "build",
        "`details` is not a JSON",
    ),
    "no module and no sha256": (
        {"(nn.Module)": "", "super().__init__()": "pass"},
        "build",
        "is not an nn.Module, so its weights cannot be hashed",
    ),
    "a module without tensors": (
        {
            TOKENS: TOKENS.replace("self.patch", "self.patch[0]"),
            "self.first.exp": "torch.ones(8).exp",
            "nn.Conv3d(3, 8, (2, 8, 8), stride=(2, 8, 8))": "[nn.Conv3d(3, 8, (2, 8, 8), stride=(2, 8, 8))]",
            "        self.first = nn.Parameter(torch.ones(8))\n": "",
        },
        "build",
        "is an nn.Module without tensors",
    ),
    "pixels of its own kind": (
        {"Pixels(image_size, (0.5,) * 3, (0.5,) * 3)": "image_size"},
        "build",
        "attribute `pixels` is 32",
    ),
    "pixels that cannot be": ({"(0.5,) * 3)": "(0.0,) * 3)"}, "build", "std above 0"),
    "a device that it cannot go to": (built("model._apply = None"), "device", "TypeError"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_every_broken_promise_is_found_by_name(module, fault):
    changes, trial, message = BROKEN[fault]
    source = GOOD
    for old, new in changes.items():
        assert old in source
        source = source.replace(old, new)
    found = failing(f"{module(source)}:build", frames=4)
    assert trial in found
    assert re.search(message, found[trial]), found[trial]


def causality(name: str, **options) -> dict[str, tuple[str, str]]:
    """Verdict and text of the two lines that `--causal` adds."""
    findings = check_encoder(name, frames=8, causal=True, **options)
    return {
        found.name: (found.verdict, found.text)
        for found in findings
        if found.name in ("streaming", "anticipation")
    }


def good_then(code: str) -> str:
    """The source of the good encoder with a line after its patches were made."""
    return GOOD.replace(TOKENS, then(code)[TOKENS])


MIXED = "patches = patches.unflatten(1, (-1, 16)); "  # (B, T', h w, D)
WITHIN_A_CLIP = {  # what is done to the patches of four steps, and what is said
    "nothing": ("pass", "ok", "none of 4 time steps depends on later frames"),
    "the past": (MIXED + "patches = patches.cumsum(1).flatten(1, 2)", "ok", "none of 4 time steps"),
    "all of the clip": (
        "patches = patches - patches.mean(1, True)",
        "note",
        "on all later frames of its clip",
    ),
    "the next step": (
        MIXED + "patches[:, :-1] += 1e-3 * patches[:, 1:]; patches = patches.flatten(1, 2)",
        "note",
        r"on the 1 after it \(of 4\)",
    ),
    "no step but the first": (
        MIXED + "patches[:, 1:] = patches[:, :1]; patches = patches.flatten(1, 2)",
        "note",
        "do not change time step 1 of 0 to 3",
    ),
}


@pytest.mark.parametrize("seen", WITHIN_A_CLIP)
def test_what_a_time_step_sees_of_its_clip_is_said_and_is_no_failure(module, seen):
    code, verdict, message = WITHIN_A_CLIP[seen]
    found = causality(f"{module(good_then(code))}:build")
    assert found["streaming"][0] == verdict
    assert re.search(f"^within a clip: .*{message}", found["streaming"][1]), found["streaming"][1]
    assert found["anticipation"][0] == "ok"
    assert "(levels clip, frame, patch)" in found["anticipation"][1]


def test_a_clip_of_one_step_has_nothing_to_stream(module):
    source = GOOD.replace("(2, 8, 8)", "(8, 8, 8)").replace("frames // 2", "frames // 8")
    verdict, text = causality(f"{module(source)}:build")["streaming"]
    assert verdict == "note"
    assert "are one step of time" in text


def test_later_pictures_that_come_in_through_the_batch_are_a_failure(module, capsys):
    name = f"{module(good_then('patches = patches - patches.mean(0)'))}:build"
    verdict, text = causality(name)["anticipation"]
    assert verdict == "failed"
    assert re.search(
        r"over a video file with other pictures after 4 s: level clip changed in a row that", text
    )
    assert call("encoders", "check", name, "--frames", 4, "--causal") == 1
    assert "failed anticipation: over a video file" in capsys.readouterr().out


def test_an_encoder_that_looks_at_nothing_proves_nothing(module):
    verdict, text = causality(f"{module(good_then('patches = patches * 0'))}:build")["anticipation"]
    assert verdict == "failed"
    assert text.endswith("nothing was found out")


def test_looking_ahead_within_a_clip_ends_with_exit_code_0_and_words_have_no_frames(module, capsys):
    name = f"{module(good_then('patches = patches - patches.mean(1, True)'))}:build"
    assert call("encoders", "check", name, "--frames", 4, "--causal") == 0
    said = capsys.readouterr().out
    assert "note   streaming: within a clip" in said
    assert "ok     anticipation: over a video file" in said
    assert said.endswith(f"{name}: can be extracted with\n")
    assert call("encoders", "check", name, "--frames", 4) == 0
    assert "streaming" not in capsys.readouterr().out
    assert call("encoders", "check", f"{module(WORDS, 'words')}:build", "--causal") == 2
    assert "reads text; --causal is about the frames of videos" in capsys.readouterr().err


def test_a_batch_that_moves_the_last_digits_is_a_note_and_one_length_alone_too(module):
    source = GOOD.replace(TOKENS, TOKENS + "        patches = patches * (1 + 1e-5 * len(video))\n")
    name = (
        f"{module(source.replace(GRID, '        assert frames in (4, 16), frames' + chr(10) + GRID))}:build"
    )
    assert failing(name, frames=4) == {}
    assert list(notes(name, frames=4)) == ["frames", "batch"]
    assert "differ by 1.0e-05" in notes(name, frames=4)["batch"]


LOOKUP = "[self.table(torch.tensor(tokens)) for tokens in ids]"

BROKEN_WORDS = {
    "a mask of three tokens": (
        {'1 if word == "<mask>" else ': "", ".split()": ".replace('<', ' < ').replace('>', ' > ').split()"},
        "mask",
        "one token",
    ),
    "a mask like any word": (
        {"1 if word": "2 + ord('t') + ord('h') + ord('e') if word"},
        "mask",
        "one token",
    ),
    "padding that counts": (
        {LOOKUP: "[self.table(torch.tensor(t)) + max(map(len, ids)) for t in ids]"},
        "batch",
        "leak",
    ),
    "no number": (
        {LOOKUP: LOOKUP.replace("tokens))", "tokens)) / float(len(ids) > 1 and 'nan' or 1)")},
        "finite",
        "NaN",
    ),
    "noise": ({LOOKUP: LOOKUP.replace("tokens))", "tokens)) + torch.rand(1)")}, "repeatable", "second time"),
    "one vector a text": (
        {LOOKUP: LOOKUP.replace("tokens))", "tokens)).mean(0)")},
        "build",
        "gives a tensor",
    ),
    "a token too many": (
        {LOOKUP: LOOKUP.replace("tensor(tokens)", "tensor([*tokens, 0])")},
        "tokens",
        "of 3 tokens is",
    ),
    "ids that are a tensor": (
        {"return [1 if": "return torch.tensor([1 if", "split()]": "split()])"},
        "build",
        "list of ints",
    ),
    "lists that it changes": (
        {"        return {": "        [t.reverse() for t in ids if len(ids) > 1]\n        return {"},
        "input",
        "lists it is given",
    ),
}


@pytest.mark.parametrize("fault", BROKEN_WORDS)
def test_every_broken_promise_about_words_is_found_by_name(module, fault):
    changes, trial, message = BROKEN_WORDS[fault]
    source = WORDS
    for old, new in changes.items():
        assert old in source
        source = source.replace(old, new)
    found = failing(f"{module(source)}:build")
    assert trial in found
    assert re.search(message, found[trial]), found[trial]


def test_encoders_of_this_package_pass_their_own_trials(tmp_path):
    assert failing("timm:test_resnet", weights="random", frames=2) == {}
    assert failing("hf:tiny", weights=str(make_roberta(tmp_path))) == {}


def test_the_command_prints_a_line_for_each_property_and_its_exit_code_tells(module, capsys):
    name = f"{module(GOOD)}:build"
    assert call("encoders", "check", name, "--frames", "4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ok     tokens: 1 + 2 x 4 x 4 tokens of 8 channels for 4 frames of 32 px"
    assert lines[-1] == f"{name}: can be extracted with"
    module(GOOD.replace(TOKENS, TOKENS + "        patches = patches.flip(1)\n"))
    assert call("encoders", "check", name, "--frames", "4") == 1
    assert "failed order: " in capsys.readouterr().out
    assert call("encoders", "check", "stranger:biuld") == 2
    assert "did you mean `build`?" in capsys.readouterr().err
    assert call("encoders", "list") == 0
    assert "MODULE:FUNCTION" in capsys.readouterr().out
