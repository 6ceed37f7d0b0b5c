"""Small videos with a soundtrack, made by PyAV in the test."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import transformers

from helpers.clips import HEIGHT, WIDTH, barcode

RATE = 48_000


def write_sound(
    path: Path,
    samples: np.ndarray | None,
    *,
    codec: str = "pcm_s16le",
    seconds: float = 6.0,
    delay: float = 0.0,
    picture: bool = True,
) -> Path:
    """A Matroska file with ten frames a second and `samples` (n, channels), -1 to 1 at RATE, that begin
    `delay` after them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="matroska" if codec.startswith("pcm") else "mp4") as container:
        video = container.add_stream("libx264", rate=10) if picture else None
        if video:
            video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = None
        if samples is not None:
            audio = container.add_stream(codec, rate=RATE, layout={1: "mono", 2: "stereo"}[samples.shape[1]])
        for number in range(round(seconds * 10)) if video else ():
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(video.encode(frame))
        if video:
            container.mux(video.encode())
        if audio:
            for first in range(0, len(samples), 1024):
                container.mux(
                    audio.encode(_frame(samples[first : first + 1024], codec, first + round(delay * RATE)))
                )
            container.mux(audio.encode())
    return path


def _frame(samples: np.ndarray, codec: str, pts: int) -> av.AudioFrame:
    layout = {1: "mono", 2: "stereo"}[samples.shape[1]]
    if codec.startswith("pcm"):
        whole = np.round(samples * 32767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(whole, format="s16", layout=layout)
    else:
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples.T.astype(np.float32)), format="fltp", layout=layout
        )
    frame.sample_rate, frame.pts, frame.time_base = RATE, pts, Fraction(1, RATE)
    return frame


def ramp(seconds: float = 6.0) -> np.ndarray:
    """(n, 1): a sample's value is a tenth of its time."""
    return (np.arange(round(seconds * RATE)) / RATE / 10)[:, None]


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


WAVES = {  # 80 samples a step
    **SMALL,
    "conv_dim": [8] * 3,
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 4, 4],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
# kind -> (model, config, what is special): models of sounds of any length
ANY_LENGTH = {
    "wav2vec2": (transformers.Wav2Vec2ForCTC, transformers.Wav2Vec2Config, {"vocab_size": 20}),
    "wav2vec2-layer": (transformers.Wav2Vec2Model, transformers.Wav2Vec2Config, LAYER_NORM),
    "hubert": (transformers.HubertModel, transformers.HubertConfig, {}),
    "hubert-batch-norm": (transformers.HubertModel, transformers.HubertConfig, {"conv_pos_batch_norm": True}),
    "wavlm": (transformers.WavLMModel, transformers.WavLMConfig, {}),
    "wavlm-layer": (transformers.WavLMModel, transformers.WavLMConfig, LAYER_NORM),
    "unispeech": (transformers.UniSpeechModel, transformers.UniSpeechConfig, {}),
    "unispeech-sat": (transformers.UniSpeechSatModel, transformers.UniSpeechSatConfig, {}),
    "data2vec": (
        transformers.Data2VecAudioModel,
        transformers.Data2VecAudioConfig,
        {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5},
    ),
    "sew": (transformers.SEWModel, transformers.SEWConfig, {"squeeze_factor": 2}),
    "wav2vec2-adapter": (
        transformers.Wav2Vec2Model,
        transformers.Wav2Vec2Config,
        {"add_adapter": True, "num_adapter_layers": 1},
    ),
    "wav2vec2-conformer": (transformers.Wav2Vec2ConformerModel, transformers.Wav2Vec2ConformerConfig, {}),
}


def model_of(kind: str):
    if kind in ANY_LENGTH:
        model, config, special = ANY_LENGTH[kind]
        return model(config(**{**WAVES, **special}))
    if kind == "ast":
        sizes = {
            "patch_size": 8,
            "frequency_stride": 8,
            "time_stride": 8,
            "max_length": 64,
            "num_mel_bins": 32,
        }
        return transformers.ASTForAudioClassification(transformers.ASTConfig(**SMALL, **sizes))
    sizes = {
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
    }
    tokens = {
        "pad_token_id": 1,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "decoder_start_token_id": 2,
        "vocab_size": 20,
    }
    config = transformers.WhisperConfig(
        d_model=16,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_mel_bins=16,
        max_source_positions=50,
        **sizes,
        **tokens,
    )
    return transformers.WhisperForConditionalGeneration(config)


EXTRACTORS = {
    "ast": {"feature_extractor_type": "ASTFeatureExtractor", "num_mel_bins": 32, "max_length": 64},
    "whisper": {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 16, "chunk_length": 1},
    **{kind: {"feature_extractor_type": "Wav2Vec2FeatureExtractor"} for kind in ANY_LENGTH},
}


def save_audio(folder: Path, kind: str) -> Path:
    torch.manual_seed(1)
    model = model_of(kind)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            part.running_mean.normal_()  # untrained, it would leave zeros alone
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(EXTRACTORS[kind]))
    return folder
