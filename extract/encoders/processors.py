"""Pixels of a transformers model, from the processor file that is published with its weights."""

from typing import Any, cast

import numpy as np
from PIL import Image

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.base import Interpolation, Pixels
from mambavl.extract.encoders.weights import first_line

PROCESSOR_FILES = "preprocessor_config.json (or video_preprocessor_config.json)"
_PROBE = (30, 110, 230)  # a colour whose channels cannot be confused


def read_pixels(name: str, source: str) -> Pixels:
    """What the published processor does to a frame: read from its file, then compared with what it really
    does to one colour.

    The margin that some processors cut off around their crop is left out: the job's `fit` decides what of a
    frame is seen. Raises UsageError where there is no such file, or where it does more than scale, crop and
    normalise.
    """
    processor = _processor(name, source)
    try:
        scale = processor.rescale_factor if processor.do_rescale else 1.0
        mean, std = np.zeros(3), np.ones(3)
        if processor.do_normalize:
            mean = np.array(processor.image_mean, np.float64)
            std = np.array(processor.image_std, np.float64)
        interpolation = Image.Resampling(processor.resample).name.lower()
        black = _processed(processor, (0, 0, 0))
        coloured = _processed(processor, _PROBE)
    except (AttributeError, TypeError, ValueError, RuntimeError, ImportError) as error:
        raise UsageError(
            f"encoder {name}: {type(processor).__name__} is not a plain image processor: {first_line(error)}"
        ) from None
    # ViViT's subtracts 1 before it normalises, and its file need not say so
    shift = np.round(-(black[:, 0, 0] * std + mean), 3)
    is_blue_first = bool(getattr(processor, "do_flip_channel_order", False))
    seen = np.array(_PROBE[::-1] if is_blue_first else _PROBE)
    expected = (seen * scale - shift - mean) / std
    if coloured.shape[1] != coloured.shape[2] or np.abs(coloured - expected[:, None, None]).max() > 1e-4:
        raise UsageError(
            f"encoder {name}: {type(processor).__name__} does "
            "more to a square frame than scale and normalise it"
        )
    return Pixels(
        image_size=coloured.shape[1],
        mean=tuple(((mean + shift) / (255 * scale)).tolist()),  # of frames in [0, 1]
        std=tuple((std / (255 * scale)).tolist()),
        colour="BGR" if is_blue_first else "RGB",
        interpolation=cast(Interpolation, interpolation),  # Pixels refuses any other
    )


def _processor(name: str, source: str) -> Any:
    from transformers import AutoImageProcessor, AutoVideoProcessor

    reasons = []
    # most video models were published with an image processor
    for kind in (AutoImageProcessor, AutoVideoProcessor):
        try:
            return kind.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            reasons.append(first_line(error))
    raise UsageError(
        f"encoder {name}: {source} has no {PROCESSOR_FILES} that can be read, so size, mean and std of "
        f"its pixels are not known; put the one published with the weights next to them ({reasons[0]})"
    )


def _processed(processor: Any, colour: tuple[int, int, int]) -> np.ndarray:
    """(3, H, W) of a square frame of one colour."""
    from transformers.video_processing_utils import BaseVideoProcessor

    frame = np.full((64, 64, 3), colour, np.uint8)
    if isinstance(processor, BaseVideoProcessor):
        found = processor(videos=[np.stack([frame] * 2)], return_tensors="pt", do_sample_frames=False)
    else:
        found = processor(images=Image.fromarray(frame), return_tensors="pt")
    values = next(iter(found.values()))
    if values.shape[-3] != 3:
        raise ValueError(f"it makes arrays of shape {tuple(values.shape)} of a frame")
    return values.reshape(-1, *values.shape[-3:])[0].double().numpy()
