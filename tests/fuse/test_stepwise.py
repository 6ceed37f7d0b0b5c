"""Heads fed step by step give what they give for the whole, at a cost that does not grow with the past."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

from mambavl.configs.errors import UsageError
from mambavl.fuse.baselines import MLPConfig, MLPFusion, TransformerConfig, TransformerFusion
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import ABSENT, StreamShape
from mambavl.fuse.stepwise import RunningMeans, SSMState

WIDTHS = {"video": 12, "verb_question": 6, "noun_question": 6, "audio": 5}
SMALL = {"d_model": 8, "targets": {"verb": 5, "noun": 7}, "dropout": 0.3}
QUESTIONS = ("verb_question", "noun_question")


def ssm(**settings):
    return lambda streams: SSMFusion(FusionConfig(**SMALL, d_state=3, streams=streams, **settings))


def transformer(tokens):
    settings = {**SMALL, "depth": 2, "num_heads": 2, "max_positions": 32, "tokens": tokens}
    return lambda streams: TransformerFusion(TransformerConfig(**settings, streams=streams))


HEADS = {
    "mambavl": ssm(),
    "reference": ssm(scan="reference"),
    "chunked": ssm(scan="chunked"),
    "plain": ssm(preset="paper"),
    "all shared": ssm(share="all"),
    "nothing shared": ssm(share="none", question_routing="both"),
    "one tap": ssm(d_conv=1),
    "many taps": ssm(d_conv=9),
    "padded text": ssm(pad_text_to=9),
    "mlp": lambda streams: MLPFusion(MLPConfig(**SMALL, streams=streams)),
    "transformer on means": transformer("pooled"),
}


def build(kind):
    torch.manual_seed(0)
    return HEADS[kind]({name: StreamShape(width=width) for name, width in WIDTHS.items()}).eval()


def make_steps(count, batch=4, seed=0):
    """Steps of a video with 0 to 5 new tokens a row, sound that one row never has and others now and then
    have not; questions in the first step alone. Padding holds NaN.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = []
    for number in range(count):
        step = {}
        for name, width in WIDTHS.items():
            longest = int(torch.randint(0, 6, (), generator=generator))
            lengths = torch.randint(0, longest + 1, (batch,), generator=generator)
            if name in QUESTIONS:
                longest = 0 if number else 6
                lengths = torch.tensor([6, 2, 0, ABSENT][:batch]).clamp(max=longest)
            if name == "audio":
                lengths[torch.randint(0, batch, (), generator=generator)] = ABSENT
                lengths[1] = ABSENT
            tokens = torch.randn(batch, longest, width, generator=generator) + 0.5
            padding = torch.arange(longest) >= lengths[:, None]
            step[name] = tokens.masked_fill(padding[..., None], torch.nan), lengths
        steps.append(step)
    return steps


def whole(steps):
    """The tokens of all steps, one after another in each row."""
    found = {}
    for name, width in WIDTHS.items():
        batch = len(steps[0][name][1])
        rows = []
        for row in range(batch):
            parts = [tokens[row, : max(int(lengths[row]), 0)] for tokens, lengths in (s[name] for s in steps)]
            rows.append(torch.cat(parts))
        never = [all(int(step[name][1][row]) < 0 for step in steps) for row in range(batch)]
        lengths = torch.tensor([ABSENT if no else len(row) for row, no in zip(rows, never, strict=True)])
        tokens = torch.zeros(batch, max(len(row) for row in rows), width)
        for row, own in enumerate(rows):
            tokens[row, : len(own)] = own
        found[name] = tokens, lengths
    return found


@pytest.mark.parametrize("kind", HEADS)
def test_step_by_step_is_the_whole(kind):
    head, steps, state = build(kind), make_steps(12), None
    with torch.no_grad():
        for number, step in enumerate(steps):
            found, state = head.step(step, state)
            expected = head(whole(steps[: number + 1]))
            for target, logits in expected.items():
                assert logits.isfinite().all()
                torch.testing.assert_close(found[target], logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["mambavl", "plain", "mlp", "transformer on means"])
def test_a_thousand_steps_of_one_token_are_the_whole(kind):
    head, state = build(kind), None
    generator = torch.Generator().manual_seed(3)
    streams = {}
    for name, width in WIDTHS.items():
        streams[name] = torch.randn(1, 1000, width, generator=generator), torch.tensor([1000])
    with torch.no_grad():
        for at in range(1000):
            step = {n: (tokens[:, at : at + 1], torch.tensor([1])) for n, (tokens, _) in streams.items()}
            found, state = head.step(step, state)
        for target, logits in head(streams).items():
            torch.testing.assert_close(found[target], logits, atol=1e-5, rtol=1e-5)


class Numbers(TorchDispatchMode):
    """How many numbers all operators took and gave."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        leaves = tree_flatten((args, kwargs, out))[0]
        self.count += sum(leaf.numel() for leaf in leaves if isinstance(leaf, torch.Tensor))
        return out


def size_of(state):
    """How many numbers a state holds."""
    parts = state.values() if isinstance(state, dict) else [state]
    leaves = []
    for part in parts:
        for value in vars(part).values():
            leaves += value.values() if isinstance(value, dict) else [value]
    return sum(leaf.numel() for leaf in leaves)


@pytest.mark.parametrize("kind", HEADS)
def test_the_cost_of_a_step_does_not_depend_on_the_past(kind):
    """Operations, numbers that are read and written, and numbers that are kept; while those of the whole
    grow.
    """
    head, state, costs = build(kind), None, []
    video = torch.randn(1, 4, WIDTHS["video"]), torch.tensor([4])
    text = {name: (torch.randn(1, 6, WIDTHS[name]), torch.tensor([6])) for name in QUESTIONS}
    nothing = {name: (tokens[:, :0], lengths * 0) for name, (tokens, lengths) in text.items()}
    audio = torch.randn(1, 2, WIDTHS["audio"]), torch.tensor([2])
    for number in range(40):
        step = {"video": video, **(nothing if number else text), "audio": audio}
        with torch.no_grad(), FlopCounterMode(display=False) as flops, Numbers() as numbers:
            _, state = head.step(step, state)
        costs.append((flops.get_total_flops(), numbers.count, size_of(state)))
    assert len(set(costs[1:])) == 1, costs
    assert min(costs[1]) > 0
    grown = []
    for length in (4, 160):
        streams = {"video": (torch.randn(1, length, 12), torch.tensor([length])), **text, "audio": audio}
        with torch.no_grad(), Numbers() as numbers:
            head(streams)
        grown.append(numbers.count)
    assert grown[1] > grown[0] + 150 * 12  # the counter sees what grows


def test_a_transformer_over_all_tokens_says_that_it_cannot():
    torch.manual_seed(0)
    head = transformer("all")({"video": StreamShape(width=12)}).eval()
    with pytest.raises(UsageError, match=r"cannot be fed step by step: every token attends .*pooled"):
        head.step({"video": (torch.randn(1, 2, 12), torch.tensor([2]))})


def test_training_and_other_streams_are_refused():
    head, [step] = build("mambavl"), make_steps(1)
    with pytest.raises(RuntimeError, match="in evaluation only"):
        head.train().step(step)
    with pytest.raises(ValueError, match="was built for the streams"):
        head.eval().step({"video": step["video"]})


def test_questions_that_are_padded_come_whole():
    head, [first] = build("padded text"), make_steps(1)
    _, state = head.step(first)
    with pytest.raises(ValueError, match=r"pad_text_to = 9 tokens, so all of them are given in the first"):
        head.step({**first, "verb_question": (torch.randn(4, 1, 6), torch.ones(4, dtype=torch.int64))}, state)


def test_a_backend_that_takes_no_state_says_so(monkeypatch):
    """mamba-ssm's kernel begins at zero: another backend is never put in its place."""
    from mambavl.fuse.scan import mamba

    head, steps = build("mambavl"), make_steps(2)
    monkeypatch.setattr(mamba, "unavailable", lambda: None)
    monkeypatch.setattr(mamba, "refuses", lambda device, dtype: None)
    head.config = head.config.model_copy(update={"scan": "mamba"})
    with pytest.raises(UsageError, match='"mamba" knows no initial_state'):
        head.step(steps[0])


def test_sums_of_a_million_steps_lose_nothing():
    """In float32 a sum of 2**24 ones takes no further one."""
    many = torch.full((1, 1), 2.0**24, dtype=torch.float64)
    means = RunningMeans({"v": many}, {"v": torch.tensor([2**24])})
    after = RunningMeans.of({"v": (torch.ones(1, 1, 1), torch.tensor([1]))}, means)
    assert after.sums["v"].item() == 2**24 + 1
    state = SSMState.empty(torch.zeros(1, 1), 1, 1, 0)
    state = state.after(torch.full((1, 1, 1), 2.0**24), state.taps, state.h, torch.tensor([1]))
    state = state.after(torch.ones(1, 1, 1), state.taps, state.h, torch.tensor([1]))
    assert state.total.item() == 2**24 + 1
    assert state.mean(torch.float64).item() == 2**23 + 0.5


def test_a_row_that_never_had_a_stream_differs_from_one_that_had_nothing_yet():
    absent = torch.zeros(1, 0, 2), torch.tensor([ABSENT])
    once = RunningMeans.of({"v": absent}, None)
    assert once.lengths["v"].tolist() == [ABSENT]
    later = RunningMeans.of({"v": (torch.ones(1, 3, 2), torch.tensor([3]))}, once)
    assert later.lengths["v"].tolist() == [3]
    assert RunningMeans.of({"v": absent}, later).lengths["v"].tolist() == [3]
    tokens, lengths = later.as_streams(torch.float32)["v"]
    assert (tokens.tolist(), lengths.tolist()) == ([[[1.0, 1.0]]], [1])
