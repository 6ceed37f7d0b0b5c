"""Pixels from published processor files: what the processor really does, or a refusal."""

import numpy as np
import pytest
import transformers
from PIL import Image

from helpers.hf import PROCESSORS, SIZE, image_model, save, save_video, square
from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.registry import build

FILES = {
    "videomae": PROCESSORS["videomae"],
    "timesformer": PROCESSORS["timesformer"],
    "vivit": PROCESSORS["vivit"],
    "clip": square("CLIPImageProcessor"),
    "plain sizes": {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": SIZE, "width": SIZE},
        "resample": 3,
    },
    "no normalisation": square("CLIPImageProcessor", do_normalize=False),
    "numbers up to 255": square(
        "CLIPImageProcessor", do_rescale=False, image_mean=[120, 110, 100], image_std=[60, 61, 62]
    ),
    "blue first": square("MobileViTImageProcessor", resample=0),
}


@pytest.mark.parametrize("case", FILES)
def test_pixels_are_what_the_published_processor_makes(tmp_path, case):
    pixels = build(f"hf:{save(tmp_path, image_model('vit'), FILES[case])}").pixels
    frame = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    expected = processor(images=Image.fromarray(frame), return_tensors="np")["pixel_values"].reshape(
        3, SIZE, SIZE
    )
    ours = frame[..., ::-1] if pixels.colour == "BGR" else frame
    ours = (ours / 255 - np.array(pixels.mean)) / np.array(pixels.std)
    np.testing.assert_allclose(ours.transpose(2, 0, 1), expected, atol=1e-4 * np.abs(expected).max())
    assert pixels.image_size == SIZE
    assert pixels.colour == ("BGR" if case == "blue first" else "RGB")
    bilinear = dict.fromkeys(("videomae", "timesformer", "vivit"), "bilinear")
    assert pixels.interpolation == {**bilinear, "blue first": "nearest"}.get(case, "bicubic")


def test_known_means_are_kept_to_the_last_digit(tmp_path):
    folders = {kind: save_video(tmp_path / kind, kind) for kind in ("videomae", "vjepa2", "vivit")}
    assert build(f"hf:{folders['videomae']}").pixels.mean == pytest.approx((0.485, 0.456, 0.406), rel=1e-12)
    assert build(f"hf:{folders['vjepa2']}").pixels.std == pytest.approx((0.229, 0.224, 0.225), rel=1e-12)
    vivit = build(f"hf:{folders['vivit']}").pixels  # x / 127.5 - 1, then mean 0.5 and std 0.5
    assert (vivit.mean, vivit.std) == (pytest.approx((0.75,) * 3), pytest.approx((0.25,) * 3))


def test_a_folder_without_a_processor_file_is_told_what_to_add(tmp_path):
    save(tmp_path, image_model("vit"))
    with pytest.raises(
        UsageError,
        match=r"no preprocessor_config\.json .* put the one published with the weights next to them",
    ):
        build(f"hf:{tmp_path}")


def test_a_processor_that_pads_is_refused(tmp_path):
    save(tmp_path, image_model("vit"), square("CLIPImageProcessor", crop_size={"height": 48, "width": 48}))
    with pytest.raises(UsageError, match="does more to a square frame than scale and normalise"):
        build(f"hf:{tmp_path}")
