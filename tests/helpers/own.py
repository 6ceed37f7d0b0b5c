"""Encoders as other people write them, as source: `GOOD` of video, `PLAIN` that is not an nn.Module, `WORDS`
of text; and what the conformance test says of one.
"""

from mambavl.extract.encoders.conformance import check_encoder

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
        return [1 if word == "<mask>" else 2 + sum(map(ord, word)) % 998 for word in text.replace("?",
        "").split()]

    def encode(self, ids, levels):
        return {"last_hidden": [self.table(torch.tensor(tokens)) for tokens in ids]}


def build():
    return Words()
"""

TOKENS = "        patches = self.patch(video).flatten(2).transpose(1, 2)\n"

GRID = "        return frames // 2, height // 8, width // 8\n"


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
