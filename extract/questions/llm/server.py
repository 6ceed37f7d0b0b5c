"""A server that speaks OpenAI's protocol: one call, one reply or one fault. Repeating is the caller's
business.

A fault says whether the server may have done the work and charge for it, whether another call may help, and
whether any other request can fare better.
"""

import hashlib
import time
from asyncio import timeout
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from mambavl.configs.errors import UsageError, to_install
from mambavl.extract.questions.llm.credentials import Credentials
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.extract.questions.llm.replies import MAX_CHARACTERS
from mambavl.extract.questions.llm.requests import Fault, Reply, Request

if TYPE_CHECKING:
    import openai

Result = TypeVar("Result")
Record = TypeVar("Record", bound=BaseModel)

MAX_TOKENS = 10**8  # a larger count is not a count
# HTTP statuses
MAY_BE_ONE_REQUEST = (400, 413, 422)  # the fault of one request, perhaps; `live` judges by how many meet it
TRY_AGAIN = (408, 409, 425, 429)  # and all from 500 on
WORK_MAY_BE_DONE = (408, 502, 504)  # a proxy gave up waiting
BAD_KEY = (401, 403)
# error codes of OpenAI
FOR_EVERY_REQUEST = ("model_not_found",)
OUT_OF_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class Completion(BaseModel):
    """What is read of a chat completion; whatever else it holds is passed over."""

    choices: list[_Choice] = Field(min_length=1, max_length=1)
    usage: Any = None  # a reply that was paid for is kept whatever stands here

    def reply(self, redact: Callable[[str], str]) -> Reply:
        """The reply, its texts shortened and without the key."""

        def clean(text: str | None) -> str | None:
            return None if text is None else redact(_shorten(text))

        choice = self.choices[0]
        return Reply(
            text=clean(choice.message.content),
            finish_reason=clean(choice.finish_reason),
            refusal=clean(choice.message.refusal),
            tokens_in=self._tokens("prompt_tokens"),
            tokens_out=self._tokens("completion_tokens"),
        )

    def _tokens(self, name: str) -> int | None:
        """A count of the server, None where it gives none that is possible: then the bound is charged."""
        count = self.usage.get(name) if isinstance(self.usage, dict) else None
        return count if type(count) is int and 0 <= count <= MAX_TOKENS else None


class Endpoint:
    """A Completer over HTTP. Use it as `async with`, within one event loop.

    Raises UsageError when the package openai is missing or the key cannot be used with the address.
    """

    def __init__(self, options: LLMSettings) -> None:
        try:
            import openai
        except ImportError as error:
            raise UsageError(
                f"calling a server needs the package openai ({error}); {to_install('llm')}"
            ) from None
        self._openai = openai
        self.options, self.model, self.backend = options, options.model, f"llm:{options.model}"
        self.credentials = Credentials(options)
        self.client = openai.AsyncOpenAI(
            api_key=self.credentials.sent_key,
            base_url=options.base_url,
            max_retries=0,
            timeout=options.timeout,
        )

    async def __aenter__(self) -> "Endpoint":
        # imported now, not within a call's timeout
        _ = self.client.chat.completions, self.client.batches, self.client.files
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.client.close()

    def body(self, request: Request, attempt: int) -> dict[str, Any]:
        """The JSON of a call. Raises VideoError when the request's frames cannot be read."""
        options = self.options
        body: dict[str, Any] = {
            "model": options.model,
            "messages": request.messages(),
            options.token_limit_name: options.max_tokens,
        }
        temperature = options.attempt_temperature(attempt)
        if temperature is not None:
            body["temperature"] = temperature
        body["seed"] = options.seed + attempt
        if options.structured == "json_object":
            body["response_format"] = {"type": "json_object"}
        elif options.structured == "json_schema":
            schema = {"name": request.reply.__name__, "strict": True, "schema": request.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    async def complete(self, request: Request, attempt: int) -> Reply | Fault:
        """As Completer says. Raises VideoError when the request's frames cannot be read."""
        body = self.body(request, attempt)
        create = self.client.chat.completions.with_raw_response.create
        found = await self.fetch(lambda: create(**body), Completion)
        return found if isinstance(found, Fault) else found.reply(self.credentials.redact)

    async def fetch(
        self, make: Callable[[], Awaitable[Any]], kind: type[Record], patience: float = 1.0
    ) -> Record | Fault:
        """The JSON that one raw call of the client brings, as `kind`, or a Fault."""
        found = await self.call(make, patience)
        if isinstance(found, Fault):
            return found
        try:
            return kind.model_validate_json(found.content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "body"
            said = self.credentials.say(
                f"the server's answer is not of the expected form ({where}: {first['msg']})"
            )
            return Fault(said, may_cost=True)

    async def call(self, make: Callable[[], Awaitable[Result]], patience: float = 1.0) -> Result | Fault:
        """The result of one call of the client within `patience` times the timeout, or a Fault. No exception
        of the client, which may hold headers, leaves here.
        """
        openai, say = self._openai, self.credentials.say
        try:
            # the client's own limit starts again with every byte
            async with timeout(patience * self.options.timeout):
                return await make()
        except (TimeoutError, openai.APITimeoutError):
            return Fault(f"no reply in {self.options.timeout:g} s", may_cost=True)
        except openai.APIStatusError as error:
            return self._status_fault(error)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            return Fault(f"the connection failed ({type(cause).__name__}: {say(str(cause))})", may_cost=True)
        except (openai.OpenAIError, ValueError) as error:  # the client reads an answer's JSON and its letters
            return Fault(f"the client failed ({type(error).__name__}: {say(str(error))})", may_cost=True)

    def _status_fault(self, error: "openai.APIStatusError") -> Fault:
        status, code = error.status_code, error.code or ""
        reason = f"HTTP {status}: {self.credentials.say(str(error.message))}"
        if status == 429 and code in OUT_OF_MONEY:
            return Fault(reason, retryable=False, ends_run=True, status=status)
        if status in TRY_AGAIN or status >= 500:
            wait = retry_after(error.response.headers, time.time())
            return Fault(reason, may_cost=status in WORK_MAY_BE_DONE, wait=wait, status=status)
        if status in BAD_KEY:  # the server's own words may spell the key
            reason = f"HTTP {status}: the server refuses {self.credentials.describe()}"
            return Fault(reason, retryable=False, ends_run=True, status=status)
        ends_run = code in FOR_EVERY_REQUEST or status not in MAY_BE_ONE_REQUEST
        return Fault(reason, retryable=False, ends_run=ends_run, status=status)


def _shorten(text: str) -> str:
    """A text that is too long to be accepted, cut to what shows that it was: the ledger keeps every reply for
    ever.
    """
    if len(text) <= MAX_CHARACTERS or len(text := text.strip()) <= MAX_CHARACTERS:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text[:MAX_CHARACTERS]} [cut: {len(text):,} characters, sha256 {digest}]"


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that a server asks to wait: Retry-After in seconds or as a date, or retry-after-ms. None where
    it says nothing. now: seconds since 1970.
    """
    with suppress(KeyError, ValueError):
        if (seconds := float(headers["retry-after-ms"]) / 1000) >= 0:
            return seconds
    text = headers.get("retry-after", "")
    with suppress(ValueError):
        return seconds if (seconds := float(text)) >= 0 else None  # NaN compares false
    with suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    return None
