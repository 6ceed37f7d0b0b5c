"""Object boxes for ORViT: what the job asks of a source of them."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mambavl.configs.errors import UsageError


class BoxSource(Protocol):
    """Boxes by video and moment."""

    def clip(self, video_id: str, times: np.ndarray, objects: int = 4) -> np.ndarray:
        """Boxes (T, objects, 4) float32 at times (T,) in seconds: x0, y0, x1, y1 in fractions of the frame, zeros where none."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What a store's spec says of the files."""
        ...

    def missing(self, video_ids: list[str]) -> list[str]:
        """The videos among these that have no boxes."""
        ...


def open_boxes(kind: str, path: Path, video_hash: str = "fast") -> BoxSource:
    raise UsageError(f"{path}: there is no reader of {kind} boxes here yet; `--set boxes=none` runs ORViT on none")
