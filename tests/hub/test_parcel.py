"""What is sent: finished and sound, under a licence that the data allow, or nothing of it."""

import json
import shutil

import pytest

from helpers.submissions import CLASSES as EK100
from helpers.tiny import make_dense_store, unfinished
from mambavl.cache.canonical import sha256
from mambavl.cache.classes import verb_noun_classes
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.export import export_run
from mambavl.hub.parcel import head_manifest, parcel_of

EGO4D = verb_noun_classes({}, {}, num_verbs=117, num_nouns=521)


def test_a_store_is_its_files_a_card_and_its_rows(tmp_path):
    make_dense_store(tmp_path / "s")
    parcel = parcel_of(tmp_path / "s", "mit")
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_bytes())
    assert (parcel.kind, parcel.id, parcel.licence) == ("dataset", manifest["store_id"], "mit")
    assert parcel.files.keys() == manifest["files"].keys()
    assert parcel.beside.keys() == {"README.md", "rows/train.parquet", "rows/validation.parquet"}
    assert list(parcel.all)[-1] == "manifest.json"
    for name, piece in parcel.all.items():
        assert (piece.size, piece.sha256) == (len(piece.read()), sha256(piece.read())), name
    assert not any("journal" in name or name == "environment.json" for name in parcel.all)
    assert str(tmp_path).encode() not in b"".join(piece.read() for piece in parcel.all.values())


def test_paths_of_a_machine_that_the_files_name_are_told(tmp_path):
    """They are in the store and cannot be taken out; addresses and names of levels are no paths."""
    recipe = {
        "encoder": {"name": "hf:/home/me/vit", "state": "from https://example.org/a/b/c", "width": 6},
        "sampling": {"task": "recognition", "list": "C:\\lists\\x.csv", "share": "1/2/3"},
        "decoder": "verb_question/last_hidden/x",
    }
    make_dense_store(tmp_path / "s", recipe=recipe)
    assert parcel_of(tmp_path / "s", "mit").paths == ("/home/me/vit", "C:\\lists\\x.csv")
    make_dense_store(tmp_path / "clean", failed={3: 4})
    assert parcel_of(tmp_path / "clean", "mit").paths == ()


def test_twice_the_same_is_the_same(tmp_path):
    make_dense_store(tmp_path / "s")
    first, second = (parcel_of(tmp_path / "s", "mit") for _ in range(2))
    assert [one.sha256 for one in first.all.values()] == [one.sha256 for one in second.all.values()]


def test_what_is_not_finished_says_which_command_finishes_it(tmp_path):
    writer, _ = unfinished(tmp_path / "s")
    with pytest.raises(DataError, match="0 of 20 rows are done; run again the command that made it"):
        parcel_of(writer.path, "mit")


@pytest.mark.parametrize("how", ["flip", "cut", "lost"])
def test_what_is_damaged_says_which_command_mends_it(tmp_path, how):
    make_dense_store(tmp_path / "s")
    shard = tmp_path / "s" / "frame" / "c.1.0.0.0"
    data = shard.read_bytes()
    shard.unlink()
    if how != "lost":
        shard.write_bytes(data[:-9] if how == "cut" else data[:9] + bytes([data[9] ^ 1]) + data[10:])
    with pytest.raises(DataError, match=r"frame/c\.1\.0\.0\.0|mambavl cache repair") as found:
        parcel_of(tmp_path / "s", "mit")
    assert f"mambavl cache repair {tmp_path / 's'}" in str(found.value)


def test_a_run_is_what_its_export_is(mixable, tmp_path):
    export_run(mixable / "mlp", tmp_path / "out", licence="mit")
    ours, theirs = parcel_of(mixable / "mlp", "mit"), parcel_of(tmp_path / "out")
    assert ours.all == theirs.all
    assert (ours.kind, ours.licence, ours.id) == ("model", "mit", theirs.id)
    assert theirs.files.keys() == {"model.safetensors", "config.json", "published.json", "README.md"}
    manifest = json.loads(ours.manifest.read())
    assert manifest == head_manifest({name: (one.size, one.sha256) for name, one in ours.files.items()})


def test_the_licence_of_a_head_is_that_of_its_card(mixable, tmp_path):
    export_run(mixable / "mlp", tmp_path / "out", licence="cc-by-4.0")
    assert parcel_of(tmp_path / "out", "cc-by-4.0").licence == "cc-by-4.0"
    with pytest.raises(UsageError, match=r"its card names cc-by-4\.0; write it again with `mambavl export"):
        parcel_of(tmp_path / "out", "mit")
    card = tmp_path / "out" / "README.md"
    card.chmod(0o644)
    card.write_text(card.read_text().replace("license: ", "licence: "))
    with pytest.raises(DataError, match="names no licence at its head"):
        parcel_of(tmp_path / "out")
    with pytest.raises(UsageError, match="say with --licence"):
        parcel_of(mixable / "mlp")


def of_classes(classes, folder, run, kind):
    """A store or an exported head of these classes."""
    if kind == "store":
        make_dense_store(folder / "s", classes=classes)
        return folder / "s"
    export_run(run, folder / "out", licence="mit")
    config = folder / "out" / "config.json"
    found = json.loads(config.read_bytes())
    found["classes"] = json.loads(classes.to_json())
    config.chmod(0o644)
    config.write_text(json.dumps(found))
    return folder / "out"


@pytest.mark.parametrize("kind", ["store", "head"])
def test_the_licence_guard_stands_before_both(mixable, tmp_path, kind):
    """A head's card is edited to `mit` here, and its classes still tell of EK100."""
    path = of_classes(EK100, tmp_path, mixable / "mlp", kind)
    with pytest.raises(UsageError, match="--licence mit: it was made from EPIC-KITCHENS-100"):
        parcel_of(path, "mit")
    if kind == "store":
        assert parcel_of(path).licence == "cc-by-nc-4.0"


@pytest.mark.parametrize("kind", ["store", "head"])
def test_ego4d_stays_private(mixable, tmp_path, kind):
    path = of_classes(EGO4D, tmp_path, mixable / "mlp", kind)
    if kind == "head":
        card = path / "README.md"
        card.chmod(0o644)
        card.write_text(card.read_text().replace('license: "mit"', 'license: "other"'))
    with pytest.raises(UsageError, match=r"Ego4D.*add --private"):
        parcel_of(path)
    parcel = parcel_of(path, private=True)
    assert parcel.private
    if kind == "store":
        assert b"keep this private" in parcel.beside["README.md"].read()
        assert b'license_name: "ego4d-licence"' in parcel.beside["README.md"].read()


def test_anything_else_is_refused(mixable, tmp_path):
    with pytest.raises(UsageError, match="neither a feature store nor a run"):
        parcel_of(tmp_path)
    export_run(mixable / "mlp", tmp_path / "out", licence="mit")
    shutil.copytree(tmp_path / "out", tmp_path / "less")
    (tmp_path / "less" / "published.json").unlink()
    with pytest.raises(DataError, match=r"lacks published\.json; write it again with `mambavl export`"):
        parcel_of(tmp_path / "less")
    shutil.copytree(tmp_path / "out", tmp_path / "cut")
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").unlink()
    (tmp_path / "cut" / "model.safetensors").write_bytes(weights[:-4])
    with pytest.raises(DataError, match="is not in the form of safetensors"):
        parcel_of(tmp_path / "cut")
