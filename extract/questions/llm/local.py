"""A language model in this process: a folder of transformers files, one request at a time."""

import hashlib
from pathlib import Path
from typing import Any

from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.extract.questions.llm.requests import Fault, Reply, Request

LATER_TEMPERATURE = 0.7  # of later attempts, where the settings say 0 or "server"


class LocalModel:
    """A Completer over a folder with config, tokenizer, chat template and safetensors weights. No code in the
    folder is run.

    The first attempt is greedy where `temperature` is 0 or "server"; all others draw from a seed of their
    own. Its name in keys and files holds the weights' hash: two models in folders of one name never share an
    answer.

    Raises UsageError for a folder without weights or chat template and for settings that only a server can
    follow, DataError for files that transformers cannot read.
    """

    def __init__(self, options: LLMSettings) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = Path(options.model)
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise UsageError(
                f"{folder}: holds no *.safetensors; --backend local needs the folder of a transformers model"
            )
        if options.frames:
            raise UsageError(
                "--backend local reads text only; leave frames at 0, or use a server whose model reads images"
            )
        device = options.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        trusted: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, **trusted)
            model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **trusted)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder}: is not a model that transformers can read ({error})") from None
        if not self._tokenizer.chat_template:
            raise UsageError(f"{folder}: its tokenizer has no chat template; take an instruction-tuned model")
        model.to(device)  # type: ignore[arg-type]  # transformers wraps `to` and loses its signature
        self._model = model.eval()
        self._torch, self.options = torch, options
        self.model = f"{folder.resolve().name}@{_digest(weights)[:12]}"
        self.backend = f"local:{self.model}"

    async def __aenter__(self) -> "LocalModel":
        return self

    async def __aexit__(self, *exception: object) -> None:
        pass  # it goes with the process

    async def complete(self, request: Request, attempt: int) -> Reply | Fault:
        """As Completer says. Nothing else runs in the meantime: the process has one model, the model one
        request.
        """
        from transformers import BatchEncoding

        torch, options = self._torch, self.options
        encoded = self._tokenizer.apply_chat_template(
            request.messages(), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        assert isinstance(encoded, BatchEncoding)  # as return_dict asks
        inputs = encoded.to(self._model.device)
        temperature = options.attempt_temperature(attempt)
        if not temperature and attempt > 0:
            temperature = LATER_TEMPERATURE
        drawing: dict[str, Any] = {"do_sample": False, "temperature": None}
        if temperature:
            drawing = {"do_sample": True, "temperature": temperature}
        with torch.random.fork_rng(enabled=True), torch.inference_mode():
            torch.manual_seed(options.seed + attempt)
            out = self._model.generate(**inputs, max_new_tokens=options.max_tokens, **drawing)
        prompt_tokens = inputs["input_ids"].shape[1]
        written = out[0, prompt_tokens:]
        ends = self._model.generation_config.eos_token_id
        ends = [ends] if isinstance(ends, int) else ends or []
        text = self._tokenizer.decode(written, skip_special_tokens=True)
        assert isinstance(text, str)  # one sequence, one text
        return Reply(
            text=text,
            finish_reason="stop" if len(written) and int(written[-1]) in ends else "length",
            tokens_in=prompt_tokens,
            tokens_out=len(written),
        )


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
