"""What is tried of a video encoder.

B clips, T frames, T' x h x w grid of tokens, P leading tokens, D channels.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders import own, own_source
from mambavl.extract.encoders.base import Encoder, Shape, VideoEncoder
from mambavl.extract.encoders.trials import FIRST, LEAK, SAME, Fault, Trials, Verdict, relative_difference


class VideoTrials(Trials[VideoEncoder]):
    """A row is a clip, its features the tokens (P + T' h w, D)."""

    row = "clip"

    def __init__(self, encoder: VideoEncoder, build: Callable[..., Encoder], frames: int) -> None:
        super().__init__(encoder, build)
        self.frames = frames
        self.size = encoder.pixels.image_size
        self.video = self.clips(2, frames)
        self.properties = {
            FIRST: self.shapes,
            "frames": self.other_frames,
            "dtype": self.dtype,
            "finite": self.finite,
            "pool": self.pool,
            "frozen": self.frozen,
            "repeatable": self.repeatable,
            "input": self.input_kept,
            "batch": self.batch,
            "rows": self.rows,
            "order": self.order,
            "image_size": self.image_size,
            "identity": self.identity,
            "device": self.device,
        }

    def clips(self, count: int, frames: int, size: int | None = None, seed: int = 0) -> Tensor:
        """Random clips (count, 3, frames, size, size)."""
        size = size or self.size
        return torch.randn(count, 3, frames, size, size, generator=torch.Generator().manual_seed(seed))

    def run(self, encoder: VideoEncoder) -> list[Tensor]:
        return list(self.tokens_of(self.video, encoder))

    @torch.inference_mode()
    def tokens_of(self, video: Tensor, encoder: VideoEncoder | None = None) -> Tensor:
        """video (B, 3, T, H, W) -> (B, P + T' h w, D); the video is copied first."""
        return (encoder or self.encoder).tokens(video.clone())

    @cached_property
    def tokens(self) -> Tensor:
        """Tokens of the two clips, (2, P + T' h w, D), computed once."""
        return self.tokens_of(self.video)

    @cached_property
    def features(self) -> list[Tensor]:
        return list(self.tokens)

    @cached_property
    def grid(self) -> Shape:
        """(T', h, w) of a clip."""
        return self.encoder.token_grid((self.frames, self.size, self.size))

    @cached_property
    def last_frame_changed(self) -> tuple[Tensor, Tensor]:
        """Tokens before and after the second clip's last frame became another one: both (2, P + T'hw, D)."""
        video = self.video.clone()
        video[1, :, -1] = self.clips(1, 1, seed=1)[0, :, 0]
        return self.tokens, self.tokens_of(video)

    def alone(self) -> list[tuple[Tensor, Tensor]]:
        return [(self.tokens_of(self.video[:1]), self.tokens[:1])]

    def shapes(self) -> tuple[Verdict, str]:
        """As many tokens as the grid has cells, behind the leading ones."""
        prefix = _expect_grid(self.encoder, self.tokens, self.grid, 2)
        grid = " x ".join(map(str, self.grid))
        width = self.encoder.width
        return (
            "ok",
            f"{prefix} + {grid} tokens of {width} channels for {self.frames} frames of {self.size} px",
        )

    def other_frames(self) -> tuple[Verdict, str]:
        """A clip of half the length is taken as its grid says, or refused."""
        frames = self.frames // 2 or 2
        try:
            grid = self.encoder.token_grid((frames, self.size, self.size))
            tokens = self.tokens_of(self.clips(1, frames))
        except own.BrokenPromise:
            raise
        except Exception as error:  # an encoder may be made for one length; the note says why it refuses
            return "note", f"takes no clip of {frames} frames: {own_source.described(error)}"
        _expect_grid(self.encoder, tokens, grid, 1)
        return "ok", f"{frames} frames give {grid[0]} time steps"

    def dtype(self) -> tuple[Verdict, str]:
        """Features are floating point."""
        if not self.tokens.is_floating_point():
            raise Fault(f"tokens are {self.tokens.dtype}; features are floats")
        return "ok", str(self.tokens.dtype)

    def finite(self) -> tuple[Verdict, str]:
        if not torch.isfinite(self.tokens_of(torch.zeros_like(self.video[:1]))).all():
            raise Fault("NaN or infinity in the tokens of a black clip")
        return super().finite()

    @torch.inference_mode()
    def pool(self) -> tuple[Verdict, str]:
        """One finite vector a clip, whatever its neighbours are."""
        pooled = self.encoder.pool(self.tokens)
        if pooled.shape != (2, self.encoder.width):
            raise Fault(f"pool(tokens) is {tuple(pooled.shape)}, not {(2, self.encoder.width)}")
        if not pooled.is_floating_point() or not torch.isfinite(pooled).all():
            raise Fault("pool(tokens) holds NaN, infinity or no floats")
        alone = self.encoder.pool(self.tokens[:1])
        if not relative_difference(alone, pooled[:1]) <= LEAK:
            raise Fault("pool(tokens) of a clip depends on its neighbours in the batch")
        return "ok", f"one vector of {pooled.shape[1]} channels a clip"

    def frozen(self) -> tuple[Verdict, str]:
        found = super().frozen()
        with torch.enable_grad():
            tokens = self.encoder.tokens(self.video[:1].clone())
        if tokens.requires_grad:
            raise Fault(
                "its tokens carry gradients: parameters that no nn.Module registers; "
                "call requires_grad_(False)"
            )
        return found

    @torch.inference_mode()
    def input_kept(self) -> tuple[Verdict, str]:
        """Clips are left as they were."""
        video = self.video.clone()
        self.encoder.tokens(video)
        if not torch.equal(video, self.video):
            raise Fault("tokens() changes its input in place; other encoders may read the same clips")
        return "ok", "left as it was"

    def rows(self) -> tuple[Verdict, str]:
        """A clip does not see the pixels of another."""
        before, after = self.last_frame_changed
        if not relative_difference(after[:1], before[:1]) <= SAME:
            raise Fault(
                "changing one clip changes the tokens of another: "
                "rows leak into each other (a norm over the batch?)"
            )
        return "ok", "another clip's pixels change nothing"

    def order(self) -> tuple[Verdict, str]:
        """Only the last frame changed: the last time step must see it, and a step sees it in all of its cells
        or in none.
        """
        before, after = (self.encoder.patch_tokens(tokens)[1] for tokens in self.last_frame_changed)
        change = (after - before).unflatten(0, self.grid).abs().amax(-1).flatten(1)  # (T', h w)
        if not change[-1].any():
            raise Fault(
                "the last frame changed and the last time step did not: "
                "tokens are to be ordered time, row, column"
            )
        mixed = ((change > 0).any(1) & (change == 0).any(1)).sum().item()
        if mixed:
            raise Fault(
                f"the last frame changed, and {mixed} of {len(change)} time steps "
                "changed in some cells only: tokens are to be ordered time, row, column"
            )
        most = change.mean(1).argmax().item()
        last = len(change) - 1
        if most != last:
            return (
                "note",
                f"changing the last frame changes time step {most} of 0 to {last} most; is the order right?",
            )
        return "ok", "the last frame shows most in the last time step"

    def streaming(self) -> tuple[Verdict, str]:
        """Does a step of time depend on later frames of its clip? Never a fault: an anticipation clip ends at
        start - tau_a.
        """
        steps = self.grid[0]
        if steps == 1:
            return "note", (
                f"within a clip: its {self.frames} frames are one step of time, which nothing can precede"
            )
        first = [step * self.frames // steps for step in range(steps)]  # the first frame of each step
        changed = torch.stack([self._steps_changed_from(frame) for frame in first])  # (from step, step)
        if blind := torch.nonzero(~changed.diagonal()).flatten().tolist():
            return "note", (
                f"within a clip: other frames from its own on do not change time step {blind[0]} of 0 to "
                f"{steps - 1}, so its features do not say what it looks at"
            )
        lag = max((later - step for later, step in torch.nonzero(changed).tolist()), default=0)
        if lag <= 0:
            return "ok", (
                f"within a clip: none of {steps} time steps depends on later frames; levels frame, grid and "
                "patch could be streamed"
            )
        if lag == steps - 1:
            ahead = "a time step depends on all later frames of its clip"
        else:
            ahead = f"a time step depends on the {lag} after it (of {steps})"
        return "note", (
            f"within a clip: {ahead}, so levels frame, grid and patch cannot be streamed as they come; "
            "anticipation may look so, for its clip ends at start - tau_a"
        )

    def _steps_changed_from(self, frame: int) -> Tensor:
        """(T',) bool: which steps change where both clips are given other frames from a number on."""
        video = self.video.clone()
        video[:, :, frame:] = self.clips(2, self.frames, seed=2)[:, :, frame:]
        before, after = (self.encoder.patch_tokens(tokens) for tokens in (self.tokens, self.tokens_of(video)))
        return (before != after).unflatten(1, self.grid).flatten(2).any(2).any(0)

    def image_size(self) -> tuple[Verdict, str]:
        """Another image size is taken and used, or refused."""
        half = max(16, self.size // 2)
        try:
            smaller = self.build(image_size=half)
        except own.BrokenPromise as error:
            raise Fault(str(error)) from None
        except (UsageError, TypeError) as error:
            return "note", f"--set image_size={half} is refused: {error}"
        if not isinstance(smaller, VideoEncoder) or smaller.pixels.image_size != half:
            raise Fault(f"image_size={half} is taken, and its pixels do not say so")
        tokens = self.tokens_of(self.clips(1, self.frames, half), smaller)
        grid = smaller.token_grid((self.frames, half, half))
        _expect_grid(smaller, tokens, grid, 1)
        return "ok", f"--set image_size={half} gives {' x '.join(map(str, grid))} tokens"

    def run_on(self, device: str) -> list[Tensor]:
        tokens = self.tokens_of(self.video[:1].to(device), self.encoder.to(device))
        if tokens.device.type != device:
            raise Fault(f"moved to {device}, its tokens are on {tokens.device}")
        return list(tokens)


def _expect_grid(encoder: VideoEncoder, tokens: Tensor, grid: Shape, count: int) -> int:
    """How many tokens lead, P. A fault where (count, P + T'hw, D) is not their shape, or no P fits."""
    cells = grid[0] * grid[1] * grid[2]
    patches = encoder.patch_tokens(tokens)
    prefix = tokens.shape[1] - patches.shape[1]
    is_whole = tokens.shape == (count, prefix + cells, encoder.width)
    if not is_whole or patches.shape != (count, cells, encoder.width):
        raise Fault(
            f"tokens {tuple(tokens.shape)}, of them patches {tuple(patches.shape)}; token_grid says {grid}"
        )
    return prefix
