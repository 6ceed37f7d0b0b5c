"""`audio:NAME` on tiny models saved as published ones are: steps of time, windows, neighbours, refusals."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from helpers.sounds import ANY_LENGTH, EXTRACTORS, save_audio
from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.audio import audio_levels
from mambavl.extract.encoders.registry import build, kind_of
from mambavl.extract.encoders.weights import weights_sha256

WINDOW = {"ast": 10_240, "whisper": 16_000}  # samples; the others take any length
KINDS = ("ast", "whisper", "wav2vec2", "hubert", "wavlm")
ALONE = ("sew", "wav2vec2-adapter", "wav2vec2-conformer")  # an end of a row is not masked all the way


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: save_audio(tmp_path_factory.mktemp(kind), kind) for kind in EXTRACTORS}


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.1, size=samples).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_becomes_the_models_own_states(folders, kind):
    encoder = build(f"audio:{folders[kind]}")
    assert (encoder.kind, encoder.rate, encoder.width, encoder.state) == ("audio", 16_000, 16, "pretrained")
    wave = noise(WINDOW.get(kind, 8000))
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folders[kind])
    model = transformers.AutoModel.from_pretrained(folders[kind]).eval()
    with torch.inference_mode():
        features = extractor(wave, sampling_rate=16_000, return_tensors="pt")[model.main_input_name]
        model = model.get_encoder() if kind == "whisper" else model
        own = model(features).last_hidden_state[0]
    if kind == "ast":  # 4 bands x 8 times behind two tokens
        own = torch.stack([own[2 + time :: 8][:4].mean(0) for time in range(8)])
    (states,) = encoder.encode([wave])
    torch.testing.assert_close(states, own, rtol=1e-4, atol=1e-5)
    assert not any("decoder" in name for name, _ in encoder.named_parameters())


SOUNDS = [noise(samples, seed) for seed, samples in enumerate((4000, 7001, 4000, 1600, 40_000, 12_345))]
SOUNDS[2] *= 30  # loud enough to be noticed by all that it is run with


@pytest.mark.parametrize("kind", ANY_LENGTH)
def test_a_sound_of_a_batch_is_what_transformers_makes_of_it_alone_in_float64(folders, kind):
    encoder = build(f"audio:{folders[kind]}")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folders[kind])
    model = transformers.AutoModel.from_pretrained(folders[kind]).eval()
    assert weights_sha256(model) == encoder.sha256
    model.double()
    together = encoder.encode(SOUNDS)
    for sound, states in zip(SOUNDS, together, strict=True):
        values = extractor([sound], sampling_rate=16_000, return_tensors="pt").input_values
        with torch.inference_mode():
            alone = model(values.double()).last_hidden_state[0]
        torch.testing.assert_close(states.double(), alone, rtol=0, atol=1e-5)
    assert all(torch.equal(one, two) for one, two in zip(together, encoder.encode(SOUNDS), strict=True))


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_a_sound_does_not_depend_on_its_neighbours(folders, kind):
    """In whichever order, however many, however loud."""
    encoder = build(f"audio:{folders[kind]}")
    together = encoder.encode(SOUNDS)
    for rows in ([0], [1, 2], [5, 4, 3, 2, 1, 0], [0, 2]):
        for row, states in zip(rows, encoder.encode([SOUNDS[row] for row in rows]), strict=True):
            torch.testing.assert_close(states, together[row], rtol=0, atol=1e-5)


def runs_of(encoder) -> list[int]:
    """A list that tells, as they come, how many sounds each run of the encoder's transformer has."""
    seen = []
    is_outer = encoder.model.config.model_type in ("whisper", "audio-spectrogram-transformer")
    part = encoder.model if is_outer else encoder.model.encoder
    part.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    return seen


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_sounds_of_mixed_length_are_run_together_unless_the_details_say_alone(folders, kind):
    encoder = build(f"audio:{folders[kind]}")
    seen = runs_of(encoder)
    encoder.encode([noise(samples, 1) for samples in (4000, 7001, 5000, 1600, 7100, 6000, 1601, 7000)])
    together = {"together": [8], "alone": [1] * 8}
    assert (encoder.details["mixed_lengths"] == "alone") == (kind in ALONE)
    assert seen == together[encoder.details["mixed_lengths"]]
    seen.clear()
    encoder.encode([noise(6000, seed) for seed in range(8)])
    assert seen == [8]


def test_a_run_is_no_longer_than_a_window_or_no_more_than_half_of_a_row_in_it_is_empty(folders):
    encoder = build(f"audio:{folders['wavlm']}")
    encoder.window = 8000
    seen = runs_of(encoder)
    encoder.encode([noise(samples) for samples in (1600, 7000, 1999, 4000, 2000, 8000, 1700, 3999)])
    # 8000, 7000, 4000 | 3999, 2000: 2 x 3999 is no more than a window | 1999, 1700, 1600
    assert seen == [3, 2, 3]


@pytest.mark.parametrize("kind", ["whisper", "ast", "hubert"])
def test_no_more_windows_are_run_at_once_than_there_are_sounds(folders, kind):
    encoder = build(f"audio:{folders[kind]}")
    encoder.window = WINDOW.get(kind, 8000)
    seen = runs_of(encoder)
    encoder.encode([noise(5 * encoder.window), noise(2 * encoder.window)])
    assert seen == [2, 2, 2, 1]


@pytest.mark.parametrize("kind", WINDOW)
def test_fixed_windows_keep_the_steps_of_the_clip_and_go_on_where_it_is_longer(folders, kind):
    encoder, window = build(f"audio:{folders[kind]}"), WINDOW[kind]
    assert encoder.window == window
    whole = len(encoder.encode([noise(window)])[0])
    assert len(encoder.encode([noise(window // 2)])[0]) == whole // 2
    long = noise(2 * window)
    torch.testing.assert_close(
        encoder.encode([long])[0], torch.cat(encoder.encode([long[:window], long[window:]]))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_steps_follow_time(folders, kind):
    """A burst late in the clip changes the late steps more than the early ones."""
    encoder = build(f"audio:{folders[kind]}")
    wave = noise(8000)
    burst = wave.copy()
    burst[6400:7200] += noise(800, 9) * 8
    before, after = (encoder.encode([x])[0] for x in (wave, burst))
    change = (after - before).abs().sum(1)
    assert 0.7 < (change.argmax().item() + 0.5) / len(change) < 1.0


def test_levels_are_means_of_equal_parts():
    states = torch.arange(8.0)[:, None].repeat(1, 3)
    found = audio_levels(states, ("clip", "frame"), 4)
    assert found["clip"].tolist() == [3.5] * 3
    assert found["frame"][:, 0].tolist() == [0.5, 2.5, 4.5, 6.5]
    # fewer states than parts repeat
    assert audio_levels(states[:2], ("frame",), 4)["frame"][:, 0].tolist() == [0, 0, 1, 1]


def test_what_shapes_the_features_is_in_the_details(folders):
    details = build(f"audio:{folders['whisper']}").details
    assert details["features"]["chunk_length"] == 1
    assert details["window_samples"] == 16_000
    assert build(f"audio:{folders['ast']}").details["filter_bank"] in ("numpy", "torchaudio")
    json.dumps(details, allow_nan=False)


def test_refusals_say_what_to_do(tmp_path, folders):
    assert kind_of("audio:anything") == "audio"
    encoder = build(f"audio:{folders['hubert']}")
    with pytest.raises(UsageError, match=r"fewer than 1600 samples \(0\.1 s\)"):
        encoder.encode([noise(1000)])
    transformers.ViTConfig().save_pretrained(tmp_path / "vit")
    with pytest.raises(UsageError, match="a model of image; use hf:"):
        build(f"audio:{tmp_path / 'vit'}")
    bare = save_audio(tmp_path / "bare", "hubert")
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(
        UsageError, match=r"no preprocessor_config\.json .* put the one published with the weights"
    ):
        build(f"audio:{bare}")
    lacking = save_audio(tmp_path / "lacking", "wav2vec2") / "model.safetensors"
    state = load_file(lacking)
    del state[next(name for name in state if name.endswith("layers.1.final_layer_norm.weight"))]
    save_file(state, lacking, metadata={"format": "pt"})
    with pytest.raises(UsageError, match="lacks 1 of the model's tensors"):
        build(f"audio:{lacking.parent}")
    with pytest.raises(UsageError, match="Without a network, give --weights FOLDER"):
        build("audio:/nowhere")


def test_random_weights_need_no_weights_file(tmp_path):
    folder = save_audio(tmp_path, "wavlm")
    (folder / "model.safetensors").unlink()
    one, other = (build(f"audio:{folder}", weights="random") for _ in range(2))
    assert (one.state, one.sha256) == ("random", other.sha256)
