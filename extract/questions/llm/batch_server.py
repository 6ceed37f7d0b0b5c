"""A server's interface for batches: files of requests that are uploaded, worked off later and collected.

Uploading, looking and downloading cost nothing and are repeated until they succeed. Creating a batch costs,
so one call is made and its outcome handed back.
"""

import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar

from pydantic import BaseModel, Field

from mambavl.configs.errors import DataError
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.extract.questions.llm.requests import Fault
from mambavl.extract.questions.llm.server import Completion, Endpoint
from mambavl.extract.questions.llm.waits import backoff

URL: Final = "/v1/chat/completions"
TOKEN = "mambavl_token"  # the name of our token in a batch's metadata
WINDOW: Final = "24h"  # the only one that OpenAI knows
TRANSFER = 20  # times the timeout that an upload or a download may take
LISTED = 2_000  # batches of the account that are searched for a token
PAGE = 100  # batches on a page of the list

Result = TypeVar("Result")
Record = TypeVar("Record", bound=BaseModel)


class UploadedFile(BaseModel):
    """What is read of an uploaded file."""

    id: str = Field(min_length=1)


class BatchState(BaseModel):
    """What is read of a batch."""

    id: str = Field(min_length=1)
    status: str
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: Any = None
    metadata: dict[str, Any] | None = None


class BatchPage(BaseModel):
    """Some of the account's batches."""

    data: list[BatchState]
    has_more: bool | None = False


class Response(BaseModel):
    """The server's answer to one request of a batch."""

    status_code: int
    body: Completion | Any = Field(default=None, union_mode="left_to_right")


class Line(BaseModel):
    """A line of a batch's output or error file."""

    custom_id: str
    response: Response | None = None
    error: Any = None


class NotFound(DataError):
    """The server does not know what was looked for."""


class BatchServer:
    """The batch interface of an endpoint. `wait` sleeps, and raises when the run must stop."""

    def __init__(
        self, endpoint: Endpoint, options: LLMSettings, wait: Callable[[float], Awaitable[None]]
    ) -> None:
        self.endpoint, self.options = endpoint, options
        self._wait, self._jitter = wait, random.Random()

    async def upload(self, data: bytes) -> str:
        """The id of a new file with these lines of JSON. Raises DataError."""
        create = self.endpoint.client.files.with_raw_response.create
        make = partial(create, file=("requests.jsonl", data), purpose="batch")
        try:
            return (await self._fetch(make, UploadedFile, TRANSFER)).id
        except NotFound as error:
            raise DataError(
                f"the server takes no files, so no batches ({error}); leave mode at live"
            ) from None

    async def create(self, file_id: str, token: str) -> BatchState | Fault:
        """One call that creates a batch of an uploaded file; the token goes along as metadata."""
        create = self.endpoint.client.batches.with_raw_response.create
        return await self.endpoint.fetch(
            partial(
                create,
                input_file_id=file_id,
                endpoint=URL,
                completion_window=WINDOW,
                metadata={TOKEN: token},
            ),
            BatchState,
        )

    async def state(self, batch_id: str) -> BatchState:
        """How a batch stands. Raises NotFound when the server does not know it, DataError otherwise."""
        retrieve = self.endpoint.client.batches.with_raw_response.retrieve
        return await self._fetch(partial(retrieve, batch_id), BatchState)

    async def download(self, file_id: str) -> bytes:
        """The content of a file. Raises NotFound when the server does not know it, DataError otherwise."""
        make = partial(self.endpoint.client.files.content, file_id)
        return (await self._repeat(partial(self.endpoint.call, make, TRANSFER))).content

    async def find(self, token: str) -> str | None:
        """The id of the batch with this token, None if the server does not list it. Raises DataError when the
        server lists nothing.
        """
        fetch_list = self.endpoint.client.batches.with_raw_response.list
        seen, make = 0, partial(fetch_list, limit=PAGE)
        while seen < LISTED:
            page = await self._fetch(make, BatchPage)
            for batch in page.data:
                if (batch.metadata or {}).get(TOKEN) == token:
                    return batch.id
            if not page.has_more or not page.data:
                return None
            seen, make = seen + len(page.data), partial(fetch_list, limit=PAGE, after=page.data[-1].id)
        return None

    async def wait_to_retry(self, call: int, fault: Fault, least: float = 0.0) -> None:
        """Wait before the next call, for `least` seconds at least."""
        await self._wait(max(least, backoff(self.options, call, fault.wait, self._jitter)))

    async def _fetch(
        self, make: Callable[[], Awaitable[Any]], kind: type[Record], patience: float = 1.0
    ) -> Record:
        return await self._repeat(partial(self.endpoint.fetch, make, kind, patience))

    async def _repeat(self, call: Callable[[], Awaitable[Result | Fault]]) -> Result:
        """A call that costs nothing, repeated until it succeeds. Raises NotFound or DataError."""
        reason = ""
        for number in range(self.options.retries + 1):
            found = await call()
            if not isinstance(found, Fault):
                return found
            if found.status == 404:
                raise NotFound(found.reason)
            reason = found.reason
            if not found.retryable:
                break
            await self.wait_to_retry(number, found)
        raise DataError(f"{reason}; run the same command again to continue")
