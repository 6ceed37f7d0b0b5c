"""The frozen encoders: one record each, so that pixels, weights and widths cannot drift apart. `base.py` says
what an encoder is.

    mambavl encoders list                      what there is, what loads here
    build("efficientnet-lite0")                a video encoder: (B, 3, T, H, W) normalised pixels -> tokens
    build("timm:vit_small_patch16_224")        any timm image model, frame by frame
    build("audio:FOLDER")                      a transformers model of sound: waveforms -> steps of time
    build("minilm"), build("roberta-base")     a text encoder: questions -> tokens
    build("my_module:function")                your own, with the three methods of own.VideoMethods
    build("hf:FOLDER")                         a transformers model of text, images or video

B clips, T frames, h x w grid, D channels. Video tokens are ordered time, row, column, after `prefix_tokens`
leading ones.
"""

from mambavl.extract.encoders.base import Pixels
from mambavl.extract.encoders.published.table import from_published
from mambavl.extract.encoders.registry import build

__all__ = ["Pixels", "build", "from_published"]
