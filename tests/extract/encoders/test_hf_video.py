"""Every video model of transformers, tiny and saved as published ones are: tokens and their order, what is
refused, and that no model of the installed version is forgotten.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn.functional import pad
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES, model_type_to_module_name
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from helpers.hf import (
    ANY_FRAMES,
    CELLS,
    CLASS_TOKEN,
    FRAMES,
    PATCH,
    SIDE,
    SIZE,
    SMALL,
    TUBELET,
    WORDS,
    pe_model,
    save_video,
    square,
    video,
    video_config,
)
from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.conformance import check_encoder
from mambavl.extract.encoders.hf import modality_of, seeing_half
from mambavl.extract.encoders.hf_video import VIDEO_MODELS
from mambavl.extract.encoders.registry import build


def own_states(kind: str, folder: Path, clip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class token (B, D), or nothing, and states (B, any, D) as the model of transformers itself gives
    them.
    """
    frames = clip.transpose(1, 2).contiguous()
    if kind == "xclip":
        model = transformers.XCLIPModel.from_pretrained(folder).eval()
        found = model.vision_model(frames.flatten(0, 1))
        by_frame = found.last_hidden_state[:, 1:].unflatten(0, (len(clip), -1))
        # its own video embedding without the layers over time: the projection is linear, so means agree
        return found.pooler_output.unflatten(0, (len(clip), -1)).mean(1), by_frame.flatten(1, 2)
    if kind == "videomt":
        model = transformers.VideomtForUniversalSegmentation.from_pretrained(folder).eval()
        alone = [model(one[None]).last_hidden_state for one in frames]  # (T, queries + 1 + registers + hw, D)
        return torch.empty(0), torch.stack([one[:, 3 + 1 + 2 :].flatten(0, 1) for one in alone])
    model = transformers.AutoModel.from_pretrained(folder).eval()
    found = model(**{model.main_input_name: frames})
    if kind == "pe_video":
        return found.pooler_output, found.last_hidden_state
    first = int(kind in CLASS_TOKEN)
    return found.last_hidden_state[:, 0], found.last_hidden_state[:, first:]


@pytest.mark.parametrize("kind", TUBELET)
def test_a_published_folder_gives_the_base_models_tokens_in_our_order(folders, kind):
    encoder = build(f"hf:{folders[kind]}")
    clip, steps, cells = video(), FRAMES // TUBELET[kind], CELLS[kind] ** 2
    with torch.inference_mode():
        tokens = encoder.tokens(clip)
        class_token, own = own_states(kind, folders[kind], clip)
        pooled = encoder.pooled(clip)
    assert (encoder.kind, encoder.state, encoder.width) == ("video", "pretrained", 16)
    assert encoder.frames == (None if kind in ANY_FRAMES - {"vjepa2"} else FRAMES)
    assert encoder.token_grid((FRAMES, SIZE, SIZE)) == (steps, CELLS[kind], CELLS[kind])
    first = encoder.prefix_tokens
    assert first == encoder.has_class_token == (kind in CLASS_TOKEN)
    assert tokens.shape == (2, first + steps * cells, 16)
    if kind == "timesformer":  # all times of a place, then the next place
        own = own.unflatten(1, (cells, steps)).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(encoder.patch_tokens(tokens), own, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled, tokens[:, 0] if first else tokens.mean(1))
    if first:
        torch.testing.assert_close(encoder.class_token(tokens), class_token, rtol=1e-4, atol=1e-5)
    assert encoder.details["attention"] == ("eager" if kind in ("timesformer", "videoprism") else "sdpa")
    assert json.loads(json.dumps(encoder.details)) == encoder.details  # a store's spec holds it
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(name.startswith(("predictor.", "pooler.")) for name, _ in encoder.named_parameters())


@pytest.mark.parametrize(
    ("kind", "depth"),
    # PE-Video has one place, and a norm over all times; VideoPrism begins with weights that are not small
    [
        (kind, depth)
        for kind in TUBELET
        for depth in (0, 2)
        if kind not in ("pe_video", "videoprism" if depth else "")
    ],
)
def test_a_change_at_one_place_and_time_changes_its_token(tmp_path, kind, depth):
    """Without blocks nothing else can change; behind two blocks of small weights nothing changes as much."""
    encoder = build(f"hf:{save_video(tmp_path, kind, depth)}")
    clip, steps = video(1), FRAMES // TUBELET[kind]
    with torch.inference_mode():
        before = encoder.tokens(clip)[0, encoder.prefix_tokens :]
        for step, row, column in [(0, 0, 1), (0, 2, 0), (steps - 1, 1, 3)]:
            changed = clip.clone()
            cell = (slice(row * PATCH, row * PATCH + PATCH), slice(column * PATCH, column * PATCH + PATCH))
            changed[:, :, step * TUBELET[kind], *cell] += 1.0
            change = (encoder.tokens(changed)[0, encoder.prefix_tokens :] - before).abs().sum(1)
            place = (step * SIDE + row) * SIDE + column
            assert change.argmax().item() == place
            if depth == 0:
                assert change.nonzero().flatten().tolist() == [place]


@pytest.mark.parametrize("kind", TUBELET)
def test_every_kind_keeps_what_extraction_relies_on(folders, kind):
    findings = {found.name: found for found in check_encoder(f"hf:{folders[kind]}")}
    assert [found.text for found in findings.values() if found.verdict == "failed"] == []
    assert findings["tokens"].text.startswith(f"{int(kind in CLASS_TOKEN)} + ")


@pytest.mark.parametrize("kind", TUBELET)
def test_clips_of_other_lengths_and_sizes_are_refused_with_what_to_set(folders, kind):
    encoder, cells = build(f"hf:{folders[kind]}"), CELLS[kind]
    if kind in ANY_FRAMES:
        steps = 6 // TUBELET[kind]
        assert encoder.token_grid((6, SIZE, SIZE)) == (steps, cells, cells)
        assert encoder.tokens(video(1, 6)).shape == (1, encoder.prefix_tokens + steps * cells**2, 16)
    else:
        with pytest.raises(UsageError, match=r"takes 4 frames, the clip has 6; --set sampling\.frames=4"):
            encoder.tokens(video(1, 6))
    if kind not in ANY_FRAMES - {"vjepa2"}:
        with pytest.raises(UsageError, match=r"--set sampling\.frames=4"):
            encoder.token_grid((3, SIZE, SIZE))
    with pytest.raises(UsageError, match="32 x 32 pixels, not 40 x 32"):
        encoder.token_grid((FRAMES, 40, SIZE))
    with pytest.raises(UsageError, match="frames of 32 px, not 64"):
        build(f"hf:{folders[kind]}", image_size=64)


def test_a_processor_of_another_size_than_the_video_model_is_refused(tmp_path):
    folder = save_video(tmp_path, "videomae")
    (folder / "preprocessor_config.json").write_text(json.dumps(square("VideoMAEImageProcessor", 48)))
    with pytest.raises(UsageError, match="frames of 32 px, not 48"):
        build(f"hf:{folder}")


@pytest.mark.parametrize("kind", TUBELET)
def test_weights_that_lack_a_tensor_are_refused(tmp_path, kind):
    file = save_video(tmp_path, kind) / "model.safetensors"
    state = load_file(file)
    lost = next(
        name
        for name in state
        if name.endswith("weight")
        and ".1." in f".{name}"
        and not any(word in name for word in ("pool", "predict", "text", "mit.", "upscale", "head"))
    )
    del state[lost]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"lacks 1 of the model's tensors"):
        build(f"hf:{tmp_path}")


def test_an_oblong_model_is_refused(tmp_path):
    save_video(tmp_path, "videoprism", image_size=[SIZE, 2 * SIZE])
    with pytest.raises(UsageError, match=r"frames or patches of \[32, 64\] pixels, and clips are squares"):
        build(f"hf:{tmp_path}")


# --- models that hold one of video beside words and sound


def videoprism_with_words():
    return transformers.VideoPrismClipModel(
        transformers.VideoPrismConfig(
            vision_config=video_config("videoprism", 1).to_dict(), text_config={**WORDS, **SMALL}
        )
    )


@pytest.mark.parametrize(
    ("kind", "part", "make"),
    [
        ("videoprism", "video_model.vision_model", videoprism_with_words),
        ("pe_video", "video_encoder", lambda: pe_model("pe_video")),
        ("pe_video", "video_model.video_encoder", lambda: pe_model("pe_audio_video")),
    ],
)
def test_of_a_model_of_several_kinds_the_half_that_sees_video_is_run(tmp_path, kind, part, make):
    folder = save_video(tmp_path, kind, model=make())
    whole = transformers.AutoModel.from_pretrained(folder).eval().get_submodule(part)
    encoder, clip = build(f"hf:{folder}"), video()
    with torch.inference_mode():
        own = whole(clip.transpose(1, 2).contiguous()).last_hidden_state
        torch.testing.assert_close(encoder.patch_tokens(encoder.tokens(clip)), own, rtol=1e-4, atol=1e-5)
    assert not any("text" in name or "audio" in name for name, _ in encoder.named_parameters())


# --- what V-JEPA 2 predicts


@pytest.fixture(scope="module")
def telling(tmp_path_factory):
    """A V-JEPA 2 whose predictor's attention is sharp, so that a wrong place shows."""
    folder = save_video(tmp_path_factory.mktemp("telling"), "vjepa2")
    state = load_file(folder / "model.safetensors")
    for name in state:
        if "predictor.layer" in name and name.endswith("weight"):
            state[name] = state[name] * 30
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(("ahead", "steps"), [(0.0, 0), (1.9, 0), (8.0, 4), (7.9999999, 4)])
def test_predicted_tokens_are_those_of_transformers_own_forward_at_the_places_of_a_later_step(
    telling, ahead, steps
):
    """Places as V-JEPA 2's released anticipation code counts them: all tokens of the clip, behind them
    int(seconds x rate / 2) steps that are skipped, then one step.
    """
    encoder, clip = build(f"hf:{telling}", ahead=ahead), video()
    seen, cells = FRAMES // 2 * SIDE * SIDE, SIDE * SIDE
    context = torch.arange(seen).repeat(2, 1)
    model = transformers.AutoModel.from_pretrained(telling).eval()
    room = (0, 0, 0, cells * (steps + 2))  # it looks up what it predicts: there must be something
    model.encoder.register_forward_hook(
        lambda _, __, out: replace(out, last_hidden_state=pad(out.last_hidden_state, room))
    )

    def own(skipped):
        target = torch.arange(cells).repeat(2, 1) + seen + cells * skipped
        found = model(clip.transpose(1, 2), context_mask=[context], target_mask=[target])
        return found.predictor_output.last_hidden_state

    with torch.inference_mode():
        predicted = encoder.predicted(encoder.tokens(clip))
        torch.testing.assert_close(predicted, own(steps), rtol=1e-4, atol=1e-5)
        assert (predicted - own(steps + 1)).abs().max() > 0.01
    assert predicted.shape == (2, cells, 16)
    assert encoder.details["predictor"]["steps_ahead"] == steps
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_the_predictor_is_part_of_an_encoders_identity_only_where_it_is_asked_for(folders, tmp_path):
    plain = build(f"hf:{folders['vjepa2']}")
    asked = build(f"hf:{folders['vjepa2']}", ahead=0.0)
    assert asked.sha256 == plain.sha256
    assert plain.details == {key: value for key, value in asked.details.items() if key != "predictor"}
    assert not plain.has_predictor
    with pytest.raises(UsageError, match="has no predictor"):
        plain.predicted(plain.tokens(video()))
    file = save_video(tmp_path, "vjepa2") / "model.safetensors"
    state = load_file(file)
    name = next(name for name in state if "predictor" in name and name.endswith("proj.weight"))
    state[name] = state[name] + 1
    save_file(state, file, metadata={"format": "pt"})
    other = build(f"hf:{tmp_path}", ahead=0.0)
    assert other.details["predictor"]["sha256"] != asked.details["predictor"]["sha256"]
    del state[name]
    save_file(state, file, metadata={"format": "pt"})
    build(f"hf:{tmp_path}")
    with pytest.raises(UsageError, match="lacks 1 of the model's tensors"):
        build(f"hf:{tmp_path}", ahead=0.0)


def test_other_models_say_that_they_have_no_predictor_before_weights_are_read(folders, tmp_path):
    video_config("videomae").save_pretrained(tmp_path)  # and no weights
    with pytest.raises(UsageError, match="a videomae model has no predictor; V-JEPA 2 has one"):
        build(f"hf:{tmp_path}", ahead=0.0)


# --- the installed version

OF_VIDEO = re.compile(
    r"pixel_values_videos|input_modalities = .*video"
    r"|^    (?:num_frames|frames_per_clip|tubelet_size|\w*temporal_patch_size|patch_temporal) *:",
    re.MULTILINE,
)
# run a frame at a time: of models of language, of segmentation, and of pictures
FRAME_BY_FRAME = {
    *("clip_vision_model", "siglip_vision_model", "timm_wrapper", "internvl_vision", "qianfan_ocr_vision"),
    *("smolvlm_vision", "minicpm_ocr_vision", "minicpmv4_7_vision", "radio"),
    *("sam2_vision_model", "sam3_vision_model"),
}
SEES_NOTHING = ("_text", "_text_model", "_mask_decoder", "_prompt_encoder", "_audio")


def code_of_models() -> dict[str, str]:
    """Of every folder of transformers' models, the code of its models and configs."""
    found: dict[str, str] = {}
    for file in sorted((Path(transformers.__file__).parent / "models").glob("*/*.py")):
        if file.name.startswith(("configuration_", "modeling_")):
            found[file.parent.name] = found.get(file.parent.name, "") + file.read_text()
    return found


def test_every_video_model_of_the_installed_transformers_is_run_or_refused_with_a_reason():
    code, run, lost = code_of_models(), set(), []
    for kind in CONFIG_MAPPING_NAMES:
        of_it = code.get(model_type_to_module_name(kind), "")
        if not OF_VIDEO.search(of_it) and kind not in VIDEO_PROCESSOR_MAPPING_NAMES:
            continue
        config = seeing_half(transformers.CONFIG_MAPPING[kind]())
        speaks = "GenerationMixin" in of_it  # a model of language that may see as well
        is_blind = kind.endswith(SEES_NOTHING) or getattr(config, "vision_config", 0) is None
        try:
            modality = modality_of("hf:X", config)
        except UsageError as error:
            needs = re.search(r"it takes .+, and what there is to give|only together", str(error))
            is_part = "by itself" in str(error) and (speaks or is_blind)
            if not (needs or is_part):
                lost.append(str(error))
        else:
            if modality == "video":
                run.add(config.model_type)
            elif modality == "image" and config.model_type not in FRAME_BY_FRAME:
                lost.append(f"{kind} is run frame by frame")
            elif modality == "text" and not (speaks or is_blind):
                lost.append(f"{kind} is taken for a text model")
    assert lost == []
    assert run == set(VIDEO_MODELS)


def test_a_video_model_that_nothing_here_knows_is_not_run_frame_by_frame(monkeypatch):
    for kind in ("vivit", "videoprism_vision_model", "vjepa2"):
        monkeypatch.delitem(VIDEO_MODELS, kind)
        config = transformers.CONFIG_MAPPING[kind]()
        with pytest.raises(UsageError, match=f"a {kind} model reads video, and nothing here knows the order"):
            modality_of("hf:X", config)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("qwen3_vl", "qwen3_vl_vision model: it takes hidden_states, grid_thw, and"),
        ("video_llama_3", "it takes pixel_values, grid_thw, merge_sizes, and"),
        ("sam3_video", "it takes inference_session, and"),
        ("tvp", "a tvp model reads words and video together, and only together"),
        ("molmo2", "AutoModel of transformers builds no molmo2_vision model by itself"),
    ],
)
def test_a_model_that_cannot_be_run_on_clips_says_what_it_would_need(kind, reason):
    with pytest.raises(UsageError, match=reason):
        modality_of("hf:X", seeing_half(transformers.CONFIG_MAPPING[kind]()))
