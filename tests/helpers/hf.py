"""Tiny transformers models of video and images, saved as published ones are."""

import json
from pathlib import Path

import torch
import transformers

SIZE, PATCH, FRAMES = 32, 8, 4

SIDE = SIZE // PATCH

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}

# frames of a time step, by kind of video model
TUBELET = {
    "videomae": 2,
    "vivit": 2,
    "vjepa2": 2,
    "timesformer": 1,
    "videoprism": 1,
    "xclip": 1,
    "pe_video": 1,
    "videomt": 1,
}
CELLS = {**dict.fromkeys(TUBELET, SIDE), "pe_video": 1}  # along a side of the grid
CLASS_TOKEN = {"timesformer", "vivit", "xclip", "pe_video"}
ANY_FRAMES = {"vjepa2", "pe_video", "videomt"}
WORDS = {"vocab_size": 20, "num_hidden_layers": 1, "max_position_embeddings": 8, **SMALL}


def video_config(kind: str, depth: int = 2, **more):
    flat = {"image_size": SIZE, "patch_size": PATCH, "num_hidden_layers": depth, **SMALL, **more}
    clips = {**flat, "num_frames": FRAMES}
    if kind == "videomae":
        return transformers.VideoMAEConfig(**clips, tubelet_size=2)
    if kind == "timesformer":
        return transformers.TimesformerConfig(**clips)
    if kind == "vivit":
        del clips["patch_size"]
        return transformers.VivitConfig(**clips, tubelet_size=[2, PATCH, PATCH])
    if kind == "videoprism":
        for key in ("patch_size", "num_hidden_layers"):
            del clips[key]
        depths = {"num_spatial_layers": depth, "num_temporal_layers": depth, "num_auxiliary_layers": 1}
        return transformers.VideoPrismVisionConfig(**clips, **depths, tubelet_size=[1, PATCH, PATCH])
    if kind == "xclip":
        over_time = {f"mit_{key}": size for key, size in SMALL.items()}
        return transformers.XCLIPConfig(
            vision_config={**clips, **over_time},
            text_config=WORDS,
            projection_dim=16,
            prompt_num_attention_heads=2,
            prompt_layers=1,
        )
    if kind == "pe_video":
        return transformers.PeVideoEncoderConfig(
            num_hidden_layers=depth, head_dim=8, vision_config=pe_image_config(), **SMALL, **more
        )
    if kind == "videomt":
        del flat["intermediate_size"]
        return transformers.VideomtConfig(
            **flat, num_blocks=min(depth, 1), num_queries=3, num_register_tokens=2, mlp_ratio=2
        )
    return transformers.VJEPA2Config(
        crop_size=SIZE,
        patch_size=PATCH,
        frames_per_clip=FRAMES,
        hidden_size=16,
        num_hidden_layers=depth,
        num_attention_heads=2,
        pred_hidden_size=16,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
        num_pooler_layers=1,
        **more,
    )


def pe_image_config() -> dict:
    """Of the timm model that looks at each frame of PE-Video."""
    sizes = {"img_size": SIZE, "patch_size": PATCH, "depth": 1, "embed_dim": 16, "num_heads": 2}
    return {
        "architecture": "vit_pe_core_tiny_patch16_384",
        "model_args": sizes,
        "num_classes": 8,
        "do_pooling": True,
        "global_pool": "map",
    }


def pe_model(kind: str):
    """The published models that hold PE-Video: `pe_video` with words, `pe_audio_video` with words and
    sound.
    """
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    words = {**SMALL, "num_hidden_layers": 1, "vocab_size": 20, **special}
    seen = video_config("pe_video", 1)
    if kind == "pe_video":
        return transformers.PeVideoModel(
            transformers.PeVideoConfig(video_config=seen.to_dict(), text_config=words)
        )
    ratios = {"downsampling_ratios": [2, 2], "upsampling_ratios": [2, 2], "hop_length": 4}
    codes = {"n_codebooks": 1, "codebook_size": 4, "codebook_dim": 2}
    small = {"encoder_hidden_size": 4, "decoder_hidden_size": 8, "hidden_size": 16}
    heard = {
        "model_type": "pe_audio_encoder",
        "num_hidden_layers": 1,
        "head_dim": 8,
        "dac_config": {**ratios, **codes, **small},
        **SMALL,
    }
    both = transformers.PeAudioVideoEncoderConfig(
        audio_config=heard, video_config=seen.to_dict(), num_hidden_layers=1, head_dim=8, **SMALL
    )
    return transformers.PeAudioVideoModel(
        transformers.PeAudioVideoConfig(text_config=words, audio_video_config=both.to_dict())
    )


def save(folder: Path, model, processor: dict | None = None, file: str = "preprocessor_config.json") -> Path:
    torch.manual_seed(1)
    model.init_weights()
    for name, parameter in model.named_parameters():
        if "embed" in name or "token" in name:  # tables that start as zeros say nothing of order
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    if processor:
        (folder / file).write_text(json.dumps(processor))
    return folder


def square(kind: str, size: int = SIZE, **more) -> dict:
    """A processor file whose crop is `size`."""
    edge, crop = {"shortest_edge": size}, {"height": size, "width": size}
    return {"image_processor_type": kind, "size": edge, "crop_size": crop, "do_center_crop": True, **more}


IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
WHOLE = {"height": SIZE, "width": SIZE}
OLD_NAMES = {  # as TimeSformer and X-CLIP were published: an older name, bare numbers
    "feature_extractor_type": "VideoMAEFeatureExtractor",
    "size": SIZE,
    "crop_size": SIZE,
    "do_center_crop": True,
}
PROCESSORS = {
    "videomae": square("VideoMAEImageProcessor", **IMAGENET),
    "timesformer": {**OLD_NAMES, "image_mean": [0.45, 0.45, 0.45], "image_std": [0.225, 0.225, 0.225]},
    "vivit": square("VivitImageProcessor", rescale_factor=1 / 127.5, offset=True),
    "xclip": {**OLD_NAMES, **IMAGENET},
}
VIDEO_PROCESSORS = {
    "vjepa2": {"video_processor_type": "VJEPA2VideoProcessor", "crop_size": WHOLE},
    "videoprism": {
        "video_processor_type": "LlavaOnevisionVideoProcessor",
        "size": WHOLE,
        "do_normalize": False,
    },
    "pe_video": {
        "video_processor_type": "PeVideoVideoProcessor",
        "size": WHOLE,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
    "videomt": {"video_processor_type": "VideomtVideoProcessor", "size": WHOLE},
}
PUBLISHED = {  # the class that its weights were published as
    "videomae": transformers.VideoMAEForVideoClassification,
    "timesformer": transformers.TimesformerForVideoClassification,
    "vivit": transformers.VivitForVideoClassification,
    "vjepa2": transformers.VJEPA2ForVideoClassification,
    "videoprism": transformers.VideoPrismForVideoClassification,
    "xclip": transformers.XCLIPModel,
    "pe_video": transformers.PeVideoEncoder,
    "videomt": transformers.VideomtForUniversalSegmentation,
}


def save_video(folder: Path, kind: str, depth: int = 2, model=None, **more) -> Path:
    """A model of video with its processor; model: one that holds it, in place of a tiny one of `kind`."""
    model = model or PUBLISHED[kind](video_config(kind, depth, **more))
    if kind in VIDEO_PROCESSORS:
        return save(folder, model, VIDEO_PROCESSORS[kind], "video_preprocessor_config.json")
    return save(folder, model, PROCESSORS[kind])


def image_model(kind: str):
    flat = {"image_size": SIZE, "patch_size": PATCH, "num_hidden_layers": 2, **SMALL}
    if kind == "vit":
        return transformers.ViTForImageClassification(transformers.ViTConfig(**flat))
    if kind == "dinov2":
        # a larger table than its crop
        return transformers.Dinov2Model(transformers.Dinov2Config(**{**flat, "image_size": 64}))
    if kind == "registers":
        return transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**flat, num_register_tokens=4)
        )
    if kind in ("clip", "siglip"):
        family = {"clip": "CLIP", "siglip": "Siglip"}[kind]
        config = getattr(transformers, f"{family}Config")(text_config=WORDS, vision_config=flat)
        return getattr(transformers, f"{family}Model")(config)
    if kind == "clip-vision":
        return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**flat))
    if kind == "swin":
        return transformers.SwinModel(
            transformers.SwinConfig(
                image_size=SIZE, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
            )
        )
    if kind == "convnext":
        sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
        return transformers.ConvNextForImageClassification(
            transformers.ConvNextConfig(image_size=SIZE, **sizes)
        )
    if kind == "sam2":
        stages = {"blocks_per_stage": [1, 2], "embed_dim_per_stage": [8, 16], "num_attention_heads": 1}
        return transformers.Sam2VisionModel(
            transformers.Sam2VisionConfig(
                backbone_config=transformers.Sam2HieraDetConfig(
                    hidden_size=8,
                    image_size=[SIZE, SIZE],
                    num_attention_heads_per_stage=[1, 2],
                    window_size_per_stage=[4, 2],
                    global_attention_blocks=[2],
                    num_query_pool_stages=1,
                    window_positional_embedding_background_size=[4, 4],
                    **stages,
                ),
                backbone_channel_list=[16, 8],
                backbone_feature_sizes=[[8, 8], [4, 4]],
                num_feature_levels=2,
                fpn_hidden_size=8,
            )
        )
    return transformers.ResNetModel(
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    )


def video(batch: int = 2, frames: int = FRAMES) -> torch.Tensor:
    """(B, 3, T, H, W), the same each time."""
    return torch.randn(batch, 3, frames, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
