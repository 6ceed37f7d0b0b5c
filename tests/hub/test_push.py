"""Pushing to a local hub: what arrives, in which order, what is refused before anything is sent, and what
becomes of it when the hub fails or the command is killed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter

import pytest

from helpers.hub_server import RETRY_AFTER, TOKEN, sha256
from helpers.tiny import make_dense_store, make_text_store
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.hub import push as module
from mambavl.hub.parcel import parcel_of
from mambavl.hub.pull import pull
from mambavl.hub.push import push

REPO = "me/kitchen"
COMMAND = """
import sys
from mambavl.cli import app
from mambavl.hub import push
push.BATCH_FILES = 4
sys.argv[0] = "mambavl"
sys.exit(app.run())
"""


@pytest.fixture
def store(tmp_path):
    make_dense_store(tmp_path / "s", failed={3: 4})
    return tmp_path / "s"


@pytest.fixture
def parcel(store):
    return parcel_of(store, "mit")


def files_of(store):
    """What the manifest lists, and itself."""
    names = [*json.loads((store / "manifest.json").read_bytes())["files"], "manifest.json"]
    return {name: (store / name).read_bytes() for name in names}


def stored_fully(hub):
    """How often each large file came whole."""
    puts = [one for one in hub.asked("PUT /lfs/") if one.came]
    whole = [one.what.removeprefix("PUT /lfs/") for one in puts]
    sizes = {name: len(data) for name, data in hub.stored.items()}
    return Counter(name for name, one in zip(whole, puts, strict=True) if one.came == sizes.get(name))


def test_a_store_arrives_whole_with_a_card_and_its_rows(hub, store, parcel):
    done = push(parcel, REPO)
    found = hub.content(REPO)
    assert files_of(store).items() <= found.items()
    assert found.keys() - files_of(store).keys() == {
        "README.md", "rows/train.parquet", "rows/validation.parquet",
    }  # fmt: skip
    assert found["README.md"].startswith(b'---\nlicense: "mit"\n')
    assert (done.sent, done.there) == (len(found), 0)
    assert done.url == f"{hub.url}/datasets/{REPO}"
    assert not hub.repo(REPO).private


def test_nothing_that_is_there_is_sent_again(hub, parcel):
    push(parcel, REPO)
    hub.forget()
    again = push(parcel, REPO)
    assert (again.sent, again.bytes, again.there) == (0, 0, len(parcel.all))
    assert not hub.asked("PUT ")
    assert not hub.asked("/commit/")


def test_the_manifest_goes_last_and_alone(hub, parcel, monkeypatch):
    monkeypatch.setattr(module, "BATCH_FILES", 4)
    push(parcel, REPO)
    commits = list(hub.repo(REPO).commits.values())
    assert ["manifest.json" in files for files in commits] == [False] * (len(commits) - 1) + [True]
    assert commits[-1].keys() - commits[-2].keys() == {"manifest.json"}
    assert len(commits) == 2 + -(-(len(parcel.all) - 1) // 4)  # the empty one, and the last
    assert max(Counter(one.what for one in hub.asked("PUT ")).values()) == 1


def test_batches_hold_every_file_once_and_stay_few():
    for count in (0, 1, 64, 65, 100_000):
        files = {str(number): module.Piece(b"", 10, "") for number in range(count)}
        batches = list(module._batches(list(files), files))
        assert [name for batch in batches for name in batch] == list(files)
        assert len(batches) <= 2 * module.COMMITS
    large = {str(number): module.Piece(b"", 2**29, "") for number in range(5)}
    assert [len(batch) for batch in module._batches(list(large), large)] == [2, 2, 1]


def test_where_a_file_is_gone_the_repository_is_not_whole_meanwhile(hub, parcel, monkeypatch):
    push(parcel, REPO)
    lost = next(name for name in parcel.files if name.startswith("frame/c"))
    del hub.repo(REPO).branches["main"][lost]
    before = set(hub.repo(REPO).commits)
    assert push(parcel, REPO).sent == 2  # with the manifest
    new = [files for name, files in hub.repo(REPO).commits.items() if name not in before]
    assert [("manifest.json" in files, lost in files) for files in new] == [
        (False, False), (False, True), (True, True),
    ]  # fmt: skip


def test_a_changed_shard_of_equal_size_is_sent_again(hub, parcel):
    push(parcel, REPO)
    changed = next(name for name in parcel.files if name.startswith("frame/c"))
    other = b"\xff" * parcel.files[changed].size
    hub.put(REPO, {changed: other})
    assert push(parcel, REPO).sent == 2
    assert hub.content(REPO)[changed] == parcel.files[changed].read()


def test_a_new_card_leaves_the_rest_alone(hub, store, parcel):
    push(parcel, REPO)
    hub.forget()
    push(parcel_of(store, "cc-by-4.0"), REPO)
    assert hub.content(REPO)["README.md"].startswith(b'---\nlicense: "cc-by-4.0"\n')
    assert not hub.asked("PUT ")
    assert all("manifest.json" in files for files in list(hub.repo(REPO).commits.values())[-2:])


def test_another_store_is_not_overwritten_unless_asked(hub, parcel, tmp_path):
    push(parcel, REPO)
    before = dict(hub.repo(REPO).branches["main"])
    make_text_store(tmp_path / "t")
    other = parcel_of(tmp_path / "t", "mit")
    with pytest.raises(UsageError, match=rf"holds another store or head \('{parcel.id[:16]}'\).*--replace"):
        push(other, REPO)
    assert hub.repo(REPO).branches["main"] == before
    hub.put(REPO, {"notes.txt": b"of the user's"})
    push(other, REPO, replace=True)
    assert hub.content(REPO).keys() == {*other.all, "notes.txt"}
    commits = list(hub.repo(REPO).commits.values())
    assert [files.get("manifest.json") for files in commits[-3:-1]] == [None, None]


def test_a_branch_is_made_and_main_left_alone(hub, parcel):
    push(parcel, REPO, revision="v1")
    assert hub.content(REPO, branch="v1").keys() == parcel.all.keys()
    assert hub.content(REPO) == {}


def test_private_means_private(hub, store, parcel):
    push(parcel_of(store, "mit", private=True), "me/own")
    assert hub.repo("me/own").private
    hub.put("me/public", {})
    with pytest.raises(UsageError, match="is public, and --private was asked for"):
        push(parcel_of(store, "mit", private=True), "me/public")
    assert hub.content("me/public") == {}
    push(parcel, "me/own")  # stays so
    assert hub.repo("me/own").private


@pytest.mark.parametrize(
    "where",
    ["GET /api/datasets", "repos/create", "preupload", "objects/batch", "PUT /lfs/", "/commit/", "/tree/"],
)
@pytest.mark.parametrize("fault", ["500", "429", "cut"])
def test_what_passes_is_tried_again(hub, store, parcel, waits, where, fault):
    hub.fault(where, fault)
    push(parcel, REPO)
    assert files_of(store).items() <= hub.content(REPO).items()
    assert len(waits) == 1
    assert fault != "429" or waits[0] >= RETRY_AFTER


@pytest.mark.parametrize("where", ["GET /api/datasets", "objects/batch", "/commit/"])
def test_a_page_of_a_proxy_is_no_answer(hub, parcel, waits, where):
    hub.fault(where, "html")
    push(parcel, REPO)
    assert hub.content(REPO).keys() == parcel.all.keys()
    assert len(waits) == 1


@pytest.mark.parametrize("where", ["GET /api/datasets", "/commit/", "PUT /lfs/", "/tree/"])
def test_a_hub_that_fails_on_and_on_is_given_up_and_the_command_goes_on_later(hub, parcel, where):
    hub.fault(where, *["503"] * 200)
    with pytest.raises(DataError, match="tried 4 times; run the same command again later"):
        push(parcel, REPO)
    hub.plans.clear()
    push(parcel, REPO)
    assert hub.content(REPO).keys() == parcel.all.keys()


def test_a_file_that_the_hub_loses_is_sent_once_more_or_named(hub, parcel):
    hub.fault("/commit/", "lost")
    push(parcel, REPO)
    assert hub.content(REPO).keys() == parcel.all.keys()
    for files in hub.repo(REPO).commits.values():
        assert "manifest.json" not in files or files.keys() >= parcel.all.keys()
    hub.fault("/commit/", *["lost"] * 50)
    with pytest.raises(DataError, match=r"was sent .* and has not the same there"):
        push(parcel, "me/other")
    assert "manifest.json" not in hub.content("me/other")


@pytest.mark.parametrize(("status", "said"), [("401", "hf auth login"), ("403", "right to write")])
def test_a_token_that_is_refused_is_said_once_and_nothing_is_tried_again(hub, parcel, waits, status, said):
    hub.fault("POST ", status, status)
    with pytest.raises(DataError, match=said):
        push(parcel, REPO)
    assert waits == []


def test_a_stop_comes_between_two_batches(hub, parcel, monkeypatch):
    monkeypatch.setattr(module, "BATCH_FILES", 4)
    asked = []
    with pytest.raises(Interrupted, match="run the same command again"):
        push(parcel, REPO, should_stop=lambda: asked.append(1) or len(asked) > 2)
    assert len(hub.content(REPO)) == 8
    hub.forget()
    push(parcel, REPO)
    assert hub.content(REPO).keys() == parcel.all.keys()
    assert all(count == 1 for count in stored_fully(hub).values())


@pytest.mark.parametrize(
    ("where", "after"),
    [
        ("PUT /lfs/", 5),
        ("/commit/", 0),
        ("/commit/", 2),
        ("objects/batch", 1),
    ],
)
def test_killed_anywhere_it_goes_on_and_sends_nothing_twice(hub, store, tmp_path, where, after):
    """Of what travels with a commit, small texts, the commit in hand is lost; of large files the one."""
    hub.fault(where, *[""] * after, "kill")
    code, said = run_push(hub, store, tmp_path)
    assert code == -signal.SIGKILL, said
    assert "manifest.json" not in hub.content(REPO)
    with pytest.raises(DataError, match="is not whole"):
        pull(REPO, tmp_path / "too-early")
    first, already = stored_fully(hub), len(hub.content(REPO))
    hub.forget()
    code, said = run_push(hub, store, tmp_path)
    assert code == 0, said
    assert files_of(store).items() <= hub.content(REPO).items()
    assert not first.keys() & stored_fully(hub).keys()
    assert all(count == 1 for count in (first + stored_fully(hub)).values())
    assert f"{already} were there" in said


def run_push(hub, store, folder):
    """The command in a process of its own, which the hub may kill: (exit code, what it printed)."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(folder / "hf"),
    }
    words = ["push", str(store), REPO, "--licence", "mit"]
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        hub.victim = child.pid
        said, _ = child.communicate(timeout=300)
        return child.returncode, said


def test_what_is_on_its_way_is_what_was_verified(hub, store, parcel):
    """A shard that changes between the check and the sending is no longer what was announced."""
    shard = next(name for name in parcel.files if name.startswith("frame/c"))
    copy = store / shard
    data = copy.read_bytes()
    copy.chmod(0o644)
    copy.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DataError):
        push(parcel, REPO)
    assert "manifest.json" not in hub.content(REPO)
    assert sha256(data) not in hub.stored
    shutil.rmtree(store)
