"""What holds for AVION's and LaViLa's towers alike: the order of tokens, clips of other lengths, other
batches, refusals.
"""

from dataclasses import replace

import pytest
import torch

from helpers.parity import error, names_under
from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.levels import video_levels
from mambavl.extract.encoders.published import avion, lavila
from mambavl.extract.encoders.published.vit import VitConfig, cut_patches, refit, resize_position, resize_time

TINY = VitConfig(
    width=32, depth=2, heads=4, patch_size=4, image_size=12, frames=4, num_classes=(7,), projection=8
)
MODELS = {"avion": (avion, avion.Avion), "lavila": (lavila, lavila.TimeSformer)}


def build(model_class, config=TINY):
    torch.manual_seed(0)
    model = model_class(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        # nothing is silent: no zero bias, no norm that does nothing
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return build(MODELS[request.param][1])


@pytest.fixture(scope="module")
def video():
    return torch.randn(3, 3, 4, 12, 12, generator=torch.Generator().manual_seed(1))


def test_a_patch_is_read_channel_row_column():
    video = torch.arange(2 * 3 * 2 * 4 * 4).reshape(2, 3, 2, 4, 4)
    patches = cut_patches(video, 2)
    assert patches.shape == (2, 2, 4, 12)
    assert torch.equal(patches[1, 0, 2], video[1, :, 0, 2:4, 0:2].flatten())


@pytest.mark.parametrize(("time", "row", "column"), [(0, 0, 0), (1, 2, 0), (3, 1, 2)])
def test_tokens_are_ordered_class_token_time_row_column(model, video, time, row, column):
    changed = video.clone()
    changed[:, :, time, 4 * row, 4 * column] += 1
    differs = (model.embed(changed) != model.embed(video)).any(dim=2).all(dim=0)
    steps, height, width = model.token_grid(video.shape[2:])
    assert differs.nonzero().flatten().tolist() == [
        model.prefix_tokens + (time * height + row) * width + column
    ]
    assert model.tokens(video).shape == (3, 1 + steps * height * width, model.width)


def test_the_order_of_frames_matters(model, video):
    assert error(model.pooled(video.flip(2)), model.pooled(video)) > 1e-3


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("frames", [1, 3])
def test_a_shorter_clip_takes_the_first_times(name, frames, video):
    model = build(MODELS[name][1])
    shorter = replace(TINY, frames=frames)
    fitted = MODELS[name][1](shorter).eval()
    fitted.load_state_dict(refit(model.state_dict(), shorter))
    clip = video[:, :, :frames]
    assert torch.equal(model.tokens(clip), fitted.tokens(clip))
    assert model.tokens(clip).shape[1] == 1 + 9 * frames


def test_the_same_batch_gives_the_same_bits_and_another_the_same_rows(model, video):
    tokens = model.tokens(video)
    assert torch.equal(model.tokens(video), tokens)
    assert error(model.tokens(video[1:2]), tokens[1:2]) < 1e-6
    assert error(model.tokens(video[[2, 1]])[1:], tokens[1:2]) < 1e-6


def test_penultimate_tokens_lack_the_last_block_and_the_last_norm(model, video):
    early = type(model)(replace(model.config, layer="penultimate")).eval()
    early.load_state_dict(model.state_dict())
    tokens = early.tokens(video)
    block = model.blocks[-1]
    last = block(tokens, frames=4) if isinstance(model, lavila.TimeSformer) else block(tokens)
    assert torch.equal(model.pooled(video), model.norm(last)[:, 0])
    assert torch.equal(early.pooled(video), model.pooled(video))
    assert torch.equal(early.patch_tokens(tokens), tokens[:, 1:])
    assert torch.equal(model.patch_tokens(model.tokens(video)), model.norm(last)[:, 1:])
    with pytest.raises(UsageError, match="no layer 'first'"):
        replace(model.config, layer="first")


def test_every_level_of_the_store_can_be_made(model, video):
    levels = video_levels(model, video, ("clip", "frame", "grid", "patch"), grid=2)
    assert {name: tuple(level.shape[1:]) for name, level in levels.items()} == {
        "clip": (32,),
        "frame": (4, 32),
        "grid": (4, 2, 2, 32),
        "patch": (36, 32),
    }
    assert torch.equal(levels["clip"], model.pooled(video))


def test_neither_classifier_nor_projection_touches_the_features(model, video):
    bare = type(model)(replace(TINY, num_classes=(), projection=None)).eval()
    state = model.state_dict()
    bare.load_state_dict(
        {name: tensor for name, tensor in state.items() if not name.startswith(("classifiers", "projection"))}
    )
    features = bare.pooled(video)
    assert torch.equal(features, model.pooled(video))
    assert bare.classify(features) == {}
    assert model.classify(features)["action"].shape == (3, 7)
    assert torch.equal(model.project(features), features @ state["projection"])
    with pytest.raises(UsageError, match="no projection"):
        bare.project(features)


@pytest.mark.parametrize(
    ("name", "layout"),
    [("avion", ("plain",)), ("avion", ("fused",)), ("lavila", ())],
    ids=["avion-plain", "avion-fused", "lavila"],
)
def test_a_published_state_dict_comes_back_as_it_was(name, layout):
    module, model_class = MODELS[name]
    published = module.theirs(build(model_class).state_dict(), TINY, *layout)
    text = {"avion": "textual.ln_final.weight", "lavila": "ln_final.weight"}[name]
    file = {f"module.{key}": tensor for key, tensor in (published | {text: torch.zeros(1)}).items()}
    assert module.fitted(replace(TINY, frames=9, num_classes=()), file) == TINY
    assert names_under(file, module.TEXT_TOWER) == [text]
    back = module.theirs(module.ours(file, TINY), TINY, *layout)
    assert back.keys() == published.keys()
    assert all(torch.equal(back[key], published[key]) for key in published)


def test_pixels_are_normalised_as_the_0_to_255_numbers_were(model):
    pixels = model.pixels
    assert (pixels.image_size, pixels.colour) == (12, "RGB")
    frame = torch.tensor([200.0, 100.0, 50.0])
    ours = (frame / 255 - torch.tensor(pixels.mean)) / torch.tensor(pixels.std)
    theirs = (frame - torch.tensor([108.3272985, 116.7460125, 104.09373615])) / torch.tensor(
        [68.5005327, 66.6321579, 70.32316305]
    )
    torch.testing.assert_close(ours, theirs)


def test_clips_that_do_not_fit_are_refused(model, video):
    with pytest.raises(UsageError, match="has times for 4 frames, the clip has 8"):
        model.tokens(torch.cat([video, video], dim=2))
    with pytest.raises(UsageError, match="takes 3 x 12 x 12 pixels, not 3 x 8 x 12"):
        model.tokens(video[:, :, :, :8])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "does not divide into 5 heads"),
        ({"image_size": 14}, "do not divide into patches of 4"),
        ({"num_classes": (97, 300)}, "verb, noun, action"),
    ],
)
def test_impossible_sizes_are_refused(change, message):
    with pytest.raises(UsageError, match=message):
        replace(TINY, **change)


def test_a_position_table_keeps_its_class_row_and_what_is_the_same_everywhere():
    table = torch.randn(1 + 9, 8)
    assert torch.equal(resize_position(table, 3), table)
    larger = resize_position(table, 5)
    assert larger.shape == (26, 8)
    assert torch.equal(larger[0], table[0])
    torch.testing.assert_close(resize_position(table[:1].expand(10, 8), 5), table[:1].expand(26, 8))
    # the row's number: stays the row's business, and grows downwards
    rows = torch.arange(3.0).repeat_interleave(3)[:, None]
    grid = resize_position(torch.cat([torch.zeros(1, 1), rows]), 6)[1:].unflatten(0, (6, 6))[..., 0]
    assert (grid == grid[:, :1]).all()
    assert (grid.diff(dim=0) > 0).all()
    with pytest.raises(UsageError, match="11 rows is not a square grid"):
        TINY.fitted(torch.zeros(32, 3, 4, 4), {"0", "1"}, 11, 4, (), None)


def test_a_model_refitted_to_larger_frames_and_longer_clips_runs(model):
    config = replace(TINY, image_size=16, frames=6)
    larger = type(model)(config).eval()
    larger.load_state_dict(refit(model.state_dict(), config, time="interp"))
    assert larger.tokens(torch.randn(1, 3, 6, 16, 16)).shape == (1, 1 + 6 * 16, 32)
    assert larger.pixels.image_size == 16
    with pytest.raises(UsageError, match="no way 'cubic'"):
        resize_time(larger.embed.time, 9, "cubic")
