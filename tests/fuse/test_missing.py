"""A row without sound, without text, without a past: what heads make of it, how it is counted, what training
drops.
"""

import numpy as np
import pytest
import torch

from helpers.group import start_group, wait_for_group
from helpers.holed import holed_recipe, holed_sources, make_holed_stores
from helpers.tiny import ROWS, make_dense_store, weights
from mambavl.configs.errors import DataError, Interrupted
from mambavl.fuse.attentive import AttentiveConfig, AttentiveFusion
from mambavl.fuse.baselines import MLPConfig, MLPFusion, TransformerConfig, TransformerFusion
from mambavl.fuse.bidirectional import BidirectionalFusion
from mambavl.fuse.cross import CrossConfig, CrossFusion
from mambavl.fuse.data import DataConfig, FeatureData
from mambavl.fuse.deep import DeepConfig, DeepFusion
from mambavl.fuse.dropout import row_keys
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import ABSENT, StreamShape, without_padding
from mambavl.fuse.missing import draw_dropped, drop_channels, usable_rows
from mambavl.fuse.mixture import MixtureConfig, MixtureFusion
from mambavl.fuse.recipe import build_head, run_targets
from mambavl.fuse.run import read_prior, read_scores
from mambavl.fuse.train import train

WIDTHS = {"video": 5, "audio": 4, "verb_question": 3, "noun_question": 3}
COMMON = {"d_model": 8, "targets": {"verb": 5, "noun": 7}, "dropout": 0.0}
DEEP = {"depth": 2, "num_heads": 2, "max_positions": 16, "block_dropout": 0.0}
HEADS = {
    "mambavl": lambda **kw: SSMFusion(FusionConfig(**COMMON, d_state=3, **kw)),
    "padded": lambda **kw: SSMFusion(FusionConfig(**COMMON, d_state=3, pad_text_to=9, **kw)),
    "plain": lambda **kw: SSMFusion(FusionConfig(**COMMON, d_state=3, preset="paper", **kw)),
    "bidirectional": lambda **kw: BidirectionalFusion(FusionConfig(**COMMON, d_state=3, **kw)),
    "cross": lambda **kw: CrossFusion(CrossConfig(**COMMON, d_state=3, **kw)),
    "gated": lambda **kw: CrossFusion(CrossConfig(**COMMON, d_state=3, gated=True, **kw)),
    "mixture": lambda **kw: MixtureFusion(MixtureConfig(**COMMON, d_state=3, **kw)),
    "deep": lambda **kw: DeepFusion(DeepConfig(**COMMON, d_state=3, layers=3, **kw)),
    "mlp": lambda **kw: MLPFusion(MLPConfig(**COMMON, **kw)),
    "transformer": lambda **kw: TransformerFusion(TransformerConfig(**COMMON, **DEEP, **kw)),
    "pooled": lambda **kw: TransformerFusion(TransformerConfig(**COMMON, **DEEP, tokens="pooled", **kw)),
    "attentive": lambda **kw: AttentiveFusion(
        AttentiveConfig(**COMMON, depth=2, num_heads=2, max_positions=16, **kw)
    ),
}
OF_SHAPE = [kind for kind in HEADS if kind != "mlp"]  # its weights depend on the number of streams


def build(kind, names=tuple(WIDTHS)):
    """The head, its text routed to both classifiers, so that one row's text reaches all there is."""
    torch.manual_seed(0)
    return HEADS[kind](streams={name: StreamShape(width=WIDTHS[name]) for name in names}).eval()


def make_streams(absent=(), rows=4):
    """Full rows, 6 video tokens and up to 6 others; absent: (row, stream) that are not there."""
    generator = torch.Generator().manual_seed(1)
    streams = {}
    for name, width in WIDTHS.items():
        tokens = torch.randn(rows, 6, width, generator=generator)
        lengths = torch.tensor([6, 3, 1, 5])[:rows] if name != "video" else torch.full((rows,), 6)
        for row, stream in absent:
            if stream == name:
                lengths[row] = ABSENT
                tokens[row] = torch.nan  # nothing is read of it
        streams[name] = tokens, lengths
    return streams


def without(kind, head, dropped, streams):
    """What a head of the same weights that was built without a stream makes of the others."""
    names = [name for name in WIDTHS if name != dropped]
    other = build(kind, names)
    found = head.state_dict()
    other.load_state_dict({name: found[name] for name in other.state_dict()})
    return other({name: streams[name] for name in names})


@pytest.mark.parametrize("absent", list(WIDTHS))
@pytest.mark.parametrize("kind", OF_SHAPE)
def test_a_row_without_a_stream_is_scored_as_by_a_head_that_was_built_without_it(kind, absent):
    """Also where it is the stream whose class token is read of other rows, and where padding counts."""
    head, streams = build(kind), make_streams([(2, absent)])
    found, expected = head(streams), without(kind, head, absent, streams)
    for target in ("verb", "noun"):
        torch.testing.assert_close(found[target][2], expected[target][2], rtol=1e-5, atol=1e-6)
        if absent != ("noun_question" if target == "verb" else "verb_question"):
            assert not torch.allclose(found[target][1], expected[target][1], atol=1e-3)  # it has the stream


@pytest.mark.parametrize("absent", list(WIDTHS))
@pytest.mark.parametrize("kind", ["mambavl", "padded", "plain", "bidirectional", "mixture"])
def test_mambavl_adds_nothing_for_a_stream_that_is_not_there(kind, absent):
    """To the bit: the sum of the others' pooled vectors is the sum."""
    head, streams = build(kind), make_streams([(row, absent) for row in range(4)])
    for target, logits in without(kind, head, absent, streams).items():
        assert torch.equal(head(streams)[target], logits)


@pytest.mark.parametrize("kind", ["mambavl", "padded"])
def test_no_scan_is_asked_for_a_negative_number_of_steps(kind):
    head, streams = build(kind), make_streams([(2, "audio"), (1, "verb_question")])
    asked = {modality: head._scan_inputs(modality, streams)[0].lengths for modality in head.modalities}
    assert asked["audio"][2] == asked["text"][1] == 0
    assert all((lengths >= 0).all() for lengths in asked.values())


def test_the_mlps_vector_of_a_stream_that_is_not_there_is_zero():
    head, streams = build("mlp"), make_streams([(2, "audio")])
    vector = head._vector("audio", *streams["audio"])
    assert not vector[2].any()
    assert vector[1].all()


@pytest.mark.parametrize("absent", list(WIDTHS))
@pytest.mark.parametrize("kind", HEADS)
def test_other_rows_of_the_batch_are_scored_as_ever(kind, absent):
    head = build(kind)
    full, found = head(make_streams()), head(make_streams([(2, absent)]))
    for target, logits in full.items():
        # a product over fewer tokens may round otherwise
        torch.testing.assert_close(found[target][[0, 1, 3]], logits[[0, 1, 3]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", HEADS)
def test_a_row_without_any_stream_depends_on_no_other_row_and_spoils_no_gradient(kind):
    head = build(kind)
    nothing = [(2, name) for name in WIDTHS]
    found = head(make_streams(nothing))
    streams = make_streams([*nothing, (0, "audio"), (1, "video")])
    again = head(streams)
    for target, logits in found.items():
        assert logits.isfinite().all()
        assert torch.equal(again[target][2], logits[2])
    (again["verb"].square().sum() + again["noun"].square().sum()).backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("kind", OF_SHAPE)
def test_a_classifier_reads_zeros_of_a_row_without_any_stream(kind):
    streams = make_streams([(2, name) for name in WIDTHS])
    for fused in build(kind).fuse(without_padding(streams)).values():
        assert not fused[2].any()
        assert fused[1].all()


def test_attention_is_never_to_nothing():
    """Some kernels make NaN of it."""
    head, masks = build("transformer"), []
    for block in head.blocks:
        block.register_forward_pre_hook(lambda _, given: masks.append(given[1]))
    head(make_streams([(2, name) for name in WIDTHS]))
    assert masks
    assert all(mask.any(-1).all() for mask in masks)


def gradients(head, logits):
    head.zero_grad()
    sum(values.square().sum() for values in logits.values()).backward()
    return {name: parameter.grad.clone() for name, parameter in head.named_parameters()}


@pytest.mark.parametrize("kind", HEADS)
def test_a_row_sends_no_gradient_to_what_belongs_to_a_stream_it_does_not_have(kind):
    head, streams = build(kind), make_streams([(2, "audio")])
    owned = [name for name, _ in head.named_parameters() if ".audio" in name]
    assert owned
    of_row = gradients(head, {target: logits[2] for target, logits in head(streams).items()})
    assert not any(of_row[name].any() for name in owned)
    of_other = gradients(head, {target: logits[1] for target, logits in head(streams).items()})
    assert all(of_other[name].any() for name in owned if "d_skip" not in name)


@pytest.mark.parametrize("kind", HEADS)
def test_every_parameter_has_a_gradient_even_where_no_row_has_the_stream(kind):
    """DDP waits for a gradient of each."""
    head = build(kind)
    streams = make_streams([(row, "audio") for row in range(4)])
    streams["audio"] = streams["audio"][0][:, :0], streams["audio"][1]  # as a batch of texts has it
    assert all(grad.isfinite().all() for grad in gradients(head, head(streams)).values())


# --- rows of stores


@pytest.fixture(scope="module")
def holed(tmp_path_factory):
    return make_holed_stores(tmp_path_factory.mktemp("holed"))


def test_a_row_is_used_as_long_as_it_has_a_stream_and_all_that_are_required(holed):
    both = {name: source for name, source in holed_sources(holed).items() if name != "verb_question"}

    def unusable(data):
        return np.flatnonzero(~data.usable).tolist()

    with pytest.raises(
        DataError, match=r"3 rows lack a stream that they need .*P01_101_5, missing_video in stream video"
    ) as error:
        FeatureData(both, DataConfig())
    assert "data.allow_missing=3, or use what they have, with --set data.missing=mask" in str(error.value)
    assert unusable(FeatureData(both, DataConfig(allow_missing=3))) == [5, 7, 20]
    with pytest.raises(
        DataError, match=r"1 rows lack a stream that they need .*no_soundtrack in stream audio.*=1$"
    ):
        FeatureData(both, DataConfig(missing="mask"))  # row 20 has neither
    assert unusable(FeatureData(both, DataConfig(missing="mask", allow_missing=1))) == [20]
    assert unusable(FeatureData(holed_sources(holed), DataConfig(missing="mask"))) == []
    with pytest.raises(DataError, match=r"2 rows lack a stream that they need .*=2$"):
        FeatureData(holed_sources(holed), DataConfig(missing="mask", require=["video"]))
    required = DataConfig(missing="mask", require=["video"], allow_missing=2)
    assert unusable(FeatureData(holed_sources(holed), required)) == [5, 20]
    assert unusable(FeatureData(holed_sources(holed), DataConfig(missing="mask", require=["hands"]))) == []


def test_a_video_alone_has_nothing_else_to_use(holed):
    with pytest.raises(DataError, match=r"1 rows lack a stream that they need .*data\.allow_missing=1$"):
        FeatureData(holed_sources(holed, ("video",)), DataConfig())


@pytest.mark.parametrize("resident", ["mmap", "device"])
@pytest.mark.parametrize("class_token", [False, True])
def test_a_batch_holds_zeros_where_a_row_has_no_features(holed, resident, class_token):
    options = {"level": "frame", "class_token": class_token}
    streams = holed_sources(holed, ("video", "audio"), **options) | holed_sources(holed, ("verb_question",))
    data = FeatureData(streams, DataConfig(missing="mask", resident=resident))
    rows = np.array([20, 6, 7, 5])
    batch = data.batch(rows)
    steps = 4 + class_token
    assert batch["video"][1].tolist() == [ABSENT, steps, steps, ABSENT]
    assert batch["audio"][1].tolist() == [ABSENT, steps, ABSENT, steps]
    assert (batch["verb_question"][1] >= 0).all()
    for name in ("video", "audio"):
        tokens, lengths = batch[name]
        assert tokens.shape == (4, steps, 6)
        assert not tokens[lengths == ABSENT].any()
        alone = data.batch(rows[lengths.numpy() > 0])[name]
        assert torch.equal(tokens[lengths > 0], alone[0])


def test_a_batch_in_which_no_row_has_a_stream_has_its_shape(holed):
    data = FeatureData(holed_sources(holed), DataConfig(missing="mask"))
    tokens, lengths = data.batch(np.array([5, 20]))["video"]
    assert tokens.shape == (2, 4, 6)
    assert lengths.tolist() == [ABSENT, ABSENT]
    text = data.batch(np.array([1, 2]), dropped={"verb_question": np.ones(ROWS, bool)})["verb_question"]
    assert text[0].shape == (2, 0, 5)
    assert text[1].tolist() == [ABSENT, ABSENT]


def test_views_stay_with_their_rows(tmp_path):
    features = make_dense_store(tmp_path / "video.zarr", ROWS, views=3, failed={5: 3})
    make_dense_store(tmp_path / "audio.zarr", ROWS)
    data = FeatureData(holed_sources(tmp_path, ("video", "audio")), DataConfig(missing="mask"))
    tokens, _ = data.batch(np.array([3, 5, 4]), view=np.array([2, 1, 0]))["video"]
    np.testing.assert_array_equal(tokens[0], features[3, 2])
    np.testing.assert_array_equal(tokens[2], features[4, 0])


def test_a_row_that_is_not_usable_is_not_asked_for(holed):
    data = FeatureData(holed_sources(holed), DataConfig(allow_missing=3))
    with pytest.raises(DataError, match="row P01_101_7 has no features to be trained on or scored with"):
        data.batch(np.array([6, 7]))


def test_a_row_without_sound_is_trained_on_and_scored_without_it_and_counted(holed, tmp_path):
    """By hand: validation holds the blocks of six rows 6-11, 18-23, ..."""
    recipe = holed_recipe(holed)
    result = train(recipe, tmp_path / "run")
    assert result.rows.scored == 24
    assert result.rows.missing == {"video": 1, "audio": 2}  # rows 20; 7 and 20
    assert result.rows.scored_by_prior == 1  # row 20
    assert result.rows.failed == 1
    assert result.trained.train_rows == 24
    assert result.trained.missing == {"video": 1, "audio": 0}  # row 5
    data = FeatureData(recipe.sources, recipe.data)
    scores, row = read_scores(tmp_path / "run", "validation"), data.evaluation.tolist().index(7)
    head = build_head(recipe, data, run_targets(recipe, data))
    head.load_state_dict(weights(tmp_path / "run"))
    video = FeatureData(holed_sources(holed, ("video",)), DataConfig(allow_missing=1)).batch(np.array([7]))[
        "video"
    ]
    absent = torch.full((1, 2, 6), torch.nan), torch.tensor([ABSENT])
    with torch.inference_mode():
        expected = head.eval()({"video": video, "audio": absent})["verb"].log_softmax(-1)[0]
    torch.testing.assert_close(torch.from_numpy(scores["verb"][row]), expected, rtol=1e-4, atol=1e-5)
    of_row_20 = scores["verb"][data.evaluation.tolist().index(20)]
    np.testing.assert_allclose(of_row_20, read_prior(tmp_path / "run")["verb"], rtol=1e-5)


def test_rows_are_counted_by_stream_where_they_are_refused_too(holed, tmp_path):
    result = train(
        holed_recipe(holed, [("data.missing", "refuse"), ("data.allow_missing", 3)], epochs=1),
        tmp_path / "run",
    )
    assert result.rows.missing == {"video": 1, "audio": 2}
    assert result.rows.scored_by_prior == 2  # rows 7 and 20
    assert result.trained.missing == {"video": 0, "audio": 0}
    assert result.trained.train_rows == 23


# --- dropped in training


def test_which_rows_lose_which_stream_is_known():
    """An independent formula: numpy's generator seeded with the seed, the epoch and the name's bytes."""
    has = {"video": np.ones(40, bool), "audio": np.arange(40) % 4 > 0}
    found = draw_dropped(has, {"audio": 0.5, "video": 0.3}, seed=7, epoch=2)
    audio, video = (
        np.random.Generator(np.random.PCG64(np.random.SeedSequence([7, 2, *map(ord, name)]))).random(40)
        for name in ("audio", "video")
    )
    expected = {"audio": set(), "video": set()}
    for row in range(40):
        has_audio = row % 4 > 0
        loses_audio, loses_video = has_audio and audio[row] < 0.5, video[row] < 0.3
        if (has_audio and not loses_audio) or not loses_video:
            expected["audio"] |= {row} if loses_audio else set()
            expected["video"] |= {row} if loses_video else set()
    assert {name: set(np.flatnonzero(rows)) for name, rows in found.items()} == expected
    assert expected["audio"]
    assert expected["video"]
    # other streams, other probabilities and streams that are not there change nothing
    assert np.flatnonzero(draw_dropped(has, {"audio": 0.5, "hands": 0.9}, 7, 2)["audio"]).tolist() == [
        row for row in range(40) if row % 4 and audio[row] < 0.5
    ]
    assert draw_dropped(has, {}, 7, 2) == {}
    assert (draw_dropped(has, {"audio": 0.5}, 7, 3)["audio"] != found["audio"]).any()


def test_no_row_loses_its_last_stream_and_as_many_as_asked_for_lose_one():
    rng = np.random.default_rng(0)
    has = {name: rng.random(20_000) < 0.7 for name in ("video", "audio", "hands")}
    chances = {"video": 0.5, "audio": 0.9}
    lost = draw_dropped(has, chances, 0, 0)
    left = usable_rows({name: rows & ~lost[name] if name in lost else rows for name, rows in has.items()})
    np.testing.assert_array_equal(left, usable_rows(has))
    for name, chance in chances.items():
        assert not lost[name][~has[name]].any()
        assert abs(lost[name][has[name] & has["hands"]].mean() - chance) < 0.02


def test_dropped_rows_reach_the_head_as_rows_without_the_stream(holed, tmp_path, monkeypatch):
    """Seen from the batches of training; scoring drops nothing."""
    recipe = holed_recipe(holed, [("train.drop_streams", {"audio": 0.5})], epochs=3, seed=4)
    asked, batch = [], FeatureData.batch

    def watched(self, rows, *arguments):
        found = batch(self, rows, *arguments)
        asked.append((rows, found["audio"][1]))
        return found

    monkeypatch.setattr(FeatureData, "batch", watched)
    train(recipe, tmp_path / "run")
    data = FeatureData(recipe.sources, recipe.data)
    is_train = np.isin(np.arange(ROWS), data.train)
    seen = [(rows, lengths) for rows, lengths in asked if is_train[rows].all()]
    assert len(seen) == 3 * 3  # 24 rows in batches of 8
    for number, (rows, lengths) in enumerate(seen):
        lost = draw_dropped(data.has, {"audio": 0.5}, 4, number // 3)["audio"]
        np.testing.assert_array_equal(lengths == ABSENT, lost[rows])
    scored = torch.cat([lengths for rows, lengths in asked if not is_train[rows].any()])
    # row 7, in each epoch: the last one's scores are the result's. Row 20 is not asked for
    assert (scored == ABSENT).sum() == 3


def test_dropping_changes_the_weights_and_survives_an_interruption(holed, tmp_path):
    recipe = holed_recipe(holed, [("train.drop_streams", {"audio": 0.5})])
    train(holed_recipe(holed), tmp_path / "kept")
    train(recipe, tmp_path / "whole")
    calls = iter(range(1000))
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", should_stop=lambda: next(calls) >= 4)
    train(recipe, tmp_path / "run")
    kept, whole, resumed = (weights(tmp_path / name) for name in ("kept", "whole", "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not torch.equal(whole["project.audio.1.weight"], kept["project.audio.1.weight"])


def test_two_processes_train_what_one_does(holed, tmp_path):
    """Batches of three: a process often has no row with sound, and each parameter must have a gradient."""
    recipe = holed_recipe(
        holed,
        [("train.drop_streams", {"audio": 0.6})],
        epochs=2,
        batch_size=3,
        optimizer="sgd",
    )
    codes = wait_for_group(start_group(lambda: train(recipe, tmp_path / "two"), tmp_path))
    assert codes == [0, 0], "".join(path.read_text() for path in tmp_path.glob("rank-*.log"))
    train(recipe, tmp_path / "one")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)


def test_channels_are_lost_in_all_tokens_of_a_row_and_the_others_scaled():
    generator = torch.Generator().manual_seed(0)
    tokens, lengths = torch.randn(64, 5, 40, generator=generator).sign(), torch.full((64,), 5)
    streams = {"video": (tokens, lengths), "sound": (tokens, lengths)}
    keys = row_keys(1, 2, np.arange(64))
    found = drop_channels(streams, {"video": 0.25, "smell": 0.5}, keys)
    assert found["sound"][0] is tokens
    ratio = found["video"][0] / tokens
    assert torch.equal(ratio, ratio[:, :1].expand_as(ratio))  # of all tokens alike
    lost = (ratio[:, 0] == 0).double()
    torch.testing.assert_close(ratio[ratio != 0], torch.full_like(ratio[ratio != 0], 4 / 3))
    assert lost.mean().item() == pytest.approx(0.25, abs=0.03)
    assert len(lost.unique(dim=0)) == 64  # each row loses its own
    again = drop_channels({"video": (tokens[8:9], lengths[8:9])}, {"video": 0.25}, keys[8:9])
    assert torch.equal(again["video"][0], found["video"][0][8:9])  # in any batch
    other = drop_channels({"sound": (tokens, lengths)}, {"sound": 0.25}, keys)["sound"][0] / tokens
    assert not torch.equal(other, ratio)  # another stream loses others
