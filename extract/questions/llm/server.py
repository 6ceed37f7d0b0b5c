"""A server that speaks OpenAI's protocol: one call, one reply or one fault. Repeating is the caller's
business.

The key comes from an environment variable and goes into the Authorization header. It is in no record of this
package, and it is cut out of whatever the server says before anybody sees that. Another server than OpenAI's
is sent a key only when its variable was named in `key_variable`.
"""

import asyncio
import hashlib
import os
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from mambavl.configs.errors import UsageError
from mambavl.extract.questions.llm.options import OPENAI, LLMSettings
from mambavl.extract.questions.llm.replies import MAX_CHARACTERS
from mambavl.extract.questions.llm.requests import Fault, Reply, Request, printable

Model = TypeVar("Model", bound=BaseModel)

MAX_TOKENS = 10**8  # a larger count is no count
NO_KEY = "none"  # the client wants a text
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PIECE = 8  # characters of a key
ONE_REQUESTS = (400, 413, 422)  # may be the fault of one request; `live` judges by how many meet it
NOBODYS = ("model_not_found",)  # error codes that no request of a run can overcome
WORK_MAY_BE_DONE = (408, 502, 504)  # somebody between gave up waiting
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

    def reply(self, redact: Callable[[str | None], str | None]) -> Reply:
        choice = self.choices[0]
        return Reply(
            text=redact(_cut(choice.message.content)),
            finish_reason=redact(_cut(choice.finish_reason)),
            refusal=redact(_cut(choice.message.refusal)),
            tokens_in=self._tokens("prompt_tokens"),
            tokens_out=self._tokens("completion_tokens"),
        )

    def _tokens(self, name: str) -> int | None:
        """A count of the server, None where it gives none that can be: then the bound is charged."""
        count = self.usage.get(name) if isinstance(self.usage, dict) else None
        return count if type(count) is int and 0 <= count <= MAX_TOKENS else None


class Endpoint:
    """Use it as `async with`, within one event loop. Raises UsageError when it is made for an address or a
    key that cannot be.
    """

    def __init__(self, options: LLMSettings) -> None:
        try:
            import openai
        except ImportError as error:
            raise UsageError(
                f"asking a server needs the package openai ({error}); pip install 'mambavl[llm]'"
            ) from None
        self._openai = openai
        self.options, self.model, self.backend = options, options.model, f"llm:{options.model}"
        self._key = _key(options)
        pieces = (re.escape(self._key[start : start + PIECE]) for start in range(len(self._key) - PIECE + 1))
        # whole runs of them
        self._pieces = re.compile(rf"(?:(?={'|'.join(pieces)}).)+.{{{PIECE - 1}}}", re.IGNORECASE)
        self.client = openai.AsyncOpenAI(
            api_key=self._key or NO_KEY, base_url=options.base_url, max_retries=0, timeout=options.timeout
        )

    async def __aenter__(self) -> "Endpoint":
        # imported now, not within a call's timeout
        _ = self.client.chat.completions, self.client.batches, self.client.files
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.client.close()

    def body(self, request: Request, attempt: int) -> dict[str, Any]:
        """The JSON of a call. Raises VideoError when the request's frames cannot be had."""
        options = self.options
        body = {
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
        body = self.body(request, attempt)
        found = await self.fetch(
            lambda: self.client.chat.completions.with_raw_response.create(**body), Completion
        )
        return found if isinstance(found, Fault) else found.reply(self.redact)

    async def fetch(
        self, make: Callable[[], Awaitable[Any]], kind: type[Model], patience: float = 1.0
    ) -> Model | Fault:
        """The JSON that one raw call of the client brings, as `kind`, or a Fault."""
        found = await self.call(make, patience)
        if isinstance(found, Fault):
            return found
        try:
            return kind.model_validate_json(found.content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "body"
            return Fault(
                self.said(f"the server's answer is not what was asked for ({where}: {first['msg']})"),
                may_cost=True,
            )

    async def call(self, make: Callable[[], Awaitable[Any]], patience: float = 1.0) -> Any:
        """The result of one call of the client, or a Fault. No exception of the client, which may hold
        headers, leaves here.
        """
        openai = self._openai
        try:
            # the client's own limit starts anew with every byte
            async with asyncio.timeout(patience * self.options.timeout):
                return await make()
        except (TimeoutError, openai.APITimeoutError):
            return Fault(f"no reply in {self.options.timeout:g} s", may_cost=True)
        except openai.APIStatusError as error:
            return self._status_fault(error)
        except openai.APIConnectionError as error:
            cause = self.said(str(error.__cause__ or error))
            return Fault(
                f"the connection failed ({type(error.__cause__ or error).__name__}: {cause})", may_cost=True
            )
        except (openai.OpenAIError, ValueError) as error:  # the client reads an answer's JSON and its letters
            return Fault(
                f"the client failed ({type(error).__name__}: {self.said(str(error))})", may_cost=True
            )

    def redact(self, text: str | None) -> str | None:
        """A server's text without the key, in either case, and without pieces of it that are long enough to
        tell something.
        """
        if not text or not self._key:
            return text
        if len(self._key) < PIECE:  # such as EMPTY, which is no secret and may be a word of a reply
            return text.replace(self._key, "[key]")
        return self._pieces.sub("[key]", text)

    def said(self, text: str) -> str:
        """What a server said in passing, as people may see it: one line without the key or control
        characters, cut.
        """
        return printable(" ".join(self.redact(text[:MAX_CHARACTERS]).split()))[:300]

    def _status_fault(self, error: Any) -> Fault:
        status, code = error.status_code, getattr(error, "code", None) or ""
        reason = f"HTTP {status}: {self.said(str(error.message))}"
        if status == 429 and code in OUT_OF_MONEY:
            return Fault(reason, again=False, everybody=True, status=status)
        if status in (408, 409, 425, 429) or status >= 500:
            wait = retry_after(error.response.headers, time.time())
            return Fault(reason, may_cost=status in WORK_MAY_BE_DONE, wait=wait, status=status)
        if status in (401, 403):  # what it says to that may spell the key
            return Fault(
                f"HTTP {status}: the server refuses {self._credentials()}",
                again=False,
                everybody=True,
                status=status,
            )
        return Fault(
            reason, again=False, everybody=code in NOBODYS or status not in ONE_REQUESTS, status=status
        )

    def _credentials(self) -> str:
        name = self.options.key_variable
        if self._key:
            return f"the key of the variable {name}"
        if _is_named(self.options):
            return f"a call without a key ({f'the variable {name} is empty' if name else 'key_variable names none'})"
        return f"a call without a key; to send it the key of {name}, add --set key_variable={name}"


def _cut(text: str | None) -> str | None:
    """A text that is too long to be accepted, cut to what shows that it was: the ledger keeps every reply for
    ever.
    """
    if text is None or len(text) <= MAX_CHARACTERS or len(text := text.strip()) <= MAX_CHARACTERS:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text[:MAX_CHARACTERS]} [cut: {len(text):,} characters, sha256 {digest}]"


def retry_after(headers: Any, now: float) -> float | None:
    """Seconds that a server asks to wait: Retry-After in seconds or as a date, or retry-after-ms. None where
    it says nothing.
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


def _is_openai(options: LLMSettings) -> bool:
    return options.base_url.rstrip("/") == OPENAI


def _is_named(options: LLMSettings) -> bool:
    """Whether the key's variable is meant for this server: it is OpenAI, or the variable was set by whoever
    runs this.
    """
    return _is_openai(options) or "key_variable" in options.model_fields_set


def _key(options: LLMSettings) -> str:
    """The key, or "" where the server needs none. Raises UsageError without ever naming the value."""
    address = urlsplit(options.base_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise UsageError("--base-url: expected an address such as http://127.0.0.1:8000/v1")
    if address.username or address.password or address.query:
        raise UsageError(
            "--base-url: holds a name, a password or a query; a key belongs in an environment variable"
        )
    named = options.key_variable and _is_named(options)  # OpenAI's key goes nowhere else unasked
    key = os.environ.get(options.key_variable, "").strip() if named else ""
    if not key:
        if _is_openai(options):
            raise UsageError(
                f"the environment variable {options.key_variable or '(none is named)'} holds no key; set it, name another one "
                "with --set key_variable=NAME, or give --base-url of a local server"
            )
        return ""
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError(f"the environment variable {options.key_variable} holds characters that no key has")
    if address.scheme == "http" and address.hostname not in LOOPBACK:
        raise UsageError(
            f"--base-url: would send the key of {options.key_variable} unencrypted to {address.hostname}; use https, or "
            "--set 'key_variable=\"\"' to send none"
        )
    return key
