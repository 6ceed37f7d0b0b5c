"""A run to hand on: weights that torch alone reads, a card, a licence that is kept, and no path."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from helpers.paths import ROOT
from helpers.submissions import CLASSES as EK100
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.export import card_of, config_of, export_run
from mambavl.fuse.published import read_published, rows_of
from mambavl.fuse.run import read_classes, read_result


@pytest.fixture
def exported(mixable, tmp_path):
    assert export_run(mixable / "mlp", tmp_path / "out", licence="mit") == "mit"
    return tmp_path / "out"


def test_the_lines_of_the_page_load_it_with_torch_alone(mixable, exported, tmp_path):
    [snippet] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "results.md").read_text(), re.DOTALL)
    code = snippet.replace("default-head", str(exported)) + (
        "import sys\n"
        "assert not {'mambavl', 'safetensors', 'numpy.testing'} & sys.modules.keys()\n"
        f"torch.save([weights, config['head']], {str(tmp_path / 'read.pt')!r})\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd=tmp_path, timeout=300)
    found, head = torch.load(tmp_path / "read.pt", weights_only=True)
    expected = load_file(mixable / "mlp" / "model.safetensors")
    assert head == "mlp"
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert {one.dtype for one in found.values()} == {torch.float32}


def test_the_folder_says_all_that_is_known_and_no_path(mixable, exported):
    assert sorted(one.name for one in exported.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "published.json",
    ]  # fmt: skip
    result = read_result(mixable / "mlp")
    config = json.loads((exported / "config.json").read_text())
    assert config["metrics"] == result.metrics
    assert config["history_protocol"] == "oracle"
    assert config["streams"]["past"]["store_ids"] == list(result.streams["past"].store_ids)
    assert config["recipe"]["head"]["d_model"] == 8
    assert config["classes"]["targets"][0]["name"] == "verb"
    rows = read_published((exported / "published.json").read_text(), "published.json")
    assert rows["mlp-top1"].values["verb"] == pytest.approx(result.metrics["all_verb_top1"], abs=0.005)
    for name in ("README.md", "config.json", "published.json"):
        assert str(mixable) not in (exported / name).read_text()
        assert "past.zarr" not in (exported / name).read_text()


def test_what_is_left_out_stays_in_the_result(mixable):
    result = read_result(mixable / "mlp")
    before = json.dumps(result.to_dict(), sort_keys=True)
    config_of(result, read_classes(mixable / "mlp"))
    assert json.dumps(result.to_dict(), sort_keys=True) == before


def test_the_card_has_a_head_for_hubs_and_says_what_must_be_said(mixable, exported):
    result = read_result(mixable / "mlp")
    text = (exported / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    fields = {key: json.loads(value) for key, value in (line.split(": ", 1) for line in head.splitlines())}
    assert fields["license"] == "mit"
    [index] = fields["model-index"]
    values = {one["name"]: one["value"] for one in index["results"][0]["metrics"]}
    assert values["verb top-1"] == pytest.approx(result.metrics["all_verb_top1"], abs=0.005)
    assert f"**{result.notice}.**" in body
    assert "oracle history" in body
    assert f"| top-1 | validation | {result.metrics['all_verb_top1']:.1f} |" in body
    assert "not for commercial use" not in body


def test_names_of_the_user_s_cannot_break_the_card(mixable):
    result = replace(read_result(mixable / "mlp"), title='a"\n---\nlicense: mit # <b>|')
    text = card_of(result, rows_of(result, "x", "2026-01-31"), EK100, "cc-by-nc-4.0")
    head = text.split("---\n")[1].splitlines()
    assert head[0] == 'license: "cc-by-nc-4.0"'
    assert len([line for line in text.splitlines() if line.startswith("license")]) == 1
    assert '# a" --- license: mit \\# \\<b\\>\\|' in text
    assert "Trained on EPIC-KITCHENS-100 (CC BY-NC 4.0): not for commercial use." in text


def test_what_ek100_trained_is_not_for_commercial_use(mixable, monkeypatch, tmp_path):
    monkeypatch.setattr("mambavl.fuse.export.read_classes", lambda run: EK100)
    with pytest.raises(UsageError, match="--licence mit: it was made from EPIC-KITCHENS-100"):
        export_run(mixable / "mlp", tmp_path / "out", licence="mit")
    assert not (tmp_path / "out").exists()
    assert export_run(mixable / "mlp", tmp_path / "out") == "cc-by-nc-4.0"
    assert 'license: "cc-by-nc-4.0"' in (tmp_path / "out" / "README.md").read_text()


def test_what_cannot_be_handed_on_is_refused_and_nothing_written(mixable, exported, tmp_path):
    with pytest.raises(UsageError, match="is there already"):
        export_run(mixable / "mlp", exported, licence="mit")
    bare = shutil.copytree(mixable / "mlp", tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"has no model\.safetensors"):
        export_run(bare, tmp_path / "new", licence="mit")
    with pytest.raises(UsageError, match="say with --licence"):
        export_run(mixable / "mlp", tmp_path / "new")
    assert not (tmp_path / "new").exists()
