"""Pulling from a local hub: what comes is what its manifest says or it gets no name; a hostile server writes
nowhere else; faults and kills cost what was on its way.
"""

import hashlib
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from helpers.hub_server import TOKEN
from helpers.tiny import make_dense_store, make_text_store
from mambavl.cache import canonical, fsops, open_store
from mambavl.cache.verify import verify
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.fuse.export import export_run
from mambavl.hub import pull as module
from mambavl.hub.parcel import head_manifest, parcel_of
from mambavl.hub.pull import pull
from mambavl.hub.push import push

REPO = "me/kitchen"
WIDE = {"rows": 20, "width": 1024}  # shards of 131,072 bytes, the last one of 65,536


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """A store, and what a hub has of it."""
    folder = tmp_path_factory.mktemp("pushed")
    make_dense_store(folder / "s", failed={3: 4}, **WIDE)
    parcel = parcel_of(folder / "s", "mit")
    return folder / "s", {name: piece.read() for name, piece in parcel.all.items()}


@pytest.fixture
def store(hub, pushed):
    """The hub has it under REPO."""
    hub.put(REPO, pushed[1])
    return pushed[0]


def files_below(folder):
    return {one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()}


def manifest_with(pushed, **changes):
    """A manifest that matches itself, with some of its files changed; None takes one away."""
    found = json.loads(pushed["manifest.json"])
    for name, entry in changes.items():
        found["files"].pop(name, None)
        if entry is not None:
            found["files"][name] = entry
    del found["store_id"]
    found["store_id"] = canonical.digest(found)
    return canonical.pretty_json(found)


def test_a_store_comes_back_as_it_went(hub, store, tmp_path):
    done = pull(REPO, tmp_path / "back")
    assert (done.kind, done.id) == ("store", open_store(store).store_id)
    assert verify(tmp_path / "back", deep=True) == []
    ours, theirs = open_store(store), open_store(tmp_path / "back", verify="read")
    rows = np.flatnonzero(ours.status == 1)
    assert theirs.segments == ours.segments
    assert (theirs.batch(rows, "frame")[0] == ours.batch(rows, "frame")[0]).all()
    listed = json.loads((store / "manifest.json").read_bytes())["files"]
    assert files_below(tmp_path / "back") == {*listed, "manifest.json", "commit/seal.json", "README.md"}
    assert done.fetched == done.files == len(listed)
    assert not (tmp_path / "back.part").exists()
    assert not os.access(tmp_path / "back" / "spec.json", os.W_OK) or os.geteuid() == 0
    assert (tmp_path / "back" / "spec.json").stat().st_mode & 0o222 == 0


@pytest.mark.parametrize("compressor", ["none", "zstd"])
def test_texts_go_and_come_back(hub, tmp_path, compressor):
    """Ragged levels in folders of folders, whose files differ in size where they are compressed."""
    make_text_store(tmp_path / "t", compressor=compressor)
    push(parcel_of(tmp_path / "t", "mit"), REPO)
    pull(REPO, tmp_path / "back")
    assert verify(tmp_path / "back", deep=True) == []
    ours, theirs = open_store(tmp_path / "t"), open_store(tmp_path / "back", verify="read")
    assert theirs.store_id == ours.store_id
    for level in ours.levels:
        for mine, other in zip(ours.batch(range(20), level), theirs.batch(range(20), level), strict=True):
            assert (mine == other).all()


def test_a_head_goes_and_comes_back(hub, mixable, tmp_path):
    push(parcel_of(mixable / "mlp", "mit"), "me/head")
    export_run(mixable / "mlp", tmp_path / "exported", licence="mit")
    done = pull("me/head", tmp_path / "back")
    assert done.kind == "head"
    names = {"README.md", "config.json", "model.safetensors", "published.json"}
    assert files_below(tmp_path / "back") == {*names, "manifest.json"}
    for name in names:
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "exported" / name).read_bytes()
    hub.forget()
    assert push(parcel_of(tmp_path / "back"), "me/head").sent == 0  # what came can be sent on


def test_the_token_goes_to_the_hub_and_not_to_its_storage(hub, store, tmp_path):
    pull(REPO, tmp_path / "back")
    assert all(one.has_token != one.to_storage for one in hub.log)
    assert any(one.to_storage for one in hub.log)


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub, store, pushed, tmp_path):
    whole = hub.repo(REPO).heads["main"]
    hub.put(REPO, {"manifest.json": b"{}"})
    with pytest.raises(DataError, match=r"none that `mambavl push` sends"):
        pull(REPO, tmp_path / "back")
    pull(REPO, tmp_path / "back", revision=whole)
    with pytest.raises(DataError, match=r"me/kitchen \(v9\) could not be looked at: it has no such revision"):
        pull(REPO, tmp_path / "other", revision="v9")


def test_a_name_that_a_store_and_a_head_have_is_asked_for(hub, store, tmp_path):
    hub.put(REPO, {"manifest.json": b"{}"}, kind="model")
    with pytest.raises(UsageError, match="write datasets/me/kitchen or models/me/kitchen"):
        pull(REPO, tmp_path / "back")
    assert pull(f"datasets/{REPO}", tmp_path / "back").kind == "store"


def test_what_is_there_is_left_alone(hub, store, tmp_path):
    (tmp_path / "back").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        pull(REPO, tmp_path / "back")
    with pytest.raises(DataError, match="there is no such repository"):
        pull("me/nothing", tmp_path / "new")
    hub.put("me/own", {}, private=True)
    assert not (tmp_path / "new.part").exists()


def test_a_store_without_its_manifest_is_not_whole(hub, store, tmp_path):
    del hub.repo(REPO).branches["main"]["manifest.json"]
    hub.repo(REPO).commit("main")
    with pytest.raises(DataError, match=r"has no manifest\.json, so it is not whole"):
        pull(REPO, tmp_path / "back")
    assert list(tmp_path.glob("back*")) == []


def test_a_store_that_was_damaged_later_is_mended_by_pulling_it_again(hub, store, tmp_path):
    pull(REPO, tmp_path / "back")
    shard = tmp_path / "back" / "frame" / "c.1.0.0.0"
    data = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(data[:9] + bytes([data[9] ^ 1]) + data[10:])
    (tmp_path / "back").rename(tmp_path / "back.part")
    hub.forget()
    assert pull(REPO, tmp_path / "back").fetched == 1
    assert verify(tmp_path / "back", deep=True) == []


# --- faults


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        *itertools.product(["GET /api/datasets", "/resolve/", "GET /lfs/"], ["500", "429", "cut"]),
        ("GET /lfs/", "short"),
    ],
)
def test_what_passes_is_tried_again(hub, store, tmp_path, waits, where, fault):
    hub.fault(where, fault)
    pull(REPO, tmp_path / "back")
    assert verify(tmp_path / "back", deep=True) == []
    assert len(waits) == 1
    assert fault != "429" or waits[0] == 7


def test_a_cut_goes_on_where_it_was(hub, store, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WORKERS", 1)
    manifest = json.loads((store / "manifest.json").read_bytes())
    shard = manifest["files"]["frame/c.0.0.0.0"]
    hub.fault(f"GET /lfs/{shard[1]}", "cut", "short", "")
    done = pull(REPO, tmp_path / "back")
    starts = [one.start for one in hub.asked(f"GET /lfs/{shard[1]}")]
    assert len(starts) == 3
    assert 0 == starts[0] < starts[1] < starts[2] < shard[0]
    assert done.bytes == sum(size for size, _ in manifest["files"].values())


@pytest.mark.parametrize("fault", ["wrong", "long"])
def test_other_bytes_are_fetched_once_more_and_then_named(hub, store, tmp_path, fault):
    shard = json.loads((store / "manifest.json").read_bytes())["files"]["frame/c.0.0.0.0"]
    hub.fault(f"GET /lfs/{shard[1]}", fault)
    pull(REPO, tmp_path / "back")
    assert verify(tmp_path / "back", deep=True) == []
    hub.forget()
    hub.fault(f"GET /lfs/{shard[1]}", *[fault] * 9)
    other = {"wrong": "with another sha256 than", "long": r"with another size \(.* has more than 131,"}[fault]
    with pytest.raises(DataError, match=rf"frame/c\.0\.0\.0\.0 came twice {other}"):
        pull(REPO, tmp_path / "other")
    assert len(hub.asked(f"GET /lfs/{shard[1]}")) == 2
    assert not (tmp_path / "other").exists()


def test_a_file_that_is_truncated_for_good_is_named(hub, store, tmp_path):
    shard = json.loads((store / "manifest.json").read_bytes())["files"]["frame/c.0.0.0.0"]
    hub.stored[shard[1]] = hub.stored[shard[1]][:1000]
    with pytest.raises(DataError, match=r"frame/c\.0\.0\.0\.0 came twice with another size"):
        pull(REPO, tmp_path / "back")


def test_a_file_that_vanishes_is_named_and_what_came_is_kept(hub, store, pushed, tmp_path):
    files = hub.repo(REPO).branches["main"]
    lost = files.pop("flags/c.1")
    hub.repo(REPO).commit("main")
    with pytest.raises(DataError, match=r"flags/c\.1 is not there, though manifest\.json lists it"):
        pull(REPO, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    files["flags/c.1"] = lost
    hub.repo(REPO).commit("main")
    hub.forget()
    done = pull(REPO, tmp_path / "back")
    assert done.fetched < done.files
    assert verify(tmp_path / "back", deep=True) == []


def test_a_hub_that_fails_on_and_on_is_given_up(hub, store, tmp_path):
    hub.fault("GET /lfs/", *["503"] * 100)
    with pytest.raises(DataError, match="tried 4 times; run the same command again later"):
        pull(REPO, tmp_path / "back")


@pytest.mark.parametrize("status", ["401", "403"])
def test_a_token_that_is_refused(hub, store, tmp_path, waits, status):
    hub.fault("/resolve/", *[status] * 9)
    with pytest.raises(DataError, match=f"{status}: "):
        pull(REPO, tmp_path / "back")
    assert waits == []


def test_a_stop_comes_between_two_files(hub, store, tmp_path):
    with pytest.raises(Interrupted, match="run the same command again"):
        pull(REPO, tmp_path / "back", should_stop=lambda: True)
    assert pull(REPO, tmp_path / "back").fetched < 20


def test_two_at_once_do_not_mix(hub, store, tmp_path):
    part = tmp_path / "back.part"
    part.mkdir()
    held = fsops.lock(part / module.LOCK, exclusive=True, wait=True)
    with pytest.raises(DataError, match="another process is fetching it"):
        pull(REPO, tmp_path / "back")
    fsops.unlock(held)
    pull(REPO, tmp_path / "back")


def test_a_disk_without_room_is_told_before_anything_comes(hub, store, tmp_path, monkeypatch):
    monkeypatch.setattr(fsops, "free_bytes", lambda path: 1000)
    with pytest.raises(DataError, match=r"bytes are to come, and 1,000 are free"):
        pull(REPO, tmp_path / "back")
    assert not hub.asked("GET /lfs/")


COMMAND = """
import sys
from mambavl.cli import app
from mambavl.hub import pull
pull.WORKERS = 1
sys.exit(app.run())
"""


def run_pull(hub, out, folder):
    """The command in a process of its own, which the hub may kill: (exit code, what it printed)."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(folder / "hf"),
    }
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, "pull", REPO, str(out)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        hub.victim = child.pid
        said, _ = child.communicate(timeout=300)
        return child.returncode, said


@pytest.mark.parametrize(("where", "after"), [("GET /lfs/", 0), ("GET /lfs/", 6), ("README.md", 0)])
def test_killed_anywhere_it_goes_on_and_fetches_nothing_twice(hub, store, tmp_path, where, after):
    out = tmp_path / "back"
    hub.fault(where, *[""] * after, "kill")
    code, said = run_pull(hub, out, tmp_path)
    assert code == -signal.SIGKILL, said
    assert not out.exists()
    have = files_below(tmp_path / "back.part")
    asked = [one.what.partition("/resolve/")[2].partition("/")[2] for one in hub.asked("/resolve/")]
    whole = {name for name in asked if name in have}
    assert len(whole) >= after - 1
    hub.forget()
    code, said = run_pull(hub, out, tmp_path)
    assert code == 0, said
    assert verify(out, deep=True) == []
    again = Counter(one.what.partition("/resolve/")[2].partition("/")[2] for one in hub.asked("/resolve/"))
    assert not whole & again.keys()
    assert max(again.values()) == 1


# --- hostile servers


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/tmp/outside",
        "a/../../outside",
        "..\\outside",
        "C:/outside",
        "NUL",
        "frame/aux.txt",
        "a//b",
        "Spec.json",
        "spec.json/below",
        "x\u202ey",
    ],
)
@pytest.mark.parametrize("kind", ["store", "head"])
def test_a_name_that_may_not_be_is_refused_before_anything_is_written(hub, pushed, tmp_path, name, kind):
    files = dict(pushed[1])
    entry = [5, hashlib.sha256(b"gotya").hexdigest()]
    if kind == "store":
        files["manifest.json"] = manifest_with(files, **{name: entry})
    else:
        listed = dict.fromkeys(("model.safetensors", "config.json", "spec.json", name), entry)
        files["manifest.json"] = canonical.pretty_json(head_manifest(listed))
    hub.put(REPO, {**files, name: b"gotya"})
    before = files_below(tmp_path)
    with pytest.raises(DataError, match=r"manifest\.json"):
        pull(REPO, tmp_path / "in" / "back")
    assert files_below(tmp_path) == before
    assert not (tmp_path / "outside").exists()


def test_a_link_on_the_way_is_not_followed(hub, store, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "back.part").mkdir()
    (tmp_path / "back.part" / "frame").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"back\.part/frame: is a link"):
        pull(REPO, tmp_path / "back")
    (tmp_path / "file.part").mkdir()
    (tmp_path / "file.part" / "spec.json").symlink_to(tmp_path / "elsewhere" / "new")
    with pytest.raises(DataError, match=r"spec\.json: is a link"):
        pull(REPO, tmp_path / "file")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    (tmp_path / "linked.part").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is a link"):
        pull(REPO, tmp_path / "linked")


def test_what_lay_in_the_part_and_is_not_of_it_goes(hub, store, tmp_path):
    part = tmp_path / "back.part"
    (part / "old" / "deep").mkdir(parents=True)
    (part / "old" / "deep" / "x.part").write_bytes(b"of another store")
    (part / "frame").mkdir()
    (part / "frame" / "c.0.0.0.0").write_bytes(b"damaged")
    (part / "frame" / "c.1.0.0.0.part").write_bytes(b"x" * 500)
    pull(REPO, tmp_path / "back")
    assert not any("old" in name or name.endswith(".part") for name in files_below(tmp_path / "back"))
    assert not (tmp_path / "back" / "old").exists()
    assert verify(tmp_path / "back", deep=True) == []


@pytest.mark.parametrize("what", ["not-itself", "no-json", "deep", "no-files", "sizes", "huge", "list"])
def test_a_manifest_that_is_none_is_refused(hub, pushed, tmp_path, monkeypatch, what):
    monkeypatch.setattr(module, "MOST", 200_000)
    whole = json.loads(pushed[1]["manifest.json"])
    entry = whole["files"]["spec.json"]
    spoilt = {
        "not-itself": canonical.pretty_json({**whole, "failures": []}),
        "no-json": b"<html>",
        "deep": b"[" * 100_000,
        "no-files": canonical.pretty_json({**whole, "files": 3}),
        "sizes": manifest_with(pushed[1], **{"spec.json": [-1, entry[1]]}),
        "huge": b" " * 200_001,
        "list": b"[]",
    }[what]
    hub.put(REPO, {**pushed[1], "manifest.json": spoilt})
    with pytest.raises(DataError, match=r"manifest\.json"):
        pull(REPO, tmp_path / "back")
    assert list(tmp_path.glob("back*")) == []


def test_files_that_are_as_listed_and_no_store_get_no_name(hub, pushed, tmp_path):
    """The manifest matches itself and each file, but a row's checksum does not match the row."""
    files = dict(pushed[1])
    shard = bytearray(files["frame/c.0.0.0.0"])
    shard[0] ^= 1
    files["frame/c.0.0.0.0"] = bytes(shard)
    entry = [len(shard), hashlib.sha256(shard).hexdigest()]
    files["manifest.json"] = manifest_with(files, **{"frame/c.0.0.0.0": entry})
    hub.put(REPO, files)
    with pytest.raises(
        DataError, match=r"no sound store:\n  frame/c\.0\.0\.0\.0: crc32c does not match in row 0"
    ):
        pull(REPO, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert not (tmp_path / "back.part" / "manifest.json").exists()


def test_a_manifest_of_another_store_is_told_by_the_spec(hub, pushed, tmp_path):
    spec = pushed[1]["spec.json"].replace(b'"name": "fake"', b'"name": "fals"')
    entry = [len(spec), hashlib.sha256(spec).hexdigest()]
    files = {**pushed[1], "spec.json": spec}
    files["manifest.json"] = manifest_with(files, **{"spec.json": entry})
    hub.put(REPO, files)
    with pytest.raises(DataError, match="are of different stores"):
        pull(REPO, tmp_path / "back")
    assert not hub.asked("frame/")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("/tmp/evil-was-run",)


@pytest.mark.parametrize("form", ["pickle", "named", "cut"])
def test_weights_in_any_other_form_are_refused_and_never_run(hub, mixable, tmp_path, form):
    files = {name: piece.read() for name, piece in parcel_of(mixable / "mlp", "mit").all.items()}
    if form == "named":
        files["model.pt"] = pickle.dumps(Evil())
    else:
        weights = files["model.safetensors"]
        files["model.safetensors"] = pickle.dumps(Evil()) if form == "pickle" else weights[:-8]
    listed = {
        name: (len(data), canonical.sha256(data)) for name, data in files.items() if name != "manifest.json"
    }
    files["manifest.json"] = canonical.pretty_json(head_manifest(listed))
    hub.put("me/head", files, kind="model")
    with pytest.raises(DataError, match="safetensors"):
        pull("me/head", tmp_path / "back")
    assert not os.path.exists("/tmp/evil-was-run")
    assert not (tmp_path / "back").exists()
