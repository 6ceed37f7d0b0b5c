"""The hub's answers in our words; and the token, which is sent to the hub and stands nowhere else."""

import contextlib
import io
import logging
import traceback

import pytest

from helpers.hub_server import TOKEN
from helpers.tiny import make_dense_store
from mambavl.cache.verify import verify
from mambavl.configs.errors import DataError, MambaVLError, UsageError
from mambavl.hub.client import Place, opened
from mambavl.hub.parcel import parcel_of
from mambavl.hub.pull import pull
from mambavl.hub.push import push

REPO = "me/kitchen"


@pytest.fixture
def parcel(tmp_path):
    make_dense_store(tmp_path / "s")
    return parcel_of(tmp_path / "s", "mit")


def pieces(token):
    """What would tell of a token: eight characters of it, in either case."""
    found = [token[start : start + 8] for start in range(len(token) - 7)]
    return [*found, *(one.lower() for one in found)]


@pytest.mark.parametrize(
    "where", ["GET /api/", "repos/create", "preupload", "PUT /lfs/", "/commit/", "/resolve/"]
)
@pytest.mark.parametrize("fault", ["500", "429", "401", "403", "400", "404", "418", "cut", "html"])
def test_the_token_stands_in_nothing_that_is_shown_logged_or_written(
    hub, parcel, tmp_path, capfd, where, fault
):
    """The hub says it back in the body of every error, in three headers and in a warning."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    shown = ""
    try:
        for step in (lambda: push(parcel, REPO), lambda: pull(REPO, tmp_path / "back")):
            hub.fault(where, *[fault] * 20)
            try:
                shown += repr(step())
            except MambaVLError as error:
                shown += "".join(traceback.format_exception(error)) + repr(vars(error))
            hub.plans.clear()
    finally:
        logging.getLogger().removeHandler(handler)
    shown += log.getvalue() + "".join(capfd.readouterr())
    for file in tmp_path.rglob("*"):
        shown += str(file)
        if file.is_file():
            shown += file.read_bytes().decode("latin-1")
    assert any(one.has_token for one in hub.log)
    assert [one for one in pieces(TOKEN) if one in shown] == []


def test_what_the_hub_says_back_is_shown_without_the_token(hub, parcel):
    hub.fault("/commit/", "400")
    with pytest.raises(DataError, match=r"the hub refused it \(400: .*says the hub to Bearer \[key\]"):
        push(parcel, REPO)


@pytest.mark.parametrize(
    "where", ["GET /api/", "/tree/", "preupload", "objects/batch", "/commit/", "/resolve/"]
)
@pytest.mark.parametrize("fault", ["null", "list", "text"])
def test_an_answer_of_another_form_is_an_error_of_ours(hub, parcel, tmp_path, where, fault):
    """Or is of no account, as the answer to a commit is, of which the list of files tells."""
    for step in (lambda: push(parcel, REPO), lambda: pull(REPO, tmp_path / "back")):
        hub.fault(where, *[fault] * 20)
        with contextlib.suppress(DataError):
            step()
        hub.plans.clear()
    push(parcel, REPO)
    if not (tmp_path / "back").exists():
        pull(REPO, tmp_path / "back")
    assert verify(tmp_path / "back", deep=True) == []


@pytest.mark.parametrize(
    ("status", "said"),
    [("401", "hf auth login"), ("403", "the right to write there"), ("400", "refused it"), ("418", "418: ")],
)
def test_a_refusal_says_what_to_do(hub, status, said):
    with opened(Place(REPO, "dataset")) as found:
        hub.fault("GET /api/", status)
        with pytest.raises(DataError, match=said):
            found.is_private()


def test_a_stranger_reads_what_is_public_and_must_log_in_to_write(hub, parcel, tmp_path, monkeypatch):
    push(parcel, REPO)
    hub.put("me/own", {}, private=True)
    monkeypatch.delenv("HF_TOKEN")
    assert pull(REPO, tmp_path / "back").kind == "store"
    with pytest.raises(DataError, match="it is private and the token may not see it"):
        pull("me/own", tmp_path / "other")
    with pytest.raises(UsageError, match="`hf auth login`, or set HF_TOKEN"):
        push(parcel, REPO)


def test_a_wrong_token_is_told_from_a_missing_repository(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_WrongWrongWrongWrong")
    with pytest.raises(DataError, match="does not take the token"):
        pull(REPO, tmp_path / "back")


@pytest.mark.parametrize(
    "repo", ["", "kitchen", "a/b/c", "../x", "a/..", "a b/c", "me/x\n", "-/-", "me/a..b"]
)
def test_a_name_that_no_repository_has(hub, parcel, tmp_path, repo):
    with pytest.raises(UsageError, match="cannot be the name of a repository"):
        push(parcel, repo)
    with pytest.raises(UsageError, match="cannot be the name of a repository"):
        pull(repo, tmp_path / "back")


def test_a_token_never_goes_unencrypted_to_another_machine(hub, parcel, tmp_path):
    for work in (lambda: push(parcel, REPO, endpoint="http://hub.example.org"),
                 lambda: pull(REPO, tmp_path / "x", endpoint="http://hub.example.org")):  # fmt: skip
        with pytest.raises(UsageError, match=r"unencrypted to hub\.example\.org") as found:
            work()
        assert TOKEN not in str(found.value)


def test_no_network_is_said_as_such(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    with pytest.raises(DataError, match="no sound answer came"):
        pull(REPO, tmp_path / "x", endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set"):
        pull(REPO, tmp_path / "x")


def test_a_server_that_ignores_the_range_sends_the_file_anew(hub, parcel, tmp_path):
    """Its answer is 200 and begins at the first byte, whatever is there already."""
    push(parcel, REPO)
    name = "frame/c.0.0.0.0"
    data = parcel.files[name].read()
    came: list[int] = []
    (tmp_path / "x").write_bytes(data[:100])
    hub.fault("GET /lfs/", "whole")
    with opened(Place(REPO, "dataset")) as found:
        found.fetch(name, found.commit(), tmp_path / "x", len(data), came.append)
    assert hub.asked("GET /lfs/")[-1].start == 100
    assert (tmp_path / "x").read_bytes() == data
    assert sum(came) == len(data)


def test_logs_and_bars_of_the_client_are_as_they_were_afterwards(hub):
    from huggingface_hub.utils import are_progress_bars_disabled

    log = logging.getLogger("huggingface_hub")
    before = log.level, are_progress_bars_disabled()
    with opened(Place(REPO, "dataset")):
        assert not log.isEnabledFor(logging.CRITICAL)
    assert (log.level, are_progress_bars_disabled()) == before


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[hub\]'"), opened(Place(REPO, "dataset")):
        pass
