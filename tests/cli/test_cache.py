"""Feature stores from the shell: looked into, checked, mended, compared, pooled."""

import re
import shutil

from helpers.cli import call
from helpers.road import extract_words
from helpers.tiny import make_dense_store, unfinished


def test_stores_are_described_and_verified(road, capsys):
    assert call("cache", "info", road / "v.zarr") == 0
    said = capsys.readouterr().out
    assert "timm:test_resnet" in said
    assert re.search(r"row groups *│ 1 of 1 done, \d+ rows each", said)
    assert call("cache", "verify", "--deep", road / "t.zarr") == 0
    assert call("cache", "finalize", road / "t.zarr") == 0


def test_an_unfinished_store_says_how_much_is_done(tmp_path, capsys):
    writer, group = unfinished(tmp_path / "s.zarr")
    writer.commit(0, group)
    assert call("cache", "info", tmp_path / "s.zarr") == 0
    assert re.search(r"row groups *│ 1 of 3 done, 8 rows each", capsys.readouterr().out)


def test_a_store_is_mended_compared_pooled_and_read_by_name(road, tmp_path, capsys):
    shutil.copytree(road / "v.zarr", tmp_path / "v.zarr")
    shard = next((tmp_path / "v.zarr" / "frame").glob("c.*"))
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(data)
    capsys.readouterr()
    assert call("cache", "verify", tmp_path / "v.zarr") == 0
    assert call("cache", "verify", "--deep", tmp_path / "v.zarr") == 1
    assert f"frame/{shard.name}: its sha256 is not the recorded one" in capsys.readouterr().out
    assert call("cache", "repair", tmp_path / "v.zarr") == 0
    assert "1 row group to fill; run again the command that made the store" in capsys.readouterr().out
    assert call("cache", "verify", tmp_path / "v.zarr") == 1
    assert call(*extract_words(road), "--out", tmp_path / "v.zarr") == 0
    assert call("cache", "diff", road / "v.zarr", tmp_path / "v.zarr") == 0
    assert "say the same" in capsys.readouterr().out
    assert call("cache", "repair", tmp_path / "v.zarr") == 0
    assert "sound; nothing was done" in capsys.readouterr().out
    assert call("cache", "pool", road / "v.zarr", "--to", "clip", "--out", tmp_path / "clip.zarr") == 0
    assert "rows of level clip" in capsys.readouterr().out
    assert call("cache", "diff", road / "v.zarr", tmp_path / "clip.zarr") == 1
    assert "spec inputs.parent: None -> {" in capsys.readouterr().out
    assert call("cache", "pool", road / "v.zarr", "--to", "grid4", "--out", tmp_path / "never.zarr") == 2
    assert call("cache", "gc", tmp_path / "v.zarr") == 0
    assert "deleted 0 half-written files" in capsys.readouterr().out


def test_a_card_is_printed_or_written_and_never_over_another_file(tmp_path, capsys):
    make_dense_store(tmp_path / "s")
    assert call("cache", "card", tmp_path / "s", "--licence", "mit") == 0
    text = capsys.readouterr().out
    assert text.startswith('---\nlicense: "mit"\n')
    assert call("cache", "card", tmp_path / "s", "--licence", "mit", "--out", tmp_path / "CARD.md") == 0
    assert (tmp_path / "CARD.md").read_text() == text
    assert call("cache", "card", tmp_path / "s", "--licence", "mit", "--out", tmp_path / "CARD.md") == 2
    assert "is there already" in capsys.readouterr().err
    assert call("cache", "card", tmp_path / "s") == 2
    assert "say with --licence" in capsys.readouterr().err
