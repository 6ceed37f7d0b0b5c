"""Own encoders: somebody's module on their path becomes an encoder of the job, and what is wrong with it is
said by name.
"""

import hashlib
import re
import sys

import pytest
import torch

from helpers.cli import call
from helpers.dataset import make_dataset
from helpers.jobs import make_roberta
from mambavl.cache import open_store
from mambavl.configs.errors import UsageError
from mambavl.extract.annotations import read_annotations
from mambavl.extract.encoders import registry
from mambavl.extract.encoders.conformance import check_encoder
from mambavl.extract.encoders.levels import video_levels
from mambavl.extract.encoders.text import MASK
from mambavl.extract.encoders.weights import weights_sha256
from mambavl.extract.options import TextExtraction, VideoExtraction
from mambavl.extract.questions import generate, write_questions
from mambavl.extract.text_job import extract_text
from mambavl.extract.video_job import extract_video

GOOD = """
import torch
from torch import nn
from mambavl.extract.encoders import Pixels


class Tubelets(nn.Module):
    state = "pretrained"

    def __init__(self, image_size):
        super().__init__()
        self.pixels = Pixels(image_size, (0.5,) * 3, (0.5,) * 3)
        self.patch = nn.Conv3d(3, 8, (2, 8, 8), stride=(2, 8, 8))
        self.first = nn.Parameter(torch.ones(8))

    def token_grid(self, video_shape):
        frames, height, width = video_shape
        return frames // 2, height // 8, width // 8

    def tokens(self, video):
        patches = self.patch(video).flatten(2).transpose(1, 2)
        return torch.cat([self.first.expand(len(video), 1, -1), patches], 1)

    def pool(self, tokens):
        return tokens[:, 1:].mean(1)


def build(weights=None, image_size=32):
    model = Tubelets(image_size)
    if weights:
        model.load_state_dict(torch.load(weights))
    return model
"""

PLAIN = '''
import torch
from mambavl.extract.encoders import Pixels


class Colours:
    """No nn.Module: the mean colour of every quarter of a frame."""

    pixels = Pixels(32, (0.0,) * 3, (1.0,) * 3)
    sha256 = "0" * 64
    frames = 4
    details = {"cells": [2, 2]}

    def token_grid(self, video_shape):
        return video_shape[0], 2, 2

    def tokens(self, video):
        cells = torch.nn.functional.adaptive_avg_pool3d(video, (video.shape[2], 2, 2))
        return cells.flatten(2).transpose(1, 2)

    def pool(self, tokens):
        return tokens.mean(1)


def build():
    return Colours()
'''

WORDS = """
import torch
from torch import nn

WORDS = ["<pad>", "<mask>"]


class Words(nn.Module):
    state = "random"

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(1000, 6)

    def tokenize(self, text):
        return [1 if word == "<mask>" else 2 + sum(map(ord, word)) % 998 for word in text.replace("?", "").split()]

    def encode(self, ids, levels):
        return {"last_hidden": [self.table(torch.tensor(tokens)) for tokens in ids]}


def build():
    return Words()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """module(source) writes the source as a module of the working folder, as a stranger has it; gives its
    name.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    written = []

    def write(source: str, name: str = "stranger") -> str:
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        for loaded in [key for key in sys.modules if key.partition(".")[0] == name.partition(".")[0]]:
            monkeypatch.delitem(sys.modules, loaded)  # as a new process would find it
        written.append(name)
        return name

    yield write
    for loaded in [
        key for key in sys.modules if key.partition(".")[0] in {name.partition(".")[0] for name in written}
    ]:
        del sys.modules[loaded]


def failing(name: str, **options) -> dict[str, str]:
    return {
        finding.name: finding.text
        for finding in check_encoder(name, **options)
        if finding.verdict == "failed"
    }


def notes(name: str, **options) -> dict[str, str]:
    return {
        finding.name: finding.text for finding in check_encoder(name, **options) if finding.verdict == "note"
    }


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
        "clip": (2, 8), "frame": (2, 2, 8), "grid": (2, 2, 2, 2, 8), "patch": (2, 32, 8)
    }  # fmt: skip
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


def test_the_code_is_named_by_the_files_of_the_function_and_of_the_class(module):
    module("", "theirs.__init__")
    module(GOOD, "theirs.model")
    (
        module(
            "from theirs.model import Tubelets\n\n\ndef build():\n    return Tubelets(32)\n", "theirs.adapter"
        )
    )
    details = registry.build("theirs.adapter:build").details
    assert details["function"] == "theirs.adapter:build"
    assert sorted(details["source_sha256"]) == ["theirs.adapter", "theirs.model"]
    assert registry.build("theirs.model:Tubelets", image_size=16).width == 8  # a class is a function, too


def test_names_lead_to_a_function_or_to_what_to_type_next(module):
    assert registry.kind_of("no_such_module:build") is None
    assert [registry.is_own(name) for name in ("a.b:c", "timm:x", "hf:y", "minilm", "a:b/c", "a:")] == [
        True
    ] + [False] * 5
    module(GOOD)
    refused = {
        "nowhere:build": r"no module 'nowhere' in .*; run the command from the folder",
        "stranger.inner:build": r"no module 'stranger\.inner'",
        "stranger:biuld": r"no function 'biuld' in .*stranger\.py; did you mean `build`\?",
        "stranger:__name__": r"'__name__' is not a function",
        f"{module('import no_such_package', 'needs')}:build": r"importing needs failed: ModuleNotFoundError: .*needs\.py:1\)",
        f"{module('import sys' + chr(10) + 'sys.exit(0)', 'leaves')}:build": r"importing leaves failed: SystemExit: 0 .*py:2\)",
        f"{module('def build(:', 'wrong')}:build": "importing wrong failed: SyntaxError",
        f"{module('def build(): return 1 / 0', 'raises')}:build": r"build\(\) failed: ZeroDivisionError: .*raises\.py:1\)",
        f"{module('def build(): return 7', 'seven')}:build": "returned int, which is not an encoder",
        f"{module('def build(path): return 7', 'asks')}:build": r"cannot be called as build\(\): missing a required argument",
        "stranger:build/x": "there is no encoder",
    }
    for name, message in refused.items():
        with pytest.raises(UsageError, match=message):
            registry.build(name)


def test_a_source_that_was_edited_under_a_running_process_is_refused(module, tmp_path):
    registry.build(f"{module(GOOD)}:build")
    (tmp_path / "stranger.py").write_text(GOOD + "\n# edited")
    with pytest.raises(
        UsageError, match=r"stranger\.py was edited after it was imported; start a new process"
    ):
        registry.build("stranger:build")


def test_a_good_encoder_passes_every_trial(module):
    findings = list(check_encoder(f"{module(GOOD)}:build", frames=4))
    assert {finding.verdict for finding in findings} == {"ok"}, findings
    assert [finding.name for finding in findings] == [
        "tokens", "frames", "dtype", "finite", "pool", "frozen", "repeatable", "input", "batch", "rows", "order", "image_size",
        "identity", "device",
    ]  # fmt: skip


TOKENS = "        patches = self.patch(video).flatten(2).transpose(1, 2)\n"
RETURN = "        return torch.cat([self.first.expand(len(video), 1, -1), patches], 1)\n"
GRID = "        return frames // 2, height // 8, width // 8\n"
BUILD = "    model = Tubelets(image_size)\n"


def then(code: str) -> dict[str, str]:
    """The good encoder with a line after its patches were made."""
    return {TOKENS: f"{TOKENS}        {code}\n"}


def built(code: str) -> dict[str, str]:
    """The good encoder with lines after it was built."""
    return {BUILD: BUILD + "".join(f"    {line}\n" for line in code.split("; "))}


BROKEN = {
    # what replaces what, the trial that must fail, what it says
    "a grid that forgets time": ({GRID: GRID.replace("frames // 2", "1")}, "build", "more tokens than token_grid"),
    "a grid with too many cells": ({GRID: GRID.replace("frames // 2", "frames")}, "build", "129 tokens, but token_grid"),
    "a grid for 16 frames only": ({GRID: GRID.replace("frames // 2", "8")}, "tokens", "by its token_grid"),
    "fewer tokens": (then("patches = patches[:, :16]"), "build", "17 tokens, but token_grid"),
    "maps in place of tokens": ({RETURN: "        return self.patch(video)\n"}, "build", r"tokens\(\) gave torch.float32 \(1, 8"),
    "whole numbers": ({"patches], 1)": "patches], 1).long()"}, "dtype", "torch.int64"),
    "not a number": (then("patches = patches / (video.abs().sum() > 0)"), "finite", "of a black clip"),
    "a vector too wide": ({"tokens[:, 1:].mean(1)": "tokens[:, :2].flatten(1)"}, "pool", r"pool\(\) gave .*\(2, 16\)"),
    "a vector for all": (
        {"tokens[:, 1:].mean(1)": "tokens.mean((0, 1)).expand(len(tokens), -1)"}, "pool", "depends on its neighbours",
    ),
    "dropout": (then("patches = nn.functional.dropout(patches, 0.1)"), "repeatable", "dropout or noise"),
    "a counter": (then("self.n = getattr(self, 'n', 0) + 1; patches = patches + self.n"), "repeatable", "keeps a state"),
    "hidden parameters": (
        built("model.hidden = [nn.Parameter(torch.ones(8))]") | then("patches = patches * self.hidden[0]"),
        "frozen", "carry gradients",
    ),
    "gradients wanted": (
        then("torch.autograd.grad(self.patch(video.clone().requires_grad_()).sum(), video)"), "build", "failed on a black clip",
    ),
    "pixels changed in place": (then("video.mul_(2)"), "input", "in place"),
    "a norm over the batch": (then("patches = patches - patches.mean(0)"), "batch", "rows leak into each other"),
    "one brightness for all": (then("patches = patches + video.sum()"), "rows", "changing one clip changes"),
    "time backwards": (then("patches = patches.flip(1)"), "order", "the last time step did not"),
    "space before time": (
        then("patches = self.patch(video).transpose(2, 4).flatten(2).transpose(1, 2)"), "order", "in some cells only",
    ),
    "a size taken and ignored": (
        {BUILD: "    model = Tubelets(32)\n"}, "image_size", "given image_size=16 and its pixels say 32",
    ),
    "weights drawn from elsewhere": (
        built("import os; model.first.data += int.from_bytes(os.urandom(4))"), "identity", "two builds call themselves",
    ),
    "numbers beside the weights": (
        built("import os; model.shift = int.from_bytes(os.urandom(4))") | then("patches = patches + self.shift"),
        "identity", "no state dict holds",
    ),
    "an unknown state": ({'state = "pretrained"': 'state = "trained"'}, "build", "its state is 'trained'"),
    "frames that are no number": ({'state = "pretrained"': "frames = None"}, "build", "`frames` is a number of frames"),
    "leading tokens not there": ({'state = "pretrained"': "prefix_tokens = 0"}, "build", "129 tokens, but prefix_tokens = 0"),
    "details that are no JSON": ({'state = "pretrained"': "details = {1j}"}, "build", "`details` is not a JSON"),
    "no module and no sha256": (
        {"(nn.Module)": "", "super().__init__()": "pass"}, "build", "is not an nn.Module, so its weights cannot be hashed",
    ),
    "a module without tensors": (
        {TOKENS: TOKENS.replace("self.patch", "self.patch[0]"), "self.first.exp": "torch.ones(8).exp",
         "nn.Conv3d(3, 8, (2, 8, 8), stride=(2, 8, 8))": "[nn.Conv3d(3, 8, (2, 8, 8), stride=(2, 8, 8))]",
         "        self.first = nn.Parameter(torch.ones(8))\n": ""}, "build", "is an nn.Module without tensors",
    ),
    "pixels of its own kind": ({"Pixels(image_size, (0.5,) * 3, (0.5,) * 3)": "image_size"}, "build", "attribute `pixels` is 32"),
    "pixels that cannot be": ({"(0.5,) * 3)": "(0.0,) * 3)"}, "build", "std above 0"),
    "a device that it cannot go to": (built("model._apply = None"), "device", "TypeError"),
}  # fmt: skip


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


def test_a_batch_that_moves_the_last_digits_is_a_note_and_one_length_alone_too(module):
    source = GOOD.replace(TOKENS, TOKENS + "        patches = patches * (1 + 1e-5 * len(video))\n")
    name = (
        f"{module(source.replace(GRID, '        assert frames in (4, 16), frames' + chr(10) + GRID))}:build"
    )
    assert failing(name, frames=4) == {}
    assert list(notes(name, frames=4)) == ["frames", "batch"]
    assert "differ by 1.0e-05" in notes(name, frames=4)["batch"]


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


LOOKUP = "[self.table(torch.tensor(tokens)) for tokens in ids]"
BROKEN_WORDS = {
    "a mask of three tokens": (
        {'1 if word == "<mask>" else ': "", ".split()": ".replace('<', ' < ').replace('>', ' > ').split()"}, "mask", "one token",
    ),
    "a mask like any word": ({"1 if word": "2 + ord('t') + ord('h') + ord('e') if word"}, "mask", "one token"),
    "padding that counts": ({LOOKUP: "[self.table(torch.tensor(t)) + max(map(len, ids)) for t in ids]"}, "batch", "leak"),
    "no number": ({LOOKUP: LOOKUP.replace("tokens))", "tokens)) / float(len(ids) > 1 and 'nan' or 1)")}, "finite", "NaN"),
    "noise": ({LOOKUP: LOOKUP.replace("tokens))", "tokens)) + torch.rand(1)")}, "repeatable", "second time"),
    "one vector a text": ({LOOKUP: LOOKUP.replace("tokens))", "tokens)).mean(0)")}, "build", "gives a tensor"),
    "a token too many": ({LOOKUP: LOOKUP.replace("tensor(tokens)", "tensor([*tokens, 0])")}, "tokens", "of 3 tokens is"),
    "ids that are a tensor": ({"return [1 if": "return torch.tensor([1 if", "split()]": "split()])"}, "build", "list of ints"),
    "lists that it changes": ({"        return {": "        [t.reverse() for t in ids if len(ids) > 1]\n        return {"},
                              "input", "lists it is given"),
}  # fmt: skip


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
