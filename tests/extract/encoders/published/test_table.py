"""Published encoders through the front door: untrained of any size, from the originals' keys, from a
converted file.
"""

import argparse
import os
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.dataset import make_dataset
from helpers.detections import RIGHT, image_message, write
from mambavl.cache import open_store
from mambavl.cache.rows import STATUS_CODE
from mambavl.cache.spec import BoxesRecipe, read_spec
from mambavl.configs.errors import DataError, SystemFault, UsageError
from mambavl.extract.annotations import read_annotations
from mambavl.extract.boxes import AuthorsBoxes
from mambavl.extract.encoders import from_published
from mambavl.extract.encoders.levels import video_levels
from mambavl.extract.encoders.published.orvit import ORViT
from mambavl.extract.encoders.published.table import PUBLISHED, convert
from mambavl.extract.encoders.registry import ENCODERS, build
from mambavl.extract.options import VideoExtraction
from mambavl.extract.video_files import fingerprint
from mambavl.extract.video_job import extract_video

VIT = {"width": 32, "depth": 2, "heads": 4, "patch_size": 8, "image_size": 16, "frames": 4}
MOTION = {"width": 32, "depth": 2, "heads": 4, "patch_size": 16, "image_size": 32, "frames": 4}
SMALL = {
    "avion-vit-b": VIT,
    "lavila-tsf-b": VIT,
    "motionformer": MOTION,
    "orvit": MOTION | {"orvit_layers": (1,), "objects": 2, "boxes": "none"},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"))


def published_state(name, model):
    """A model's weights under the originals' names."""
    from mambavl.extract.encoders.published import avion, lavila, motionformer, orvit

    module = {"avion-vit-b": avion, "lavila-tsf-b": lavila, "motionformer": motionformer, "orvit": orvit}[
        name
    ]
    arguments = ("fused",) if name == "avion-vit-b" else ()
    return module.theirs(model.state_dict(), model.config, *arguments)


def clip(sizes):
    return torch.randn(
        2,
        3,
        sizes["frames"],
        sizes["image_size"],
        sizes["image_size"],
        generator=torch.Generator().manual_seed(1),
    )


@pytest.fixture(params=SMALL)
def name(request):
    return request.param


def test_untrained_encoders_of_any_size_fill_every_level(name):
    encoder = build(name, weights="random", **SMALL[name])
    assert encoder.state == "random"
    assert encoder.width == 32
    assert encoder.details["config"]["depth"] == 2
    found = video_levels(encoder, clip(SMALL[name]), ("clip", "frame", "grid", "patch"), grid=1)
    steps, height, width = encoder.token_grid((4, *clip(SMALL[name]).shape[3:]))
    assert found["patch"].shape == (2, steps * height * width, 32)
    assert torch.equal(found["clip"], encoder.pooled(clip(SMALL[name])))
    assert not any(p.requires_grad for p in encoder.parameters())


@pytest.mark.usefixtures("forked_readers")
def test_a_converted_checkpoint_gives_the_model_that_was_published(name, tmp_path):
    """Sizes are told by the file's shapes, but for the heads (64 channels wide in all real ones) and
    Motionformer's crop.
    """
    model, video = build(name, weights="random", **SMALL[name]), clip(SMALL[name])
    state = {f"module.{k}": v for k, v in published_state(name, model).items()}
    direct = from_published(name, state, **SMALL[name])
    assert torch.equal(direct.tokens(video), model.tokens(video))
    beside = {"args": argparse.Namespace(lr=1), "epoch": 3, "optimizer": {"state": {}}}
    torch.save({"state_dict": state, **beside}, tmp_path / "theirs.pth")
    found = convert(tmp_path / "theirs.pth", name, tmp_path / "ours.safetensors")
    assert found["left_out"] == list(beside)
    untold = {k: v for k, v in SMALL[name].items() if k in ("heads", "image_size", "boxes")}
    encoder = build(name, weights=str(tmp_path / "ours.safetensors"), **untold)
    assert torch.equal(encoder.tokens(video), model.tokens(video))
    assert (encoder.state, encoder.sha256) == ("ek100-finetuned", model.sha256)
    assert encoder.details["converted_from"] == found["source_sha256"]


@pytest.mark.usefixtures("forked_readers")
def test_full_size_avion_converts_and_knows_its_size_again(tmp_path):
    """Of the real widths (one block), since a file's shapes tell its config."""
    model = build("avion-vit-b", weights="random", depth=1, frames=4, num_classes=(11,))
    torch.save(published_state("avion-vit-b", model), tmp_path / "a.pt")
    found = convert(tmp_path / "a.pt", "avion-vit-b", tmp_path / "a.safetensors")
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    again = build("avion-vit-b", weights=str(tmp_path / "a.safetensors"))
    assert (again.config.depth, again.config.frames, again.config.num_classes) == (1, 4, (11,))
    longer = build("avion-vit-b", weights=str(tmp_path / "a.safetensors"), frames=8, image_size=64)
    assert longer.tokens(torch.randn(1, 3, 8, 64, 64)).shape == (1, 1 + 8 * 16, 768)


def test_a_file_of_other_classes_is_not_said_to_be_of_ek100():
    """ORViT's published file at 224 px is of Something-Something V2, 174 classes."""
    model = build("orvit", weights="random", **SMALL["orvit"], num_classes=(174,))
    found = from_published("orvit", published_state("orvit", model), **SMALL["orvit"])
    assert found.config.num_classes == (174,)
    assert found.state == "pretrained"


@pytest.mark.usefixtures("forked_readers")
def test_what_is_no_checkpoint_of_it_is_named_and_nothing_is_written(tmp_path):
    model, other = (
        build("motionformer", weights="random", **MOTION),
        build("lavila-tsf-b", weights="random", **VIT),
    )
    state = published_state("motionformer", model)
    out = tmp_path / "out" / "ours.safetensors"
    broken = {
        "missing": ({k: v for k, v in state.items() if k != "norm.weight"}, r"1 missing \(norm.weight\)"),
        "extra": (state | {"who.knows": torch.ones(1)}, r"1 not known \(who.knows\)"),
        "shape": (
            state | {"norm.weight": torch.ones(31)},
            r"1 of another shape \(norm.weight \(31,\), expected \(32,\)\)",
        ),
        "nan": (
            state | {"norm.weight": torch.full((32,), torch.nan)},
            r"NaN or infinity in 1 tensors \(norm.weight\)",
        ),
        "infinity": (
            state | {"norm.bias": torch.full((32,), torch.inf)},
            r"NaN or infinity in 1 tensors \(norm.bias\)",
        ),
        "other": (
            published_state("lavila-tsf-b", other),
            "not the weights of a Motionformer",
        ),
    }
    for kind, (tensors, says) in broken.items():
        torch.save(tensors, tmp_path / f"{kind}.pyth")
        with pytest.raises(UsageError, match=says) as raised:
            convert(tmp_path / f"{kind}.pyth", "motionformer", out)
        assert f"{kind}.pyth" in str(raised.value)
        assert not out.parent.exists() or not list(out.parent.iterdir())
    with pytest.raises(UsageError, match="has no published checkpoint"):
        convert(tmp_path / "nan.pyth", "minilm", out)
    with pytest.raises(UsageError, match=r"is named \*\.safetensors"):
        convert(tmp_path / "nan.pyth", "motionformer", tmp_path / "a.pth")


@pytest.mark.usefixtures("forked_readers")
def test_weights_that_are_not_there_say_where_to_get_them(tmp_path):
    with pytest.raises(
        UsageError, match=r"Get https://.*, then run `mambavl encoders convert FILE --encoder avion-vit-b"
    ):
        build("avion-vit-b")
    with pytest.raises(UsageError, match="no such weights file"):
        build("avion-vit-b", weights=str(tmp_path / "a.safetensors"))
    save_file({"a": torch.ones(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(UsageError, match="was not converted; `mambavl encoders convert"):
        build("avion-vit-b", weights=str(tmp_path / "plain.safetensors"))
    model = build("motionformer", weights="random", **MOTION)
    torch.save(published_state("motionformer", model), tmp_path / "mf.pyth")
    convert(tmp_path / "mf.pyth", "motionformer", tmp_path / "mf.safetensors")
    assert load_file(tmp_path / "mf.safetensors").keys() == model.state_dict().keys()
    with pytest.raises(UsageError, match="holds the weights of motionformer, not of orvit"):
        build("orvit", weights=str(tmp_path / "mf.safetensors"))
    with pytest.raises(UsageError, match=r"encoder motionformer has no size window; it has width, depth"):
        build("motionformer", weights="random", window=7)


def test_orvit_asks_for_boxes_unless_it_is_told_that_there_are_none():
    sizes = {k: v for k, v in SMALL["orvit"].items() if k != "boxes"}
    with pytest.raises(UsageError, match=r"needs boxes \(2, 4, 2, 4\)"):
        build("orvit", weights="random", **sizes).tokens(clip(sizes))
    zeros = torch.zeros(2, 4, 2, 4)
    blind = build("orvit", weights="random", **SMALL["orvit"])
    assert torch.equal(
        blind.tokens(clip(sizes)), build("orvit", weights="random", **sizes).tokens(clip(sizes), zeros)
    )


@pytest.mark.parametrize(
    ("encoder", "more"),
    [("avion-vit-b", {}), ("orvit", {"boxes": "none"}), ("motionformer", {"layer": "penultimate"})],
)
def test_a_published_encoder_fills_a_store_whose_spec_says_what_ran(
    encoder, more, dataset, tmp_path, monkeypatch
):
    """The job with a small one of the kind: levels, config in the spec, boxes only when told that there are
    none.
    """
    small(monkeypatch, encoder)
    annotations = read_annotations(dataset / "annotations")
    settings = {
        "encoder": encoder,
        "weights": "random",
        "levels": ["clip", "cls", "frame"],
        "sampling": {"frames": 4},
        **more,
    }

    def extract(name, **changes):
        options = VideoExtraction.model_validate({**settings, **changes})
        extract_video(annotations, dataset / "videos", tmp_path / name, options)

    extract("a.zarr")
    store = open_store(tmp_path / "a.zarr")
    tokens, _ = store.batch([0, 1], "frame")
    assert tokens.shape[2] == 32
    assert torch.isfinite(tokens).all()
    assert store.spec.recipe.encoder.details["config"]["depth"] == 2
    assert store.spec.recipe.encoder.state == "random"
    classes = [store.batch([0, 1], level)[0] for level in ("clip", "cls")]
    # Motionformer's classifier reads it through one more layer
    assert torch.equal(*classes) == encoder.startswith("avion")
    if encoder == "orvit":
        with pytest.raises(UsageError, match=r"reads object boxes: .*`--set boxes=none`"):
            extract("b.zarr", boxes=None)
        with pytest.raises(UsageError, match="encoder timm:test_vit has no boxes"):
            extract("b.zarr", encoder="timm:test_vit")
        with pytest.raises(UsageError, match="encoder timm:test_resnet has no class token"):
            extract("b.zarr", encoder="timm:test_resnet", boxes=None)
        assert not (tmp_path / "b.zarr").exists()


def test_orvit_is_given_the_boxes_of_its_crop(dataset, tmp_path, monkeypatch):
    """Frames of 160 x 48, of which the centre crop shows columns 56 to 104."""
    small(monkeypatch, "orvit")
    annotations = read_annotations(dataset / "annotations")
    videos = sorted({segment.video_id for segment in annotations.segments})
    with h5py.File(tmp_path / "boxes.h5", "w") as file:
        for video in videos:
            for number in range(1, 301):  # 6 s at 50 images a second; ids: right hand, a track
                file[f"{video}/{number}"] = np.array(
                    [[60 / 160, 0.25, 96 / 160, 0.75, 0], [0.0, 0.0, 0.2, 0.5, 7]], np.float32
                )
                file[f"{video}/{number}"][0, 1] = number / 1000  # the hand's top tells the image

    def extract(name, **changes):
        settings = {
            "encoder": "orvit",
            "weights": "random",
            "levels": ["clip"],
            "sampling": {"frames": 4},
            "dtype": "float32",
        }
        options = VideoExtraction.model_validate({**settings, **changes})
        extract_video(annotations, dataset / "videos", tmp_path / name, options)
        return open_store(tmp_path / name)

    seen = []
    tokens = ORViT.tokens
    monkeypatch.setattr(
        ORViT, "tokens", lambda self, video, boxes=None: seen.append(boxes) or tokens(self, video, boxes)
    )
    given = extract("h5.zarr", boxes="h5", boxes_path=tmp_path / "boxes.h5")
    assert not seen[0][:, :, 1].any()  # the track lies outside the crop
    torch.testing.assert_close(seen[0][0, :, 0], hands(given.row_array("frame_pts")[0, 0], left=56))
    seen.clear()
    several = extract(
        "views.zarr",
        boxes="h5",
        boxes_path=tmp_path / "boxes.h5",
        crops=3,
        sampling={"frames": 4, "views": 2},
    )
    for view in range(6):  # the first batch's: in time, then from left to right
        pts = several.row_array("frame_pts")[0, view]
        torch.testing.assert_close(seen[view][0, :, 0], hands(pts, left=(0, 56, 112)[view % 3]))
    none = extract("none.zarr", boxes="none")
    assert not torch.allclose(given.batch([0], "clip")[0], none.batch([0], "clip")[0], atol=1e-3)
    assert given.spec.recipe.boxes == BoxesRecipe(source="h5", transform="correct")
    assert none.spec.recipe.boxes is None
    with pytest.raises(UsageError, match=r"recipe\.boxes\.transform: 'correct' -> 'released'"):
        extract("h5.zarr", boxes="h5", boxes_path=tmp_path / "boxes.h5", box_transform="released")
    seen.clear()
    released = extract(
        "released.zarr", boxes="h5", boxes_path=tmp_path / "boxes.h5", box_transform="released"
    )
    # the released loader loses every box of a crop that does not begin at the corner
    assert not seen[0].any()
    assert torch.equal(released.batch([0], "clip")[0], none.batch([0], "clip")[0])
    with h5py.File(tmp_path / "boxes.h5", "a") as file:
        del file[videos[0]]
    with pytest.raises(DataError, match=f"1 of 4 videos have no boxes there \\({videos[0]}\\)"):
        extract("d.zarr", boxes="h5", boxes_path=tmp_path / "boxes.h5")
    with pytest.raises(UsageError, match="reads no boxes"):
        extract("e.zarr", encoder="timm:test_vit", boxes="hoa", boxes_path=tmp_path)


def hands(pts: np.ndarray, left: int) -> torch.Tensor:
    """(T, 4): the right hand at some times, (cx, cy, w, h) in the 48 x 48 crop from column `left` on."""
    top = torch.from_numpy(np.maximum(np.floor(pts * 50), 1) / 1000).float()
    x0, x1 = (min(max(x - left, 0), 48) / 48 for x in (60, 96))
    box = torch.stack(
        [torch.full_like(top, (x0 + x1) / 2), (top + 0.75) / 2, torch.full_like(top, x1 - x0), 0.75 - top], 1
    )
    return box * (x1 - x0 > 0.05)


def test_rows_whose_boxes_cannot_be_read_fail_by_name_and_the_others_go_on(dataset, tmp_path, monkeypatch):
    small(monkeypatch, "orvit")
    annotations = read_annotations(dataset / "annotations")
    read = AuthorsBoxes.clip

    def broken(self, video_id, times, objects=4):
        if video_id == "P01_102":
            raise DataError("P01_102.pkl: is torn")
        return read(self, video_id, times, objects)

    monkeypatch.setattr(AuthorsBoxes, "clip", broken)
    with h5py.File(tmp_path / "boxes.h5", "w") as file:
        for video in {segment.video_id for segment in annotations.segments}:
            file[f"{video}/1"] = np.zeros((0, 5), np.float32)
    settings = {"encoder": "orvit", "weights": "random", "levels": ["clip"], "sampling": {"frames": 4}}
    settings |= {"boxes": "h5", "boxes_path": tmp_path / "boxes.h5", "max_failed": 5}
    options = VideoExtraction.model_validate(settings)
    summary = extract_video(annotations, dataset / "videos", tmp_path / "v.zarr", options)
    assert {failure[1:] for failure in map(tuple, summary.failures)} == {
        (STATUS_CODE["no_boxes"], "P01_102.pkl: is torn")
    }
    assert len(summary.failures) == 5

    def unreadable(*_):
        raise SystemFault("P01_102.pkl: the disk")

    monkeypatch.setattr(AuthorsBoxes, "clip", unreadable)
    with pytest.raises(SystemFault, match="the disk"):
        extract_video(annotations, dataset / "videos", tmp_path / "w.zarr", options)
    assert not (tmp_path / "w.zarr" / "manifest.json").exists()


@pytest.fixture
def boxed(dataset, tmp_path, monkeypatch):
    """The job of ORViT over the data set, a function of what differs; its boxes lie in boxes.h5 and hoa/."""
    small(monkeypatch, "orvit")
    annotations = read_annotations(dataset / "annotations")
    videos = sorted({segment.video_id for segment in annotations.segments})
    with h5py.File(tmp_path / "boxes.h5", "w") as file:
        for video in videos:
            file[f"{video}/1"] = np.array([[0, 0, 0.5, 0.5, 0]], np.float32)
    for video in videos:
        found = ([(RIGHT, 0.5, (0.0, 0.0, 0.5, 0.5))], ())
        write(tmp_path / "hoa" / f"{video}.pkl", [image_message(1, *found, video=video)])

    def job(out, kind, path=None, **changes):
        hooks = {key: changes.pop(key) for key in ("shard", "should_stop") if key in changes}
        settings = {"encoder": "orvit", "weights": "random", "levels": ["clip"], "sampling": {"frames": 4}}
        settings |= {"rows_per_group": 10, "boxes": kind, "boxes_path": path or tmp_path / PLACES[kind]}
        options = VideoExtraction.model_validate({**settings, **changes})
        return extract_video(annotations, dataset / "videos", out, options, **hooks)

    return job


PLACES = {"h5": "boxes.h5", "hoa": "hoa"}


def staged(tmp_path, kind):
    """A copy of the boxes, written at another time."""
    place = tmp_path / "staged" / PLACES[kind]
    if kind == "h5":
        place.parent.mkdir()
        shutil.copyfile(tmp_path / PLACES[kind], place)
    else:
        shutil.copytree(tmp_path / PLACES[kind], place, copy_function=shutil.copyfile)
    files = [place] if kind == "h5" else sorted(place.iterdir())
    for file in files:
        os.utime(file, ns=(1, 1))
    return place, files[0]


@pytest.mark.parametrize("kind", ["h5", "hoa"])
def test_boxes_may_be_read_from_copies_in_different_places(boxed, tmp_path, kind):
    store = tmp_path / "v.zarr"
    place, one = staged(tmp_path, kind)
    assert boxed(store, kind, shard=(0, 2)).rows == 10
    result = boxed(store, kind, place, shard=(1, 2))
    assert (result.rows, result.finalized) == (10, True)
    one.write_bytes(one.read_bytes() + b"x")
    with pytest.raises(UsageError, match=r"inputs\.boxes\.(file|videos\.P01_101): \[\d+, 'parts:"):
        boxed(store, kind, place)


@pytest.mark.parametrize("kind", ["h5", "hoa"])
def test_a_store_that_knows_its_boxes_by_time_goes_on_by_that(boxed, tmp_path, kind, monkeypatch):
    """As stores began whose videos were known by content, and their boxes not yet."""
    store = tmp_path / "v.zarr"
    place, _ = staged(tmp_path, kind)
    with monkeypatch.context() as before:
        before.setattr(
            "mambavl.extract.boxes.box_keys",
            lambda paths, *_: {name: fingerprint(path, "fast") for name, path in paths.items()},
        )
        assert boxed(store, kind, shard=(0, 2)).rows == 10
    spec = read_spec(store)
    key = spec.inputs.boxes.get("file") or spec.inputs.boxes["videos"]["P01_101"]
    assert isinstance(key[1], int)
    assert spec.inputs.videos["P01_101"][1].startswith("parts:")
    with pytest.raises(UsageError, match=r"inputs\.boxes"):
        boxed(store, kind, place)
    result = boxed(store, kind)
    assert (result.rows, result.finalized, read_spec(store)) == (10, True, spec)


def small(monkeypatch, encoder: str) -> None:
    """Make the published encoder of that name a small one."""
    known = PUBLISHED[encoder]
    sizes = {key: value for key, value in SMALL[encoder].items() if key != "boxes"}
    monkeypatch.setitem(PUBLISHED, encoder, replace(known, config=replace(known.config, **sizes)))
    monkeypatch.setitem(ENCODERS, encoder, replace(ENCODERS[encoder], width=32))


def test_every_published_encoder_is_registered_with_what_it_is():
    for name, known in PUBLISHED.items():
        record = ENCODERS[name]
        assert (record.width, record.frames) == (known.config.width, known.config.frames)
        assert record.state == ("pretrained" if name == "orvit" else "ek100-finetuned")
        assert known.file in record.weights


def test_convert_never_writes_over_a_file(tmp_path):
    encoder = build("motionformer", weights="random", **SMALL["motionformer"])
    file = tmp_path / "mf.safetensors"
    save_file(
        {key: value.contiguous() for key, value in published_state("motionformer", encoder).items()}, file
    )
    before = file.read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        convert(file, "motionformer", file)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("avion-vit-b", {"image_size": "abc"}),
        ("motionformer", {"heads": 0}),
        ("motionformer", {"frames": True}),
        ("orvit", {"orvit_layers": 3}),
    ],
)
def test_sizes_that_cannot_be_are_refused_by_name(name, wrong):
    with pytest.raises(UsageError, match=f"encoder {name}: {next(iter(wrong))} ="):
        build(name, weights="random", **SMALL[name] | wrong)
