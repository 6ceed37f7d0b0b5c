"""The extraction jobs as tests run them: a toy data set, tiny encoders, the tree of files that came out."""

from pathlib import Path

import torch

from mambavl.extract.annotations import read_annotations
from mambavl.extract.options import TextExtraction, VideoExtraction
from mambavl.extract.pyav_reader import PyAVReader
from mambavl.extract.text_job import extract_text
from mambavl.extract.video_job import extract_video

OPTIONS = {
    "encoder": "barcode",
    "fit": "squash",
    "levels": ["patch"],
    "rows_per_group": 8,
    "batch_rows": 3,
    "sampling": {"frames": 4},
    "max_failed": 1000,
}

HOOKS = ("shard", "should_stop", "progress", "retry_failed", "like")


def run(dataset, out, **changes):
    annotations = read_annotations(dataset / "annotations")
    hooks = {key: changes.pop(key) for key in HOOKS if key in changes}
    return extract_video(
        annotations, dataset / "videos", out, VideoExtraction.model_validate({**OPTIONS, **changes}), **hooks
    )


def tree(path: Path) -> dict[str, bytes]:
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and file.parent.name != "commit")
    return {
        str(file.relative_to(path)): file.read_bytes() for file in files if file.name != "environment.json"
    }


def make_roberta(folder: Path) -> Path:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizerFast

    bpe = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(
        ["which action does the person do to the onion?", "cut wash cup"],
        vocab_size=300,
        special_tokens=specials,
    )
    bpe.save_model(str(folder))
    tokenizer = RobertaTokenizerFast(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=128
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=130, pad_token_id=1, bos_token_id=0, eos_token_id=2, type_vocab_size=1,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(folder)
    return folder


def text_run(dataset, out, model, questions, **changes):
    hooks = {key: changes.pop(key) for key in HOOKS if key in changes}
    options = {"encoder": "hf:tiny", "weights": str(model), "rows_per_group": 8, **changes}
    read = read_annotations(dataset / "annotations")
    return extract_text(read, questions, out, TextExtraction.model_validate(options), **hooks)


def count_decoded(monkeypatch) -> list[int]:
    """The numbers of the frames that readers give from now on."""
    decoded: list[int] = []
    frames = PyAVReader.frames

    def counted(self, indices):
        for number, pixels in frames(self, indices):
            decoded.append(number)
            yield number, pixels

    monkeypatch.setattr(PyAVReader, "frames", counted)
    return decoded
