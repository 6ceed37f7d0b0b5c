"""The settings of questions written by a language model: what shapes an answer, and how it is fetched."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, model_validator

from mambavl.configs import Config
from mambavl.extract.questions.llm.requests import Reply, Request

OPENAI = "https://api.openai.com/v1"
VARIABLE = re.compile(r"(?:[A-Z_][A-Z0-9_]*)?")  # the name of an environment variable, or nothing


class Prices(Config):
    """What tokens cost, in the currency of the budget. Batches often have prices of their own."""

    input: float = Field(ge=0)  # money per million tokens that are sent
    output: float = Field(ge=0)  # money per million tokens of replies


class LLMSettings(Config):
    """How `mambavl questions generate --backend llm|local` uses a model."""

    # no message shows a value: a key may have been given where the name of its variable belongs
    model_config = ConfigDict(hide_input_in_errors=True)

    # --- what shapes an answer, and is part of a request's key in the cache

    # the server's name of the model; for --backend local a folder with a transformers model
    model: str = Field(min_length=1)
    # sampling temperature of the first attempt, later ones are higher; "server" leaves it to the server
    temperature: Annotated[float, Field(ge=0, le=2)] | Literal["server"] = 0.7
    seed: int = Field(default=0, ge=0, lt=2**31)  # of the first attempt; each later attempt adds 1
    max_tokens: int = Field(default=400, ge=16, le=32_768)  # the longest reply, in tokens
    # the response format that the server is held to
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    # frames of the clip that are attached to the first stage; above 0 each row has a request of its own
    frames: int = Field(default=0, ge=0, le=64)
    frame_side: int = Field(default=336, ge=16, le=2048)  # the longer side of an attached frame, in pixels

    # --- how it is fetched

    # replies to pay for before a request is given up, where the replies break the rules
    attempts: int = Field(default=3, ge=1, le=100)
    # live: one call for each request; batch: files of requests, which many providers sell at half the price
    mode: Literal["live", "batch"] = "live"
    base_url: str = OPENAI  # address of a server that speaks OpenAI's protocol
    # name of the environment variable that holds the key; without it OpenAI alone is sent a key; "" sends
    # none
    key_variable: str = "OPENAI_API_KEY"
    # the name of the limit on a reply's tokens: older servers know max_tokens
    token_limit_name: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    concurrency: int = Field(default=8, ge=1, le=1024)  # live: calls at the same time
    requests_per_minute: float | None = Field(default=None, gt=0)  # live: the server's limit; absent: none
    tokens_per_minute: float | None = Field(default=None, gt=0)  # live: the server's limit; absent: none
    timeout: float = Field(default=60.0, gt=0)  # seconds that a call may take
    retries: int = Field(default=6, ge=0, le=100)  # further calls when one brings no reply
    # seconds before the first further call; doubled each time, with jitter
    backoff: float = Field(default=1.0, ge=0)
    max_wait: float = Field(default=120.0, ge=0)  # longest wait in seconds; a longer Retry-After is cut to it
    # live: nothing more is sent after so many requests in a row without a reply, or so many refused at the
    # start
    give_up_after: int = Field(default=8, ge=1)
    # tokens that a frame is counted with in budgets and plans; no fewer than the server counts
    image_tokens: int = Field(default=3_000, ge=0)
    prices: Prices | None = None  # absent: costs are not counted
    # most money to spend, over all runs with the same cache; needs prices; absent: no limit
    budget: float | None = Field(default=None, ge=0)
    batch_requests: int = Field(default=20_000, ge=1, le=50_000)  # batch: requests in one batch, at most
    batch_poll: float = Field(default=30.0, gt=0)  # batch: seconds between two looks at a batch
    # batch: send again what is in a batch that can no longer be found or collected, though it may have been
    # paid
    resubmit: bool = False
    device: str = (
        "auto"  # --backend local: a torch device such as cpu or cuda; auto takes a GPU where there is one
    )

    @model_validator(mode="after")
    def _check_key_variable(self) -> "LLMSettings":
        """A rule of the whole record, so that no message shows the value, which may be the key itself."""
        if not VARIABLE.fullmatch(self.key_variable):
            raise ValueError(
                "key_variable: expected the NAME of an environment variable (capitals, digits, _), never a "
                "key"
            )
        return self

    @model_validator(mode="after")
    def _check_address(self) -> "LLMSettings":
        """A rule of the whole record, so that no message shows a password in the address."""
        address = urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("base_url: expected an address such as http://127.0.0.1:8000/v1")
        if address.username or address.password or address.query:
            raise ValueError(
                "base_url: holds a name, a password or a query; a key belongs in an environment variable"
            )
        return self

    @model_validator(mode="after")
    def _check_budget(self) -> "LLMSettings":
        if self.budget is not None and self.prices is None:
            raise ValueError(
                "a budget needs prices: --set prices.input=... --set prices.output=... (per million tokens)"
            )
        return self

    @property
    def is_openai(self) -> bool:
        """Whether the server is OpenAI's own."""
        return self.base_url.rstrip("/") == OPENAI

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Money for tokens that were sent and tokens that came back; 0 without prices."""
        if self.prices is None:
            return 0.0
        return (tokens_in * self.prices.input + tokens_out * self.prices.output) / 1e6

    def bound(self, request: Request) -> float:
        """The most that a call can cost, in money."""
        return self.cost(request.token_bound(self.image_tokens), self.max_tokens)

    def counted_cost(self, reply: Reply) -> float | None:
        """What a reply cost by the server's own count of tokens, in money; None where it gives none."""
        if reply.tokens_in is None or reply.tokens_out is None:
            return None
        return self.cost(reply.tokens_in, reply.tokens_out)

    def attempt_temperature(self, attempt: int) -> float | None:
        """Higher for later attempts, since the same request at temperature 0 would bring the same reply; None
        leaves it to the server.
        """
        if self.temperature == "server":
            return None
        return max(self.temperature, min(1.0, self.temperature + 0.3 * attempt))
