"""One repository of a hub: what is in it, sending, fetching; and what goes wrong there, in words of ours.

huggingface_hub speaks with the server and finds the token. Here its errors become `DataError`, or `Passing`
where another try may do, and each word of the server's goes through `Secret`, so that the token, which a
server can say back, stands in no message. Its log and its bars are silent meanwhile.
"""

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from mambavl.configs.errors import DataError, MambaVLError, UsageError, to_install
from mambavl.configs.secrets import Secret
from mambavl.hub.faults import Passing, WrongBytes, fault_of, say

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Kind = Literal["dataset", "model"]

COMMIT = re.compile(r"[0-9a-f]{40}")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
LOGS = ("huggingface_hub", "httpx2", "httpcore2")
SILENCE = 60.0  # seconds without a byte, after which a connection is given up


class There(NamedTuple):
    """A file of a repository."""

    size: int
    sha256: str | None  # of a large file
    git_sha1: str  # of a small one, as git counts it


@dataclass(frozen=True)
class Place:
    """Where something is, or is to be: `user/name`, on a branch."""

    repo: str
    kind: Kind
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo + (f" ({self.revision})" if self.revision else "")


class Hub:
    """One repository; `opened` gives it."""

    def __init__(self, place: Place, api: "HfApi", secret: Secret, *, has_token: bool) -> None:
        self.place, self.api, self._secret, self.has_token = place, api, secret, has_token

    @property
    def url(self) -> str:
        """Where people look at it."""
        folder = "datasets/" if self.place.kind == "dataset" else ""
        return f"{self.api.endpoint}/{folder}{self.place.repo}"

    def of(self, kind: Kind) -> "Hub":
        """The repository of the same name and of a kind."""
        place = Place(self.place.repo, kind, self.place.revision)
        return Hub(place, self.api, self._secret, has_token=self.has_token)

    def is_private(self) -> bool | None:
        """None where there is no such repository, or the token may not see it."""
        from huggingface_hub.errors import RepositoryNotFoundError

        with self._explained("looked at"):
            try:
                info = self.api.repo_info(self.place.repo, repo_type=self.place.kind)
            except RepositoryNotFoundError:
                return None
            return bool(info.private)

    def create(self, *, private: bool) -> None:
        with self._explained("created"):
            self.api.create_repo(self.place.repo, repo_type=self.place.kind, private=private, exist_ok=True)

    def create_branch(self) -> None:
        """Of the revision, if one is named and there is none."""
        if self.place.revision is not None:
            with self._explained("given a branch"):
                self.api.create_branch(
                    self.place.repo, branch=self.place.revision, repo_type=self.place.kind, exist_ok=True
                )

    def commit(self) -> str | None:
        """The commit at the head; None where there is no such repository. Raises DataError for no such
        revision.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        with self._explained("looked at"):
            try:
                info = self.api.repo_info(
                    self.place.repo, repo_type=self.place.kind, revision=self.place.revision
                )
            except RepositoryNotFoundError:
                return None
            sha = str(info.sha)
        if not COMMIT.fullmatch(sha):
            raise DataError(f"{self.place}: the hub gives {self.say(sha)!r} for a commit")
        return sha

    def files(self) -> dict[str, There]:
        """Name -> what the repository has under it."""
        from huggingface_hub.hf_api import RepoFile

        with self._explained("listed"):
            found = self.api.list_repo_tree(
                self.place.repo, recursive=True, revision=self.place.revision, repo_type=self.place.kind
            )
            return {
                one.path: There(one.size, one.lfs.sha256 if one.lfs else None, one.blob_id)
                for one in found
                if isinstance(one, RepoFile)
            }

    def send(self, files: Sequence[tuple[str, Path | bytes, str]], gone: Sequence[str], message: str) -> None:
        """Commit some files, (name, content, sha256), and without those that are to be gone.

        Large ones are in the hub's storage one by one before the commit, and are not sent again where it
        fails or never comes.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        with self._explained("written"):
            added = []
            for name, content, sha256 in files:
                operation = CommitOperationAdd(name, content)
                operation.upload_info.sha256 = bytes.fromhex(sha256)  # known; the client would read it again
                added.append(operation)
            distinct = {one.upload_info.sha256: one for one in added}
            if distinct:
                # the client would send equal files as often as they are there, such as the statuses of groups
                self.api.preupload_lfs_files(
                    self.place.repo,
                    list(distinct.values()),
                    repo_type=self.place.kind,
                    revision=self.place.revision,
                    num_threads=1,
                    free_memory=False,
                )
            deleted = [CommitOperationDelete(name, is_folder=False) for name in gone]
            self.api.create_commit(
                self.place.repo,
                [*added, *deleted],
                commit_message=message,
                repo_type=self.place.kind,
                revision=self.place.revision,
                num_threads=1,
            )

    def content(self, name: str, commit: str, most: int) -> bytes | None:
        """A small file; None where there is none. Raises DataError for one of more than `most` bytes."""
        with self._explained(f"read: {name}"), self._response(name, commit, 0) as response:
            if response.status_code == 404:
                return None
            self._raise_for_status(response)
            data = bytearray()
            for block in response.iter_bytes():
                data += block
                if len(data) > most:
                    raise DataError(
                        f"{self.place}: {name} has more than {most:,} bytes; it is not what it says"
                    )
            return bytes(data)

    def fetch(self, name: str, commit: str, target: Path, size: int, came: Callable[[int], None]) -> None:
        """Fetch a file of `size` bytes, from where `target` ends. came: is told how many bytes were written.

        Raises Passing where the connection ends before the file does, WrongBytes where the file is longer or
        shorter, DataError where it is not there.
        """
        have = target.stat().st_size if target.exists() else 0
        if have >= size:  # what is too long shows in its sha256
            return
        with self._explained(f"fetched: {name}"), self._response(name, commit, have) as response:
            if response.status_code == 416:
                raise WrongBytes(f"{self.place}: {name} has at most {have:,} bytes, expected {size:,}")
            if response.status_code == 404:
                raise DataError(f"{self.place}: {name} is not there, though manifest.json lists it")
            self._raise_for_status(response)
            at = have if response.status_code == 206 else 0  # 200: all of it comes again
            with open(target, "ab" if at else "wb") as file:
                for block in response.iter_bytes():  # as it comes: what came before a cut is kept
                    at += len(block)
                    if at > size:
                        raise WrongBytes(f"{self.place}: {name} has more than {size:,} bytes")
                    file.write(block)
                    file.flush()
                    came(len(block))
        if at < size:
            raise Passing(f"{self.place}: {name} ended after {at:,} of {size:,} bytes")

    def say(self, text: str) -> str:
        """A text of the server's as people may see it."""
        return say(self._secret, text)

    @contextlib.contextmanager
    def _response(self, name: str, commit: str, start: int) -> Iterator[Any]:
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(
            self.place.repo,
            name,
            repo_type=self.place.kind,
            revision=commit,
            endpoint=self.api.endpoint,
        )
        headers = build_hf_headers(token=self.api.token) | {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with get_session().stream("GET", url, headers=headers, timeout=SILENCE) as response:
            yield response

    def _raise_for_status(self, response: Any) -> None:
        from huggingface_hub.utils import hf_raise_for_status

        hf_raise_for_status(response)

    @contextlib.contextmanager
    def _explained(self, deed: str) -> Iterator[None]:
        """Turn what goes wrong into our words: texts, causes and tracebacks of others may hold the token."""
        try:
            yield
        except MambaVLError:
            raise
        # a library's errors of any kind, also those of an answer that has not the form it expects
        except Exception as error:
            where = f"{self.place} could not be {deed}"
            raise fault_of(error, where, self._secret, has_token=self.has_token) from None


@contextlib.contextmanager
def opened(place: Place, endpoint: str | None = None, *, to_write: bool = False) -> Iterator[Hub]:
    """A repository, with huggingface_hub's own log, bars and warnings silent.

    endpoint: the hub's address; by default HF_ENDPOINT's, or the public one. Raises UsageError for a name
    that no repository has, where huggingface_hub is lacking, to write where no token is known, and where a
    token would go over the line unencrypted.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import (
            are_progress_bars_disabled,
            disable_progress_bars,
            enable_progress_bars,
            validate_repo_id,
        )
    except ImportError:
        raise UsageError(f"a hub needs the package huggingface_hub: {to_install('hub')}") from None
    try:
        validate_repo_id(place.repo)
        if place.repo.count("/") != 1 or not place.repo.isprintable():
            raise HFValidationError
    except HFValidationError:
        raise UsageError(f"{place.repo!r} cannot be the name of a repository; use user/name") from None
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for log in map(logging.getLogger, LOGS):
            stack.callback(log.setLevel, log.level)
            log.setLevel(logging.CRITICAL + 1)
        if not are_progress_bars_disabled():
            disable_progress_bars()
            stack.callback(enable_progress_bars)
        token = huggingface_hub.get_token()
        api = huggingface_hub.HfApi(endpoint=endpoint, token=token or False, library_name="mambavl")
        address = urlsplit(api.endpoint)
        if token and address.scheme != "https" and address.hostname not in LOOPBACK:
            raise UsageError(
                f"HF_ENDPOINT: the token would go unencrypted to {address.hostname}; use https, or leave the "
                "token out"
            )
        if to_write and not token:
            raise UsageError("to write to a hub it must know who you are: `hf auth login`, or set HF_TOKEN")
        yield Hub(place, api, Secret(token or ""), has_token=bool(token))
