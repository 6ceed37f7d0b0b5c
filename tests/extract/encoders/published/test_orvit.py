"""ORViT: the original's numbers, boxes against slow twins, and what must hold of any size of it."""

import itertools
import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.parity import SMALL_ORVIT as SMALL
from helpers.parity import (
    Recording,
    classified,
    clips,
    error,
    motionformer_config,
    outputs_of_blocks,
    redrawn,
)
from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.published import motionformer
from mambavl.extract.encoders.published.motionformer import Motionformer, MotionformerConfig
from mambavl.extract.encoders.published.orvit import (
    CONFIGS,
    ORViT,
    ORViTConfig,
    corners,
    crop_boxes,
    ours,
    painted,
    roi_crops,
    theirs,
)

RELEASED = {"box_transform": "released"}


def boxes_of(config: ORViTConfig, count: int, seed: int = 3) -> Tensor:
    """Random boxes (B, T, O, 4) within the crop; every fourth slot or so is empty."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.rand(count, config.frames, config.objects, 2, 2, generator=generator).sort(dim=-2).values
    boxes = torch.cat([ends.mean(-2), ends[..., 1, :] - ends[..., 0, :]], dim=-1)
    return boxes * (torch.rand(boxes.shape[:-1], generator=generator) > 0.25).unsqueeze(-1)


@pytest.fixture(scope="module")
def model():
    return redrawn(ORViT(SMALL))


def orvit_fixture(shared):
    recording = Recording(shared / "parity" / "orvit" / "orvit_crop64")
    sizes = recording.config
    layers = {"orvit_layers": tuple(sizes["orvit_layers"]), "objects": sizes["objects"]}
    config = ORViTConfig(**asdict(motionformer_config(recording)), **layers)
    return config, recording.state, recording.tensors


@pytest.mark.shared
@pytest.mark.parametrize(
    ("dtype", "group", "within"), [(torch.float32, "output", 1e-5), (torch.float64, "output64", 1e-9)]
)
def test_the_originals_numbers(shared, dtype, group, within):
    config, state, tensors = orvit_fixture(shared)
    model = ORViT(config)
    model.load_state_dict(ours(state, config))
    model = model.eval().to(dtype)
    seen = outputs_of_blocks(model)
    with torch.inference_mode():
        tokens = model.tokens(tensors["input/video"].to(dtype), tensors["input/boxes"])
        found = classified(model, tokens)
    for key, value in found.items():
        assert error(value, tensors[f"{group}/{key}"]) <= within, key
    if dtype == torch.float32:
        for key, value in seen.items():
            assert error(value, tensors[f"inter/{key}"]) <= within, key


@pytest.mark.shared
def test_the_originals_objects_and_motion(shared):
    """The parts of the object block, each from the original's own input to it."""
    config, state, tensors = orvit_fixture(shared)
    model = ORViT(config)
    model.load_state_dict(ours(state, config))
    block, boxes = model.blocks[1], tensors["input/boxes"][:, ::2]
    inter = {
        key.removeprefix("inter/block.1."): tensor
        for key, tensor in tensors.items()
        if key.startswith("inter/block.1.")
    }
    patches = tensors["inter/block.0"][:, 1:].unflatten(1, (4, 4, 4))
    with torch.inference_mode():
        crops = torch.stack([roi_crops(patches, boxes[:, :, slot]) for slot in range(4)], dim=1).movedim(
            -1, 3
        )
        assert error(crops, inter["roi_crops"]) <= 1e-5
        objects = inter["all_tokens"][:, 1:].unflatten(1, (4, 20))[:, :, 16:]
        assert error(block.object_tokens(patches, boxes), objects) <= 1e-5
        motion = block.motion_stream(boxes)
        assert error(motion.flatten(1, 2), inter["motion_boxes"]) <= 1e-5
        assert error(painted(motion, boxes, (4, 4)).flatten(1, 2), inter["motion_layout"]) <= 1e-5


@pytest.mark.shared
def test_a_published_state_dict_survives_the_way_there_and_back(shared):
    config, state, _ = orvit_fixture(shared)
    back = theirs(ours(state, config), config)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


@pytest.mark.shared
@pytest.mark.parametrize(
    ("manifest", "config"),
    [
        ("orvit_mf_hr_ek100", CONFIGS["orvit-hr"]),
        ("orvit_mf_224_ssv2", replace(CONFIGS["orvit"], num_classes=(174,))),
    ],
)
def test_full_size_keys_shapes_and_counts(shared, manifest, config):
    facts = json.loads((shared / "parity" / "manifests" / f"{manifest}.json").read_text())
    with torch.device("meta"):
        model = ORViT(config)
    state = theirs(model.state_dict(), config)
    assert {key: list(tensor.shape) for key, tensor in state.items()} == facts["keys"]
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["parameter_count"]
    assert (config.image_size, config.frames) == (facts["config"]["crop_size"], facts["config"]["frames"])


def test_the_papers_model_has_its_parameters():
    """Table 4 prints 148M; at 224 px with both heads it is this number."""
    with torch.device("meta"):
        model = ORViT(CONFIGS["orvit"])
    assert sum(parameter.numel() for parameter in model.parameters()) == 147_678_349


def test_a_small_model_gives_the_numbers_it_gave_when_it_agreed_with_the_original():
    """For machines without the recordings: recorded from this code, parameters drawn in the order of their
    declaration.
    """
    model = redrawn(ORViT(SMALL)).double()
    tokens = model.tokens(clips(SMALL, 1).double(), boxes_of(SMALL, 1))
    tokens_then, features_then = [-0.9506164, -1.1126303, 0.7460869], [0.3878529, -0.0484012, 0.315553]
    torch.testing.assert_close(
        tokens[0, [0, 11, 27], 1], torch.tensor(tokens_then).double(), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(
        model.pool(tokens)[0, :3], torch.tensor(features_then).double(), rtol=0, atol=1e-6
    )


def test_crops_agree_with_torchvisions_aligned_roi_pooling():
    from torchvision.ops import roi_align

    boxes = boxes_of(replace(SMALL, frames=40), 1)[0, :, 0].double()  # (40, 4), some empty
    boxes = torch.cat([boxes, torch.tensor([[0.5, 0.5, 1, 1], [0.1, 0.9, 0.2, 0.2]]).double()])
    patches = torch.randn(len(boxes), 5, 7, 3, dtype=torch.float64)
    scale = torch.tensor([7, 5, 7, 5]).double()
    rois = [(torch.stack(corners(box), dim=-1) * scale)[None] for box in boxes]
    expected = roi_align(patches.permute(0, 3, 1, 2), rois, (5, 7), aligned=True).permute(0, 2, 3, 1)
    assert error(roi_crops(patches, boxes), expected) < 1e-14
    # the whole frame: the patches themselves
    assert error(roi_crops(patches[-2:-1], boxes[-2:-1]), patches[-2:-1]) < 1e-14


@pytest.mark.parametrize("quirk", [True, False])
def test_painting_agrees_with_sampling_a_picture_of_ones(quirk):
    boxes = boxes_of(replace(SMALL, objects=3), 2).double()
    vectors = torch.randn(*boxes.shape[:3], 4, dtype=torch.float64)
    expected = torch.zeros(*boxes.shape[:2], 5, 7, 4, dtype=torch.float64)
    ones, places = (
        torch.ones(1, 1, 8, 8).double(),
        [torch.linspace(0, 1, cells, dtype=torch.float64) for cells in (5, 7)],
    )
    for clip, step, slot in itertools.product(*map(range, boxes.shape[:3])):
        x0, y0, x1, y1 = (x.item() for x in corners(boxes[clip, step, slot]))
        if x1 > 0:
            width, height = (x1, y1) if quirk else (x1 - x0, y1 - y0)
            y, x = torch.meshgrid((places[0] - y0) / height, (places[1] - x0) / width, indexing="ij")
            mask = F.grid_sample(ones, torch.stack([x, y], dim=-1)[None] * 2 - 1, align_corners=True)[0, 0]
            expected[clip, step] += mask[..., None] * vectors[clip, step, slot]
    assert error(painted(vectors, boxes, (5, 7), quirk=quirk), expected.flatten(2, 3)) < 1e-13


def test_the_quirk_paints_a_box_too_far():
    box = torch.tensor([0.75, 0.5, 0.2, 1.0]).view(1, 1, 1, 4)  # columns 0.65 to 0.85 of 14
    one = torch.ones(1, 1, 1, 1)
    full = {
        quirk: (painted(one, box, (14, 14), quirk=quirk).view(14, 14)[0] == 1).nonzero().flatten().tolist()
        for quirk in (True, False)
    }
    assert full == {True: [9, 10, 11, 12, 13], False: [9, 10, 11]}


def test_without_boxes_objects_are_their_slots_and_nothing_is_painted(model):
    video, none = clips(SMALL, 2), torch.zeros(2, 6, 2, 4)
    block = model.blocks[1]
    patches = model.embed(video)[:, 1:].unflatten(1, (3, 3, 3))
    assert torch.equal(block.object_tokens(patches, none[:, ::2]), block.box_categories.expand(2, -1, -1, -1))
    assert not painted(block.motion_stream(none[:, ::2]), none[:, ::2], (3, 3)).any()
    assert model.tokens(video, none).isfinite().all()


def test_boxes_matter_in_the_first_frame_of_each_tubelet(model):
    video, boxes = clips(SMALL, 1), boxes_of(SMALL, 1)
    tokens = model.tokens(video, boxes)
    assert tokens.shape == (1, 1 + 27, 24)
    unread, read = boxes.clone(), boxes.clone()
    unread[:, 1::2] = 0.5
    read[:, 4] = 0.5
    assert torch.equal(model.tokens(video, unread), tokens)
    assert error(model.tokens(video, read), tokens) > 1e-3


def test_without_object_blocks_it_is_a_motionformer():
    config = replace(SMALL, orvit_layers=())
    model = redrawn(ORViT(config))
    sizes = {
        key: value for key, value in asdict(config).items() if key in MotionformerConfig.__dataclass_fields__
    }
    plain = Motionformer(MotionformerConfig(**sizes)).eval()
    plain.load_state_dict(model.state_dict())
    video = clips(SMALL, 2)
    assert torch.equal(model.tokens(video, boxes_of(SMALL, 2)), plain.tokens(video))
    state = model.state_dict()
    assert theirs(state, config).keys() == motionformer.theirs(state, MotionformerConfig(**sizes)).keys()


@pytest.mark.parametrize("chunk", [1, 7, 11])
def test_chunks_of_queries_change_nothing(model, chunk):
    chunked = redrawn(ORViT(replace(SMALL, query_chunk=chunk)))
    video, boxes = clips(SMALL, 2), boxes_of(SMALL, 2)
    assert error(chunked.tokens(video, boxes), model.tokens(video, boxes)) < 1e-6


def test_a_clip_does_not_depend_on_its_neighbours_and_repeats_bit_for_bit(model):
    video, boxes = clips(SMALL, 4), boxes_of(SMALL, 4)
    together = model.tokens(video, boxes)
    assert torch.equal(together, model.tokens(video, boxes))
    for i in range(4):
        assert error(model.tokens(video[i : i + 1], boxes[i : i + 1])[0], together[i]) < 1e-6
    assert error(model.tokens(video.flip(0), boxes.flip(0)).flip(0), together) < 1e-6


def test_penultimate_tokens_lead_to_the_same_pooled_features(model):
    early = redrawn(ORViT(replace(SMALL, layer="penultimate")))
    video, boxes = clips(SMALL, 2), boxes_of(SMALL, 2)
    assert torch.equal(early.pool(early.tokens(video, boxes)), model.pooled(video, boxes))
    blind = redrawn(ORViT(replace(SMALL, layer="penultimate", orvit_layers=(2,))))
    with pytest.raises(UsageError, match="the last block reads boxes"):
        blind.pool(blind.tokens(video, boxes))


def test_boxes_that_are_missing_or_not_boxes_are_refused(model):
    video, boxes = clips(SMALL, 1), boxes_of(SMALL, 1)
    with pytest.raises(UsageError, match=r"needs boxes \(1, 6, 2, 4\).*zeros where nothing was found"):
        model.tokens(video)
    with pytest.raises(UsageError, match=r"boxes are \(1, 3, 2, 4\), not \(1, 6, 2, 4\)"):
        model.tokens(video, boxes[:, ::2])
    with pytest.raises(UsageError, match=r"boxes go from [0-9.]+ to .*fractions of the crop"):
        model.tokens(video, boxes * 96)
    with pytest.raises(UsageError, match="boxes go from nan"):
        model.tokens(video, boxes * float("nan"))
    with pytest.raises(UsageError, match=r"orvit_layers \[3\] are not among the 3 blocks"):
        replace(SMALL, orvit_layers=(1, 3))


def test_a_state_dict_that_does_not_fit_is_refused_by_key():
    published = theirs(ORViT(SMALL).state_dict(), SMALL)
    assert "blocks.1.motion_stream.attn.attn.qkv.weight" in published
    plain = {key: tensor for key, tensor in published.items() if "blocks.1." not in key or "attn.p" in key}
    with pytest.raises(
        UsageError, match=r"not the weights of this ORViT: \d+ missing \(blocks\.1\.box_categories, "
    ):
        ours(plain, SMALL)
    with pytest.raises(UsageError, match=r"\d+ not known \(blocks\.1\.box_categories, "):
        motionformer.ours(published, MotionformerConfig(24, 3, 3, 4, 32, 2, 6, 96, (5, 7)))


def test_boxes_follow_the_crop():
    frame, crop = (256, 456), (0, 100, 256)  # the middle crop of a frame of 456 x 256
    boxes = torch.tensor(
        [[100 / 456, 0, 356 / 456, 1], [0, 0, 228 / 456, 0.5], [0, 0, 100 / 456, 1], [0, 0, 0, 0]]
    )
    expected = torch.tensor([[0.5, 0.5, 1, 1], [0.25, 0.25, 0.5, 0.5], [0, 0, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(crop_boxes(boxes, frame, crop, 336), expected)
    narrow = torch.tensor([0.5, 0.2, 0.5 + 0.04 * 256 / 456, 0.9])
    assert not crop_boxes(narrow, frame, crop, 336).any()


def test_the_released_transform_loses_the_boxes_of_every_crop_but_the_left():
    frame, boxes = (256, 456), torch.tensor([[0.1, 0.2, 0.3, 0.6], [0.4, 0.3, 0.9, 0.9]])
    assert not crop_boxes(boxes, frame, (0, 100, 256), 336, **RELEASED).any()
    left = torch.stack(corners(crop_boxes(boxes, frame, (0, 0, 256), 336, **RELEASED)), dim=-1)
    torch.testing.assert_close(left, (boxes * 336 / 256).clamp(max=1))
    with pytest.raises(UsageError, match="`correct` or `released`, not 'release'"):
        crop_boxes(boxes, frame, (0, 0, 256), 336, box_transform="release")
