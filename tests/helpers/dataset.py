"""A tiny data set in the EPIC layout whose videos show frame numbers, and an encoder that reads them."""

import csv
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from helpers.clips import BITS, write_video
from mambavl.extract.encoders.base import Pixels
from mambavl.extract.encoders.image import FrameEncoder
from mambavl.extract.encoders.registry import EncoderRecord

COLUMNS = [
    "narration_id",
    "participant_id",
    "video_id",
    "narration_timestamp",
    "start_timestamp",
    "stop_timestamp",
    "start_frame",
    "stop_frame",
    "narration",
    "verb",
    "verb_class",
    "noun",
    "noun_class",
    "all_nouns",
    "all_noun_classes",
]
FPS, FRAMES = 10, 60
ROWS_PER_VIDEO = 5


def make_dataset(folder: Path, videos: int = 4) -> Path:
    """`folder/annotations`, `folder/videos`: five rows a video of 6 s, the last video for validation."""
    annotations = folder / "annotations"
    annotations.mkdir(parents=True)
    write(
        annotations / "EPIC_100_verb_classes.csv",
        ("id", "key", "instances", "category"),
        [(0, "cut", "['cut']", "a"), (1, "wash", "['wash']", "b")],
    )
    write(
        annotations / "EPIC_100_noun_classes.csv",
        ("id", "key", "instances", "category"),
        [(0, "onion", "['onion']", "c"), (1, "cup", "['cup']", "d")],
    )
    write(annotations / "EPIC_100_tail_verbs.csv", ("verb",), [(1,)])
    write(annotations / "EPIC_100_tail_nouns.csv", ("noun",), [(1,)])
    write(annotations / "EPIC_100_unseen_participant_ids_validation.csv", ("participant_id",), [("P02",)])
    rows, info = {"train": [], "validation": []}, []
    for number in range(videos):
        video_id = f"P01_{101 + number}"
        write_video(folder / "videos" / "P01" / "videos" / f"{video_id}.MP4", frames=FRAMES, fps=FPS)
        info.append((video_id, FRAMES / FPS, float(FPS), "160x48"))
        split = "validation" if number == videos - 1 else "train"
        for n in range(ROWS_PER_VIDEO):
            start, stop = n * 1.1, n * 1.1 + 1.6
            verb, noun = n % 2, (n + number) % 2
            words = (("cut", "wash")[verb], ("onion", "cup")[noun])
            rows[split].append(
                (
                    f"{video_id}_{n}",
                    "P01",
                    video_id,
                    "00:00:01.000",
                    stamp(start),
                    stamp(min(stop, 6.0)),
                    1,
                    2,
                    " ".join(words),
                    words[0],
                    verb,
                    words[1],
                    noun,
                    f"['{words[1]}']",
                    f"[{noun}]",
                )
            )
    for split, split_rows in rows.items():
        write(annotations / f"EPIC_100_{split}.csv", COLUMNS, split_rows)
    write(annotations / "EPIC_100_video_info.csv", ("video_id", "duration", "fps", "resolution"), info)
    return folder


def write(path: Path, header, rows) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def stamp(seconds: float) -> str:
    return f"00:00:{seconds:05.2f}"


def barcode_encoder(weights, *, image_size: int = 40, spoil=None) -> FrameEncoder:
    """Channels 0-2 of each of the ten cells of a frame are its brightness: the frame's number, bit by bit."""

    def features(_model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, None]:
        cells = F.adaptive_avg_pool2d(images, (1, BITS))
        return spoil(cells) if spoil else cells, None

    return FrameEncoder(
        nn.Identity(),
        features,
        Pixels(image_size, (0.0,) * 3, (1.0,) * 3, interpolation="bilinear"),
        {},
        "b" * 64,
    )


def barcode_record(spoil=None) -> EncoderRecord:
    return EncoderRecord(
        "barcode", "video", lambda weights, **s: barcode_encoder(weights, **s, spoil=spoil), 3, "none", "none"
    )


def numbers(patches: torch.Tensor) -> list[int]:
    """Frame numbers from (T * 10, 3) patch tokens."""
    bits = patches.reshape(-1, BITS, 3)[..., 0] > 0.5
    return [sum(int(bit) << i for i, bit in enumerate(frame)) for frame in bits]


def broken_copy(dataset: Path, tmp_path: Path) -> Path:
    """The data set with one video replaced by text, one missing, one shorter than its list says."""
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    videos = copy / "videos" / "P01" / "videos"
    (videos / "P01_101.MP4").write_text("not a video")
    (videos / "P01_102.MP4").unlink()
    write_video(videos / "P01_103.MP4", frames=30, fps=FPS)
    return copy
