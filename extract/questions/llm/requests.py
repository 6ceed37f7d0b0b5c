"""What is sent to a language model and what comes back: prompts, requests, replies, faults."""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any, Protocol

from pydantic import BaseModel

MESSAGE_TOKENS = 16  # more than any known chat template adds around a message


@dataclass(frozen=True)
class Prompt:
    """A system message. Its version is the name of its file; a changed text makes other requests even under
    the same version.
    """

    version: str
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def load_prompt(version: str) -> Prompt:
    """One of the prompt files that come with the package, such as `describe-1`."""
    file = resources.files("mambavl.extract.questions.llm").joinpath("prompts", f"{version}.txt")
    return Prompt(version, file.read_text(encoding="utf-8"))


@dataclass(frozen=True, eq=False)
class Request:
    """One thing to be answered. All that shapes the answer is in `key`; how often and where it was sent is
    not.
    """

    model: str
    prompt: Prompt
    inputs: Mapping[str, str]
    reply: type[BaseModel]  # what the reply's JSON must be
    parameters: Mapping[str, Any]
    # which frames of which clip, as the key knows them: nothing is decoded for it
    pictures: Mapping[str, Any] | None = None
    load_pictures: Callable[[], list[bytes]] | None = None  # the same as JPEG files

    @cached_property
    def key(self) -> str:
        """sha256 of the request in canonical JSON: under the same key nothing is paid for twice."""
        canonical = {
            "model": self.model,
            "prompt": [self.prompt.version, self.prompt.sha256],
            "inputs": dict(self.inputs),
            "schema": self.schema,
            "parameters": dict(self.parameters),
            "pictures": dict(self.pictures) if self.pictures else self.pictures,
        }
        text = json.dumps(
            canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def schema(self) -> dict[str, Any]:
        """The reply's JSON schema: an object of texts, all required, nothing else."""
        fields = list(self.reply.model_fields)
        return {
            "type": "object",
            "properties": {field: {"type": "string"} for field in fields},
            "required": fields,
            "additionalProperties": False,
        }

    @property
    def question(self) -> str:
        """The user's message: the inputs as JSON."""
        return json.dumps(dict(self.inputs), ensure_ascii=False)

    def messages(self) -> list[dict[str, Any]]:
        """In the form of a chat completion. Raises VideoError when the frames cannot be read."""
        content: Any = self.question
        if self.load_pictures is not None:
            content = [{"type": "text", "text": self.question}]
            for jpeg in self.load_pictures():
                url = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
                content.append({"type": "image_url", "image_url": {"url": url, "detail": "low"}})
        return [{"role": "system", "content": self.prompt.text}, {"role": "user", "content": content}]

    def token_bound(self, image_tokens: int) -> int:
        """No fewer tokens than the request can have: a token is at least one byte; a picture counts as
        `image_tokens`.
        """
        texts = (self.prompt.text, self.question, json.dumps(self.schema))
        pictures = self.pictures["frames"] if self.pictures else 0
        return sum(len(text.encode()) for text in texts) + 2 * MESSAGE_TOKENS + pictures * image_tokens


@dataclass(frozen=True)
class Reply:
    """What a model said, acceptable or not. Tokens are None where the server does not count them."""

    text: str | None
    finish_reason: str | None
    refusal: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None


@dataclass(frozen=True)
class Fault:
    """Why there is no reply. `may_cost`: the server may have done the work and charge for it."""

    reason: str
    may_cost: bool = False
    wait: float | None = None  # seconds that the server wants us to wait
    retryable: bool = True  # another call may bring a reply
    ends_run: bool = False  # no request of this run can succeed
    status: int | None = None  # of HTTP, where there was one


class Completer(Protocol):
    """Whatever answers: a server or a model in this process."""

    model: str  # its name in keys
    backend: str  # its name in question files

    async def complete(self, request: Request, attempt: int) -> Reply | Fault:
        """One call. A later attempt brings another answer (another seed, a higher temperature)."""
