"""What an encoder is: the contract between whoever computes features and whoever stores them.

    Encoder          who it is: name, kind, width, and what a store's spec says of its weights
    VideoEncoder     clips (B, 3, T, H, W) -> tokens (B, P + T' h w, D)
    TextEncoder      questions -> token ids -> (L, D) each
    AudioEncoder     waveforms (n,) -> (L, D) each

B clips, T frames of H x W pixels, T' x h x w grid of tokens, P leading tokens that belong to no place (a
class token), D channels. Video tokens are ordered time, row, column, behind the P leading ones.

Stage one and the conformance test rely on what is written here and on nothing else. `own.py` says what
somebody else's encoder must have; it is completed to this contract.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from torch import Tensor, nn

from mambavl.configs.errors import UsageError

Kind = Literal["video", "text", "audio"]
WeightsState = Literal["pretrained", "ek100-finetuned", "random"]  # what they were trained on
Interpolation = Literal["bilinear", "bicubic", "nearest", "lanczos"]
TextLevel = Literal["last_hidden", "embedding_layer", "pooled"]
Shape = tuple[int, int, int]  # frames, height, width: of a video in pixels, or of its grid of tokens


@dataclass(frozen=True)
class Pixels:
    """What an encoder expects of its input. Frames are scaled to [0, 1], then (x - mean) / std."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    colour: Literal["RGB", "BGR"] = "RGB"
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        # written down by other people too, in code that no type checker has read
        size: object = self.image_size
        colour: str = self.colour
        interpolation: str = self.interpolation
        rules = get_args(Interpolation)
        if not isinstance(size, int) or size < 1:
            raise UsageError(f"Pixels: image_size is a number of pixels, not {size!r}")
        lengths = (len(self.mean), len(self.std))
        if lengths != (3, 3) or min(self.std) <= 0:
            raise UsageError(
                f"Pixels: mean and std are three numbers each, std above 0, not {self.mean} and {self.std}"
            )
        if colour not in ("RGB", "BGR") or interpolation not in rules:
            raise UsageError(
                f"Pixels: colour is RGB or BGR, interpolation one of {', '.join(rules)}; "
                f"not {colour}, {interpolation}"
            )


class Encoder(nn.Module):
    """A frozen model, and what a store's spec says of it."""

    kind: ClassVar[Kind]  # what it reads
    name: str  # what it is built by; `registry.build` knows it
    width: int  # D
    sha256: str  # of its weights, 64 hex digits; empty until they are loaded
    state: WeightsState | None  # None: nobody has said what the weights were trained on
    details: dict[str, Any]  # JSON: whatever else shapes its features

    def __init__(self) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.sha256 = ""
        self.state = None
        self.details = {}


class VideoEncoder(Encoder):
    """Clips to tokens. A subclass adds at least `pixels`, `token_grid`, `tokens` and `pool`."""

    kind = "video"
    pixels: Pixels
    prefix_tokens: int = 0  # P
    frames: int | None = None  # of the clips that it was made for; None: any number
    has_class_token: bool = False
    has_predictor: bool = False  # of what follows a clip
    box_slots: int = 0  # objects a frame whose boxes it reads; 0: it reads none

    def token_grid(self, video_shape: Shape) -> Shape:
        """(T', h, w) of the tokens of a video (T, H, W). Raises UsageError for a clip that it cannot take."""
        raise NotImplementedError

    def tokens(self, video: Tensor) -> Tensor:
        """video (B, 3, T, H, W), normalised -> (B, P + T' h w, D)."""
        raise NotImplementedError

    def tokens_with_boxes(self, video: Tensor, boxes: Tensor) -> Tensor:
        """As `tokens`, looking at boxes (B, T, O, 4) too. Raises UsageError where it reads none."""
        raise UsageError(f"encoder {self.name} reads no boxes")

    def pool(self, tokens: Tensor) -> Tensor:
        """What `tokens` gave -> (B, D): what the model's own classifier would read."""
        raise NotImplementedError

    def patch_tokens(self, tokens: Tensor) -> Tensor:
        """What `tokens` gave -> (B, T' h w, D), what is stored of the patches."""
        return tokens[:, self.prefix_tokens :]

    def class_token(self, tokens: Tensor) -> Tensor:
        """What `tokens` gave -> (B, D), what is stored of the class token. Raises UsageError where it has
        none.
        """
        if not self.has_class_token:
            raise UsageError(f"encoder {self.name} has no class token")
        return tokens[:, 0]

    def predicted(self, tokens: Tensor) -> Tensor:
        """What `tokens` gave -> (B, h w, D), the predicted tokens of one later time step. Raises UsageError
        where it predicts none.
        """
        raise UsageError(f"encoder {self.name} has no predictor")

    def pooled(self, video: Tensor) -> Tensor:
        """video (B, 3, T, H, W) -> (B, D)."""
        return self.pool(self.tokens(video))

    def grid_of(self, video: Tensor) -> Shape:
        """(T', h, w) of the tokens of a video (B, 3, T, H, W). Raises UsageError as `token_grid` does."""
        _, _, frames, height, width = video.shape
        return self.token_grid((frames, height, width))


class TextEncoder(Encoder):
    """Questions to tokens. An empty text has no tokens, and its features no rows."""

    kind = "text"

    def tokenize(self, text: str) -> list[int]:
        """Token ids with the model's own start and end, `<mask>` as one token; none for an empty text.

        Raises DataError past the model's limit: a question is never cut.
        """
        raise NotImplementedError

    def tokenize_all(self, texts: Sequence[str]) -> list[list[int]]:
        """`tokenize` of each; an encoder that is faster at many says so here."""
        return [self.tokenize(text) for text in texts]

    def encode(self, ids: list[list[int]], levels: tuple[TextLevel, ...]) -> dict[str, list[Tensor]]:
        """Tokenized texts -> by level, float32 on the CPU: (L_i, D) for each, (1, D) for `pooled`, (0, D) for
        an empty one. Each is encoded as if it stood alone. Raises UsageError for a level it does not have.
        """
        raise NotImplementedError


class AudioEncoder(Encoder):
    """Sound to steps of time."""

    kind = "audio"
    rate: int  # samples a second of the waveforms that it takes
    shortest: int  # samples; a waveform has at least as many

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[Tensor]:
        """Waveforms (n_i,) float32 at `rate` -> (L_i, D) float32 on the CPU, each as if it stood alone.

        Raises UsageError for a waveform that is too short.
        """
        raise NotImplementedError
