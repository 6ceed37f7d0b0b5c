"""The settings of questions written by a language model: what shapes an answer, and how it is asked for."""

import re
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from mambavl.configs import Config
from mambavl.extract.questions.llm.requests import Reply, Request

OPENAI = "https://api.openai.com/v1"


class Prices(Config):
    """Money per million tokens, in the currency of the budget. Batches often have prices of their own."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


class LLMSettings(Config):
    """Knobs of `mambavl questions generate --backend llm|local`. Those of the first block shape answers and
    are in the keys.
    """

    model_config = ConfigDict(hide_input_in_errors=True)  # a key may have been given where its name belongs

    model: str = Field(min_length=1)  # a server's name for it; for --backend local a folder
    # of the first attempt; "server" sends none
    temperature: Annotated[float, Field(ge=0, le=2)] | Literal["server"] = 0.7
    seed: int = Field(default=0, ge=0, lt=2**31)
    max_tokens: int = Field(default=400, ge=16, le=32_768)  # of a reply
    # what the server can be held to
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    # of the clip, attached to the first stage; then every row is asked for itself
    frames: int = Field(default=0, ge=0, le=64)
    frame_side: int = Field(default=336, ge=16, le=2048)  # pixels of a frame's longer side

    attempts: int = Field(default=3, ge=1, le=100)  # replies paid for before a request is given up
    mode: Literal["live", "batch"] = "live"
    base_url: str = OPENAI
    # the environment variable with the key; unset, it goes to OpenAI alone; "" sends none
    key_variable: str = "OPENAI_API_KEY"
    # older servers know the second
    token_limit_name: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    concurrency: int = Field(default=8, ge=1, le=1024)
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    timeout: float = Field(default=60.0, gt=0)  # seconds that a call may take
    retries: int = Field(default=6, ge=0, le=100)  # further calls when one brings no reply
    # seconds before the first of them, doubled each time, with jitter
    backoff: float = Field(default=1.0, ge=0)
    max_wait: float = Field(default=120.0, ge=0)  # seconds; a longer Retry-After is cut to it
    # requests in a row without a reply, or the first ones refused: then no more
    give_up_after: int = Field(default=8, ge=1)
    image_tokens: int = Field(default=3_000, ge=0)  # no fewer than the server counts for a frame
    prices: Prices | None = None
    budget: float | None = Field(default=None, ge=0)  # money, over all runs with the same cache
    batch_requests: int = Field(default=20_000, ge=1, le=50_000)  # in one batch
    batch_poll: float = Field(default=30.0, gt=0)  # seconds between two looks at it
    # submit again what is in a batch that nobody can find or collect, though it may have been paid
    resubmit: bool = False
    device: str = "auto"  # of --backend local

    @model_validator(mode="after")
    def _key_named(self) -> "LLMSettings":
        """A rule of the whole, so that no message shows the value, which may be the key itself."""
        if not re.fullmatch(r"(?:[A-Z_][A-Z0-9_]*)?", self.key_variable):
            raise ValueError(
                "key_variable: expected the NAME of an environment variable (capitals, digits, _), never a key"
            )
        return self

    @model_validator(mode="after")
    def _priced(self) -> "LLMSettings":
        if self.budget is not None and self.prices is None:
            raise ValueError(
                "a budget needs prices: --set prices.input=... --set prices.output=... (per million tokens)"
            )
        return self

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Money."""
        if self.prices is None:
            return 0.0
        return (tokens_in * self.prices.input + tokens_out * self.prices.output) / 1e6

    def bound(self, request: Request) -> float:
        """The most that a call can cost, in money."""
        return self.cost(request.token_bound(self.image_tokens), self.max_tokens)

    def reply_cost(self, request: Request, reply: Reply) -> float:
        """By the server's own count of tokens; the bound where it gives none."""
        if reply.tokens_in is None or reply.tokens_out is None:
            return self.bound(request)
        return self.cost(reply.tokens_in, reply.tokens_out)

    def attempt_temperature(self, attempt: int) -> float | None:
        """Later attempts are bolder: the same request at temperature 0 would bring the same reply."""
        if self.temperature == "server":
            return None
        return max(self.temperature, min(1.0, self.temperature + 0.3 * attempt))
