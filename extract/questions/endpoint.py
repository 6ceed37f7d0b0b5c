"""A server that speaks OpenAI's protocol: one call, one reply or one fault. Repeating is the caller's business.

The key comes from an environment variable and goes into the Authorization header. It is in no record of this package, and it is
cut out of whatever the server says before anybody sees that.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from mambavl.configs.errors import UsageError
from mambavl.extract.questions.exchange import Fault, Reply, Request
from mambavl.extract.questions.llm import OPENAI, Asking

NO_KEY = "none"  # the client wants a text
LOOPBACK = ("localhost", "127.0.0.1", "::1")
FILTERED = ("content_filter", "content_policy_violation")  # error codes that mean this one request
OUT_OF_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)


class Completion(BaseModel):
    """What is read of a chat completion; whatever else it holds is passed over."""

    choices: list[_Choice] = Field(min_length=1, max_length=1)
    usage: _Usage | None = None

    def reply(self, redact: Callable[[str | None], str | None]) -> Reply:
        choice, usage = self.choices[0], self.usage
        return Reply(
            text=redact(choice.message.content),
            finish_reason=redact(choice.finish_reason),
            refusal=redact(choice.message.refusal),
            tokens_in=usage.prompt_tokens if usage else None,
            tokens_out=usage.completion_tokens if usage else None,
        )


class Endpoint:
    """Use it as `async with`, within one event loop. Raises UsageError when it is made for an address or a key that cannot be."""

    def __init__(self, options: Asking) -> None:
        try:
            import openai
        except ImportError as error:
            raise UsageError(f"asking a server needs the package openai ({error}); pip install 'mambavl[llm]'") from None
        self._openai = openai
        self.options, self.model, self.backend = options, options.model, f"llm:{options.model}"
        self._key = _key(options)
        self.client = openai.AsyncOpenAI(
            api_key=self._key or NO_KEY, base_url=options.base_url, max_retries=0, timeout=options.timeout
        )

    async def __aenter__(self) -> "Endpoint":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.client.close()

    def body(self, request: Request, attempt: int) -> dict[str, Any]:
        """The JSON of a call. Raises VideoError when the request's frames cannot be had."""
        options = self.options
        body = {"model": options.model, "messages": request.messages(), options.token_limit_name: options.max_tokens}
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
        found = await self.call(lambda: self.client.chat.completions.with_raw_response.create(**body))
        return found if isinstance(found, Fault) else self.read(found.content)

    def read(self, data: bytes) -> Reply | Fault:
        """A completion's JSON as a reply."""
        try:
            return Completion.model_validate_json(data).reply(self.redact)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "body"
            return Fault(f"the server's answer is no chat completion ({where}: {first['msg']})", may_cost=True)

    async def call(self, make: Callable[[], Awaitable[Any]], patience: float = 1.0) -> Any:
        """The result of one call of the client, or a Fault. No exception of the client, which may hold headers, leaves here."""
        openai = self._openai
        try:
            async with asyncio.timeout(patience * self.options.timeout):  # the client's own limit starts anew with every byte
                return await make()
        except (TimeoutError, openai.APITimeoutError):
            return Fault(f"no reply in {self.options.timeout:g} s", may_cost=True)
        except openai.APIStatusError as error:
            return self._status_fault(error)
        except openai.APIConnectionError as error:
            cause = self.redact(str(error.__cause__ or error))[:200]
            return Fault(f"the connection failed ({type(error.__cause__ or error).__name__}: {cause})", may_cost=True)
        except openai.OpenAIError as error:
            return Fault(f"the client failed ({type(error).__name__}: {self.redact(str(error))[:200]})", may_cost=True)

    def redact(self, text: str | None) -> str | None:
        return text.replace(self._key, "[key]") if text and self._key else text

    def _status_fault(self, error: Any) -> Fault:
        status, code = error.status_code, getattr(error, "code", None) or ""
        said = " ".join(self.redact(str(error.message)).split())[:300]
        reason = f"HTTP {status}: {said}"
        if status == 429 and code in OUT_OF_MONEY:
            return Fault(reason, again=False, everybody=True)
        if status in (408, 409, 425, 429) or status >= 500:
            return Fault(reason, wait=retry_after(error.response.headers, time.time()))
        if status in (401, 403):
            name = self.options.key_variable or "none: key_variable is empty"
            return Fault(f"{reason} (the key is taken from the variable {name})", again=False, everybody=True)
        return Fault(reason, again=False, everybody=code not in FILTERED)


def retry_after(headers: Any, now: float) -> float | None:
    """Seconds that a server asks to wait: Retry-After in seconds or as a date, or retry-after-ms. None where it says nothing."""
    with suppress(KeyError, ValueError):
        if (seconds := float(headers["retry-after-ms"]) / 1000) >= 0:
            return seconds
    text = headers.get("retry-after", "")
    with suppress(ValueError):
        return seconds if (seconds := float(text)) >= 0 else None  # NaN compares false
    with suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    return None


def _key(options: Asking) -> str:
    """The key, or "" where the server needs none. Raises UsageError without ever naming the value."""
    address = urlsplit(options.base_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise UsageError("--base-url: expected an address such as http://127.0.0.1:8000/v1")
    if address.username or address.password or address.query:
        raise UsageError("--base-url: holds a name, a password or a query; a key belongs in an environment variable")
    key = os.environ.get(options.key_variable, "").strip() if options.key_variable else ""
    if not key:
        if options.base_url.rstrip("/") == OPENAI:
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
