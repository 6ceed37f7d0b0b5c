"""A store's card: its lines load the store, its head is YAML, its numbers are the store's, and no path."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml

from helpers.submissions import CLASSES as EK100
from helpers.tiny import make_dense_store, make_history_store, make_segments, make_text_store, unfinished
from mambavl.cache import open_store
from mambavl.cache.card import in_one_line, shown, store_card
from mambavl.configs.errors import DataError, UsageError

RECIPE = {
    "encoder": {"name": "hf:/home/me/models/vit-b", "state": "pretrained", "sha256": "0" * 64, "width": 6},
    "sampling": {"task": "recognition", "rule": "segment_uniform", "frames": 4, "list": "/data/list.csv"},
    "decoder": "pyav",
}


def parts(text):
    """The head of a card as a dict, and the rest."""
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_what_it_says_is_what_the_store_has(tmp_path):
    store = tmp_path / "my.zarr"
    make_dense_store(store, failed={3: 4, 9: 2, 15: 4}, recipe=RECIPE)
    head, body = parts(store_card(store, "mit", {"train": "rows/train.parquet"}))
    assert head["license"] == "mit"
    assert head["task_categories"] == ["video-classification"]
    assert head["size_categories"] == ["n<1K"]
    assert {"mambavl", "zarr", "video"} <= set(head["tags"])
    files = [{"split": "train", "path": "rows/train.parquet"}]
    assert head["configs"] == [{"config_name": "rows", "data_files": files}]
    assert "| train | 12 | 10 |" in body  # rows 0-5 and 12-17, without 3 and 15
    assert "| validation | 8 | 7 |" in body
    assert "Without features: 1 empty_window, 2 unreadable_video." in body
    assert "| frame | dense | 1 x 4 x 6 | float32 |" in body
    assert f"pretrained, sha256 {'0' * 64}" in body
    assert "segment\\_uniform" in body
    assert "verb (3 classes), noun (4 classes), action (verb x noun)" in body
    assert json.loads((store / "manifest.json").read_text())["store_id"] in body
    assert "ORACLE" not in body


def test_no_path_of_any_machine_is_in_it(tmp_path):
    make_dense_store(tmp_path / "my.zarr", recipe=RECIPE)
    text = store_card(tmp_path / "my.zarr", "mit")
    assert str(tmp_path) not in text
    assert not re.findall(r"(?:^|[\s`\"'(|:])(?:/[\w.-]+|~/|[A-Z]:\\)", text)
    assert "vit-b" in text
    assert "list.csv" in text


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("timm:vit_base.openai", "timm:vit_base.openai"),
        ("hf:facebook/dinov2-base", "hf:facebook/dinov2-base"),
        ("hf:/home/me/vit", "hf:vit"),
        ("/home/me/vit", "vit"),
        ("~/models/vit", "vit"),
        ("hf:C:\\Users\\me\\vit", "hf:vit"),
    ],
)
def test_a_folder_is_told_by_its_last_part(name, seen):
    assert shown(name) == seen


@pytest.mark.parametrize("make", [make_dense_store, make_text_store])
def test_its_lines_load_the_store_with_this_program_and_without(make, tmp_path):
    make(tmp_path / "STORE")
    own, plain = re.findall(r"```python\n(.*?)```", store_card(tmp_path / "STORE", "mit"), re.DOTALL)
    found: dict = {}
    code = f"{own}\nimport numpy as np\nnp.savez('own.npz', rows=rows, tokens=tokens, lengths=lengths)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=300)
    code = (
        f"import warnings\nwarnings.simplefilter('ignore')\n{plain}\n"
        "import sys, numpy as np\nassert 'mambavl' not in sys.modules\n"
        "np.savez('plain.npz', row=row, features=features, label=int(label['verb_class']))"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd=tmp_path, timeout=300)
    found = {name: np.load(tmp_path / f"{name}.npz") for name in ("own", "plain")}
    store = open_store(tmp_path / "STORE")
    row, level = int(found["plain"]["row"]), store.layout.levels[0].name
    tokens, lengths = store.batch([row], level)
    assert found["own"]["rows"][0] == row
    assert found["own"]["lengths"][0] == lengths[0]
    features = found["plain"]["features"].reshape(-1, tokens.shape[-1])
    np.testing.assert_array_equal(features, tokens[0].numpy()[: len(features)])
    assert found["plain"]["label"] == store.segments[row].labels["verb"]


def test_texts_and_histories_that_know_the_answer_say_so(tmp_path):
    make_text_store(tmp_path / "oracle")
    head, body = parts(store_card(tmp_path / "oracle", "mit"))
    assert "**ORACLE TEXT: " in body
    assert "protocol oracle, backend template" in body
    assert head["task_categories"] == ["feature-extraction"]
    assert "| verb\\_question/last\\_hidden | ragged | tokens x 5 | float32 |" in body
    make_text_store(tmp_path / "generic", protocol="generic")
    assert "ORACLE" not in store_card(tmp_path / "generic", "mit")
    make_history_store(tmp_path / "past", make_segments(20))
    assert "**ORACLE HISTORY: " in store_card(tmp_path / "past", "mit")


def test_the_licence_is_what_the_data_allow(tmp_path):
    make_dense_store(tmp_path / "ek100", classes=EK100)
    head, body = parts(store_card(tmp_path / "ek100"))
    assert head["license"] == "cc-by-nc-4.0"
    assert "Made from EPIC-KITCHENS-100 (CC BY-NC 4.0): not for commercial use." in body
    with pytest.raises(UsageError, match="--licence mit"):
        store_card(tmp_path / "ek100", "mit")
    make_dense_store(tmp_path / "other")
    with pytest.raises(UsageError, match="say with --licence"):
        store_card(tmp_path / "other")


def test_a_store_that_is_not_finished_has_none(tmp_path):
    writer, _ = unfinished(tmp_path / "s")
    with pytest.raises(DataError, match="run again the command that made it"):
        store_card(writer.path, "mit")


def test_names_of_the_user_s_cannot_break_it(tmp_path):
    assert in_one_line("a\nb|c`<d>") == "a b\\|c\\`\\<d\\>"
    recipe = {"encoder": {"name": "x\n---\nlicense: mit # <b>|", "state": "random", "width": 6}}
    make_dense_store(tmp_path / "s", recipe=recipe, splits=("tr|ain", "validation"))
    text = store_card(tmp_path / "s", "cc-by-4.0")
    assert parts(text)[0]["license"] == "cc-by-4.0"
    assert len([line for line in text.splitlines() if line.startswith("license")]) == 1
    assert "# video features of x --- license: mit \\# \\<b\\>\\|" in text
    assert "| tr\\|ain | 12 | 12 |" in text
