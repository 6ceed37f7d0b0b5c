"""Two small runs to ask about videos: recognition with generic questions, anticipation from video alone."""

from pathlib import Path

import numpy as np

from helpers.cli import call
from helpers.dataset import make_dataset
from helpers.jobs import make_roberta
from mambavl.fuse.run import read_scores

RECIPE = """
{above}
[streams.video]
store = "{folder}/{video}.zarr"
level = "{level}"
{text}
[head]
d_model = 16
{head}
[train]
epochs = 2
warmup_epochs = 1
batch_size = 8
lr = 2e-2
"""
TEXT = """
[streams.{kind}_question]
store = "{folder}/text.zarr"
level = "{kind}_question/last_hidden"
"""


def make_kit(folder: Path) -> Path:
    """`rec` and `ant`, runs in `folder`, with the stores rec.zarr (two views), ant.zarr and text.zarr, the
    text encoder's folder `roberta`, and the data set's `videos`.
    """
    make_dataset(folder, videos=4)
    (folder / "roberta").mkdir()
    make_roberta(folder / "roberta")
    common = ("--annotations", folder / "annotations")
    video = ("extract", "video", *common, "--videos", folder / "videos", "--encoder", "timm:test_resnet")
    sets = ("--weights", "random", "--set", "sampling.frames=4", "--set", "image_size=64")
    assert call(*video, *sets, "--set", "sampling.views=2", "--out", folder / "rec.zarr") == 0
    assert call(*video, *sets, "--task", "anticipation", "--out", folder / "ant.zarr") == 0
    ask(folder, "generic", folder / "text.zarr")
    make_run(folder, "rec", "rec", has_text=True)
    make_run(folder, "ant", "ant")
    return folder


def ask(folder: Path, protocol: str, out: Path, encoder: str = "hf:tiny") -> None:
    """A text store of all rows under a protocol; `hf:tiny` is the one in `roberta`."""
    questions = out.with_suffix(".jsonl")
    common = ("--annotations", folder / "annotations")
    assert call("questions", "generate", *common, "--protocol", protocol, "--out", questions) == 0
    text = ("extract", "text", *common, "--questions", questions, "--encoder", encoder)
    weights = ("--weights", folder / "roberta") if encoder == "hf:tiny" else ()
    assert call(*text, *weights, "--out", out) == 0


def make_run(
    folder: Path,
    name: str,
    video: str,
    *,
    has_text: bool = False,
    level: str = "frame",
    above: str = "",
    head: str = "",
) -> Path:
    """A run over stores of `folder`. above, head: further lines, above the first section and of [head]."""
    text = "".join(TEXT.format(folder=folder, kind=kind) for kind in ("verb", "noun")) if has_text else ""
    recipe = folder / f"{name}.toml"
    recipe.write_text(
        RECIPE.format(folder=folder, video=video, level=level, text=text, above=above, head=head)
    )
    assert call("train", recipe, "--out", folder / name) == 0
    return folder / name


def video_of(kit: Path, number: int) -> Path:
    return kit / "videos" / "P01" / "videos" / f"P01_{number}.MP4"


def scored(run: Path, narration_id: str) -> dict[str, np.ndarray]:
    """Target -> probabilities that evaluation gave a row of the run's own split."""
    scores = read_scores(run, "validation")
    row = scores["narration_id"].tolist().index(narration_id)
    return {name: np.exp(scores[name][row]) for name in ("verb", "noun")}
