"""A real language model end to end: in this process, and behind `transformers serve`. Tiny, trained here on
the very replies.
"""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.toyclasses import annotations, segment
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.questions.llm.generate import generate_with_llm
from mambavl.extract.questions.llm.ledger import Ledger
from mambavl.extract.questions.llm.local import LocalModel
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.extract.questions.llm.writer import Group, Writer

ROWS = [
    segment("cut potato", "cut", "potato", name="P01_01_0"),
    segment("take plate", "take", "plate", name="P01_01_1"),
]
UNKNOWN = segment("peel the potato over a plate", "peel", "potato", name="P01_01_2")  # never trained on
REPLIES = [
    (
        "The cook holds a knife and cuts the potato.",
        "What does the cook do to the <mask>?",
        "Which object lies under the knife?",
    ),
    (
        "The cook takes a plate off the shelf.",
        "Which action ends with a full arm?",
        "Which object comes off the shelf?",
    ),
]
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def conversations() -> list[list[dict]]:
    """Both stages of both rows as the requests say them, with the replies to be learnt."""
    writer = Writer(annotations(), ROWS, LLMSettings(model="m"), model="m", backend="b")
    found = []
    for row, (description, verb, noun) in zip(ROWS, REPLIES, strict=True):
        group = Group(row, (0,))
        for request, reply in (
            (writer.description_request(group), {"description": description}),
            (writer.question_request(group, description), {"verb_question": verb, "noun_question": noun}),
        ):
            found.append([*request.messages(), {"role": "assistant", "content": json.dumps(reply)}])
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A Llama of some 200,000 parameters that has learnt four replies by heart."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    talks = conversations()
    special = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([m["content"] for talk in talks for m in talk], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>", chat_template=CHAT
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
        eos_token_id=0, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    batches = []
    for talk in talks:
        prompt = fast.apply_chat_template(
            talk[:-1], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )["input_ids"]
        reply = fast(talk[-1]["content"] + "<|end|>", return_tensors="pt", add_special_tokens=False)[
            "input_ids"
        ]
        batches.append((torch.cat([prompt, reply], dim=1), prompt.shape[1]))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    steps, worst = 0, float("inf")
    while worst > 0.01 and steps < 400:
        steps, worst = steps + 1, 0.0
        optimiser.zero_grad()
        for ids, start in batches:
            labels = ids.clone()
            labels[:, :start] = -100
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            worst = max(worst, loss.item())
        optimiser.step()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {steps} steps, loss {worst:.4f}")
    assert worst < 0.05
    path = tmp_path_factory.mktemp("model") / "tiny"
    model.save_pretrained(path)
    fast.save_pretrained(path)
    return path


def options(folder: Path, **more) -> LLMSettings:
    return LLMSettings(model=str(folder), device="cpu", **({"temperature": 0.0, "max_tokens": 64} | more))


def check(found) -> None:
    """Both rows have the questions that were learnt; the other has some or is named with a reason."""
    questions = {question.narration_id: question for question in found.written.questions}
    assert (
        {"P01_01_0", "P01_01_1"}
        <= set(questions) | set(found.written.failures)
        <= {row.narration_id for row in (*ROWS, UNKNOWN)}
    )
    assert questions["P01_01_0"].verb_question == REPLIES[0][1]
    assert questions["P01_01_1"].noun_question == REPLIES[1][2]
    assert set(found.written.failures) <= {UNKNOWN.narration_id}


def test_a_model_in_this_process_writes_questions_and_what_it_gets_wrong_is_a_named_failure(folder, tmp_path):
    found = generate_with_llm(annotations(), ROWS, options(folder), tmp_path / "cache", backend="local")
    check(found)
    assert not found.written.failures
    backend = found.written.questions[0].backend
    assert backend.startswith("local:tiny@")
    assert len(backend) == len("local:tiny@") + 12
    assert (
        found.tally.calls,
        generate_with_llm(
            annotations(), ROWS, options(folder), tmp_path / "cache", backend="local"
        ).tally.calls,
    ) == (
        4,
        0,
    )
    cut = generate_with_llm(
        annotations(), ROWS, options(folder, max_tokens=16), tmp_path / "cache", backend="local"
    )
    assert all(
        "3 replies rejected, the last one as truncated" in reason for reason in cut.written.failures.values()
    )
    assert len(cut.written.failures) == 2


def test_the_same_seed_draws_the_same_reply_and_the_caller_s_own_draws_go_on_undisturbed(folder):
    writer = Writer(annotations(), [UNKNOWN], options(folder), model="m", backend="b")
    request = writer.description_request(writer.groups[0])

    def draw(seed: int, attempt: int):
        return asyncio.run(LocalModel(options(folder, seed=seed, temperature=2.0)).complete(request, attempt))

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = draw(0, 2)
    assert torch.equal(torch.rand(3), expected)
    assert draw(0, 2) == first
    assert first.finish_reason in ("stop", "length")
    assert first.tokens_out <= 64
    assert len({draw(seed, 2).text for seed in range(4)}) > 1


def test_other_weights_under_the_same_folder_name_are_another_model(folder, tmp_path):
    other = tmp_path / "tiny"
    shutil.copytree(folder, other)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] += 1e-3
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    one, two = LocalModel(options(folder)), LocalModel(options(other))
    assert one.model.split("@")[0] == two.model.split("@")[0] == "tiny"
    assert one.model != two.model


def test_folders_that_are_no_chat_model_are_refused(folder, tmp_path):
    with pytest.raises(UsageError, match=r"holds no \*\.safetensors"):
        LocalModel(options(tmp_path))
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(UsageError, match="has no chat template"):
        LocalModel(options(bare))
    (bare / "config.json").write_text("{}")
    with pytest.raises(DataError, match="is not a model that transformers can read"):
        LocalModel(options(bare))
    with pytest.raises(UsageError, match="reads text only"):
        LocalModel(options(folder, frames=2))
    with pytest.raises(UsageError, match="has no batches"):
        generate_with_llm(
            annotations(), ROWS, options(folder, mode="batch"), tmp_path / "cache", backend="local"
        )


@contextlib.contextmanager
def serving(folder: Path, log: Path):
    """`transformers serve` on loopback, without a hub; its address once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    command = [str(program)] if program.exists() else [sys.executable, "-m", "transformers.cli.transformers"]
    command += ["serve", str(folder), "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(log.parent), "OMP_NUM_THREADS": "1"}
    with (
        log.open("wb") as file,
        subprocess.Popen(command, stdout=file, stderr=file, env=environment) as process,
    ):
        try:
            for _ in range(480):
                if process.poll() is not None:
                    raise AssertionError(
                        f"transformers serve ended with {process.returncode}: {log.read_text()[-2000:]}"
                    )
                with (
                    contextlib.suppress(OSError),
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer,
                ):
                    if answer.status == 200:
                        break
                time.sleep(0.25)
            else:
                raise AssertionError(f"transformers serve did not come up: {log.read_text()[-2000:]}")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def test_questions_come_from_transformers_serve(folder, tmp_path):
    """No scripted server: a real one, a real model, real HTTP. It refuses response_format, hence structured =
    none.
    """
    pytest.importorskip("openai", reason="needs the `llm` extra: pip install -e '.[llm]'")
    for module in ("fastapi", "uvicorn", "starlette"):
        pytest.importorskip(module, reason="needs `transformers serve`: pip install 'transformers[serving]'")
    with serving(folder, tmp_path / "serve.log") as url:
        knobs = options(folder, base_url=url, structured="none", key_variable="", concurrency=2, attempts=2)
        found = generate_with_llm(annotations(), [*ROWS, UNKNOWN], knobs, tmp_path / "cache")
        check(found)
        assert found.tally.tokens_out > 0
        assert all(
            reply.tokens_in for replies in Ledger(tmp_path / "cache").replies.values() for reply in replies
        )
    again = generate_with_llm(annotations(), ROWS, knobs, tmp_path / "cache")  # the server is gone
    assert again.tally.calls == 0
    check(again)
