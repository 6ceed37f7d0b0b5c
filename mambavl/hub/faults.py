"""What goes wrong with a hub, in words of ours; and trying again where that may do."""

import errno
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

from mambavl.cache.fsops import HINTS
from mambavl.configs.errors import DataError, MambaVLError, UsageError
from mambavl.configs.secrets import Secret, printable

T = TypeVar("T")

SAID = 300  # characters of a server's message that are shown
HELD = 10_000  # characters of it that are looked at
FAILED = (408, 429, 500, 502, 503, 504)  # status codes after which another try may do
TRIES = 4  # rounds without any gain, after which it is given up
LONGEST_WAIT = 300.0  # seconds, whatever a server asks for

pause = time.sleep  # between two rounds; tests do not wait


class Passing(DataError):
    """The server or the line failed; another try may do. seconds: how long the server asks to wait."""

    def __init__(self, message: str, seconds: float | None = None) -> None:
        super().__init__(message)
        self.seconds = seconds


class WrongBytes(DataError):
    """A file came, and is longer or shorter than it should be, for good."""


def fault_of(error: BaseException, where: str, secret: Secret, *, has_token: bool) -> MambaVLError:
    """An error of huggingface_hub, or below it, as one of ours. where: what could not be done, such as
    `user/name could not be listed`.
    """
    import httpx2
    from huggingface_hub import errors

    while error.__cause__ is not None and not isinstance(error, httpx2.HTTPError):
        error = error.__cause__
    if isinstance(error, errors.HfHubHTTPError):
        return _refusal(error, where, secret, has_token)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return UsageError(f"{where}: HF_HUB_OFFLINE is set; unset it")
    said = say(secret, f"{type(error).__name__}: {error}")
    if isinstance(error, httpx2.TransportError | json.JSONDecodeError):
        return Passing(f"{where}: no sound answer came ({said})")
    if isinstance(error, OSError) and error.errno is not None:
        name = error.filename or where
        return DataError(f"{name}: {HINTS.get(error.errno) or errno.errorcode.get(error.errno, said)}")
    return DataError(f"{where}: the answer is not what it should be ({said})")


def _refusal(error: Any, where: str, secret: Secret, has_token: bool) -> MambaVLError:
    """error: an HfHubHTTPError."""
    from huggingface_hub import errors

    status = error.response.status_code
    said = say(secret, error.server_message or "it gives no reason")
    if status in FAILED:
        asked = error.response.headers.get("Retry-After", "")
        seconds = float(asked) if asked.isdecimal() and len(asked) < 9 else None
        return Passing(f"{where}: the hub failed ({status}: {said})", seconds)
    if isinstance(error, errors.RevisionNotFoundError):
        return DataError(f"{where}: it has no such revision")
    if status == 403:
        return DataError(
            f"{where}: the token may not do that (403: {said}); it needs the right to write there, or, to "
            "read, that its owner was let in"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return DataError(f"{where}: there is no such repository, or the token may not see it")
    if status == 401 and not has_token:
        return DataError(f"{where}: the hub asks who you are; `hf auth login`, or set HF_TOKEN")
    if status == 401:
        return DataError(f"{where}: the hub does not take the token (401: {said}); `hf auth login` anew")
    return DataError(f"{where}: the hub refused it ({status}: {said})")


def say(secret: Secret, text: str) -> str:
    """A text of the server's in one line, without the token and without control characters, cut."""
    return printable(" ".join(secret.cut_out(text[:HELD]).split()))[:SAID]


def in_rounds(work: Callable[[Callable[[], None]], T]) -> T:
    """What `work` returns, tried again after a passing fault from where it was.

    work(gained) calls `gained` for each piece that was done. Raises the last fault after TRIES rounds in
    which nothing was.
    """
    failures = 0

    def gained() -> None:
        nonlocal failures
        failures = 0

    while True:
        try:
            return work(gained)
        except Passing as fault:
            failures += 1
            if failures == TRIES:
                raise DataError(
                    f"{fault}. It was tried {TRIES} times; run the same command again later: what is done is "
                    "not done again"
                ) from None
            pause(min(LONGEST_WAIT, 2.0**failures if fault.seconds is None else fault.seconds))
