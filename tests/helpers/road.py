"""What a whole pass through the commands makes: data, questions, stores, a run."""

from pathlib import Path

from helpers.cli import call
from helpers.dataset import make_dataset
from helpers.jobs import make_roberta


def extract_words(folder: Path, encoder: str = "timm:test_resnet") -> tuple[object, ...]:
    """The command that makes the fixture `road`'s video store, but for --out; image_size is its last."""
    return (
        *("extract", "video", "--annotations", folder / "annotations", "--videos", folder / "videos"),
        *("--encoder", encoder, "--weights", "random"),
        *("--set", "sampling.frames=4", "--set", "image_size=64"),
    )


def make_road(folder: Path) -> Path:
    """A data set, questions, stores and a run in `folder`, all made by the commands themselves."""
    make_dataset(folder, videos=8)
    (folder / "roberta").mkdir()
    model = make_roberta(folder / "roberta")
    common = ("--annotations", folder / "annotations")
    assert call("data", "check", *common, "--videos", folder / "videos", "--full") == 0
    assert call("questions", "generate", *common, "--out", folder / "q.jsonl") == 0
    assert call(*extract_words(folder), "--out", folder / "v.zarr") == 0
    text = ("extract", "text", *common, "--questions", folder / "q.jsonl", "--encoder", "hf:tiny")
    assert call(*text, "--weights", model, "--out", folder / "t.zarr") == 0
    recipe = folder / "mine.toml"
    recipe.write_text(
        f"""
        [streams.video]
        store = "{folder}/v.zarr"
        [streams.verb_question]
        store = "{folder}/t.zarr"
        level = "verb_question/last_hidden"
        [streams.noun_question]
        store = "{folder}/t.zarr"
        level = "noun_question/last_hidden"
        [head]
        d_model = 16
        [fusion]
        d_state = 4
        [train]
        epochs = 2
        warmup_epochs = 1
        batch_size = 8
        """
    )
    assert call("train", recipe, "--out", folder / "run") == 0
    return folder
