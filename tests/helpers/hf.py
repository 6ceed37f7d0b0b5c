"""Tiny transformers models of video and images, saved as published ones are."""

import json
from pathlib import Path

import torch
import transformers

SIZE, PATCH, FRAMES = 32, 8, 4

SIDE = SIZE // PATCH

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}

TUBELET = {"videomae": 2, "vivit": 2, "vjepa2": 2, "timesformer": 1}


def video_config(kind: str, depth: int = 2, **more):
    flat = {
        "image_size": SIZE,
        "patch_size": PATCH,
        "num_frames": FRAMES,
        "num_hidden_layers": depth,
        **SMALL,
        **more,
    }
    if kind == "videomae":
        return transformers.VideoMAEConfig(**flat, tubelet_size=2)
    if kind == "timesformer":
        return transformers.TimesformerConfig(**flat)
    if kind == "vivit":
        del flat["patch_size"]
        return transformers.VivitConfig(**flat, tubelet_size=[2, PATCH, PATCH])
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


PROCESSORS = {
    "videomae": square(
        "VideoMAEImageProcessor", image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    ),
    "timesformer": {  # as it was published: an older name, bare numbers
        "feature_extractor_type": "VideoMAEFeatureExtractor",
        "size": SIZE,
        "crop_size": SIZE,
        "do_center_crop": True,
        "image_mean": [0.45, 0.45, 0.45],
        "image_std": [0.225, 0.225, 0.225],
    },
    "vivit": square("VivitImageProcessor", rescale_factor=1 / 127.5, offset=True),
}


def save_video(folder: Path, kind: str, depth: int = 2, **more) -> Path:
    classes = {
        "videomae": transformers.VideoMAEForVideoClassification,
        "timesformer": transformers.TimesformerForVideoClassification,
        "vivit": transformers.VivitForVideoClassification,
        "vjepa2": transformers.VJEPA2ForVideoClassification,
    }
    model = classes[kind](video_config(kind, depth, **more))
    if kind == "vjepa2":
        crop = {"height": SIZE, "width": SIZE}
        return save(
            folder,
            model,
            {"video_processor_type": "VJEPA2VideoProcessor", "crop_size": crop},
            "video_preprocessor_config.json",
        )
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
        words = {"vocab_size": 20, "num_hidden_layers": 1, "max_position_embeddings": 8, **SMALL}
        config = getattr(transformers, f"{family}Config")(text_config=words, vision_config=flat)
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
    return transformers.ResNetModel(
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    )
