"""Dropout by row: a known generator, its twin in numpy, chance on fixed seeds, what a mask depends on."""

import numpy as np
import pytest
import torch

from helpers import plain
from mambavl.fuse.dropout import dropout, dropout_of_heads, keys_at, keys_of_tokens, row_keys

ROWS = np.arange(200)


def mask(keys, channels=512, p=0.5):
    """(B, channels) float64: 1 where a channel stays."""
    return (dropout(torch.ones(len(keys), channels), p, keys) > 0).double()


def test_words_are_those_of_splitmix64():
    """The first five outputs for the seed 1234567, as published with the generator's other ports."""
    known = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    bits = np.array(known, np.uint64).view(np.int16)
    stays = dropout(torch.ones(1, 20), 0.3, torch.tensor([1234567]))[0] > 0
    assert stays.tolist() == (bits < round(0.7 * 65536) - 32768).tolist()


@pytest.mark.parametrize("channels", [8, 7, 6, 1])
@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.95])
def test_the_mask_is_that_of_numpy(channels, p):
    rows, lengths = np.array([0, 31, 62, 2**33]), {"video": 3, "verb_question": 0, "noun_question": 2}
    keys, twins = row_keys(7, 2, rows), plain.keys_of_rows(7, 2, rows)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, channels, generator=generator)
    twin = plain.drop(x, p, plain.keys_of_place(twins, "noun"))
    torch.testing.assert_close(dropout(x, p, keys_at(keys, "noun")), twin, rtol=1e-6, atol=0)
    x = torch.randn(4, 5, channels, generator=generator)
    twin = plain.drop(
        x, p, np.concatenate([plain.keys_of_tokens(twins, name, n) for name, n in lengths.items()], 1)
    )
    torch.testing.assert_close(dropout(x, p, keys_of_tokens(keys, lengths)), twin, rtol=1e-6, atol=0)


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_keys_are_those_of_numpy(seed):
    rows = np.array([0, 5, 2**40])
    keys, twins = row_keys(seed, 3, rows), plain.keys_of_rows(seed, 3, rows)
    assert (keys.numpy().view(np.uint64) == twins).all()
    assert (keys_at(keys, "verb").numpy().view(np.uint64) == plain.keys_of_place(twins, "verb")).all()


@pytest.mark.parametrize("p", [0.01, 0.1, 0.3, 0.5, 0.9])
def test_channels_stay_as_often_as_asked_and_the_expectation_stays(p):
    """102,400 draws: the share is within 4 standard deviations, over all, and in every quarter of a word."""
    x = dropout(torch.ones(200, 512, dtype=torch.float64), p, row_keys(0, 0, ROWS))
    deviation = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(float((x > 0).double().mean()) - (1 - p)) < 4 * deviation
    for quarter in range(4):
        assert abs(float((x[:, quarter::4] > 0).double().mean()) - (1 - p)) < 8 * deviation
    assert x.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-4)
    assert float(x.mean()) == pytest.approx(1, abs=4 * deviation / (1 - p))


def test_all_levels_are_as_likely():
    """Chi-square over 64 classes of equal probability, read off 63 masks of the same keys: 63 degrees of
    freedom, below 112 with probability 0.9998.
    """
    keys = row_keys(0, 0, ROWS)
    dropped = [int((1 - mask(keys, p=i / 64)).sum()) for i in range(1, 64)]
    total = len(keys) * 512
    counts = np.diff([0, *dropped, total])
    assert (counts > 0).all()
    assert ((counts - total / 64) ** 2 / (total / 64)).sum() < 112


def correlations(masks):
    """(M, n) -> those of all pairs, times sqrt(n): standard normal where the masks are independent."""
    return torch.corrcoef(masks)[*torch.triu_indices(len(masks), len(masks), 1)] * masks.shape[1] ** 0.5


KINDS = {
    "rows": lambda: mask(row_keys(1, 0, ROWS)),
    "rows far apart": lambda: mask(row_keys(0, 0, ROWS * 2**32)),
    "epochs": lambda: torch.cat([mask(row_keys(0, epoch, ROWS[:1])) for epoch in range(200)]),
    "seeds": lambda: torch.cat([mask(row_keys(seed, 0, ROWS[:1])) for seed in range(200)]),
    "places": lambda: torch.cat([mask(keys_at(row_keys(0, 0, ROWS[:1]), f"place {i}")) for i in range(200)]),
    "channels": lambda: mask(row_keys(0, 0, np.arange(512)), 200).T.contiguous(),
    "tokens": lambda: mask(keys_of_tokens(row_keys(0, 0, ROWS[:1]), {"video": 200})[0]),
    "streams": lambda: mask(
        keys_of_tokens(row_keys(0, 0, ROWS[:1]), {f"stream{i}": 1 for i in range(200)})[0]
    ),
    "row and epoch": lambda: torch.cat([mask(row_keys(0, 200 - i, ROWS[i : i + 1])) for i in range(200)]),
    "seed and row": lambda: torch.cat([mask(row_keys(200 - i, 0, ROWS[i : i + 1])) for i in range(200)]),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_masks_that_differ_in_one_thing_are_independent(kind):
    """Of 19,900 correlations the largest is below 5.5 deviations (its chance to be above: 1 in 1,300), and
    their mean square is 1 within 4 deviations of its own.
    """
    found = correlations(KINDS[kind]())
    assert float(found.abs().max()) < 5.5
    assert float(found.square().mean()) == pytest.approx(1, abs=4 * (2 / len(found)) ** 0.5)


def test_a_mask_is_of_its_row_and_token_whatever_the_batch_and_its_padding():
    keys = row_keys(3, 1, ROWS[:8])
    x = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    whole = dropout(x, 0.4, keys)
    assert torch.equal(dropout(x[5:], 0.4, row_keys(3, 1, ROWS[5:8])), whole[5:])
    assert torch.equal(dropout(x[::3], 0.4, row_keys(3, 1, ROWS[:8:3])), whole[::3])
    of_tokens = keys_of_tokens(keys, {"verb_question": 3, "noun_question": 4})
    padded = keys_of_tokens(keys, {"verb_question": 5, "noun_question": 6})
    assert torch.equal(torch.cat([padded[:, :3], padded[:, 5:9]], 1), of_tokens)


def test_a_gradient_goes_through_what_stays_and_is_scaled_as_it_is():
    x = torch.randn(8, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    keys = row_keys(0, 0, ROWS[:8])
    out = dropout(x, 0.25, keys)
    out.backward(torch.ones_like(out))
    assert torch.equal(x.grad, dropout(torch.ones_like(x), 0.25, keys))
    assert torch.autograd.gradcheck(lambda x: dropout(x, 0.25, keys), x)


def test_without_keys_or_probability_nothing_is_dropped():
    x, keys = torch.randn(3, 4), row_keys(0, 0, ROWS[:3])
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, keys) is x
    assert keys_at(None, "verb") is None


@pytest.mark.parametrize("p", [1e-6, 1 - 1e-6])
def test_a_probability_next_to_0_or_1_keeps_the_expectation(p):
    """Taken to the nearest of 65,536 levels, but never to 1."""
    x = dropout(torch.ones(4096, 64), p, row_keys(0, 0, np.arange(4096)))
    assert float(x.max()) == (1 if p < 0.5 else 65536)
    assert torch.isfinite(x).all()


def test_the_type_and_the_input_stay():
    x, keys = torch.ones(3, 4, dtype=torch.bfloat16), row_keys(0, 0, ROWS[:3])
    before = keys.clone()
    out = dropout(x, 0.25, keys)
    assert out.dtype == torch.bfloat16
    assert set(out.unique().tolist()) == {0.0, float(torch.tensor(4 / 3, dtype=torch.bfloat16))}
    assert torch.equal(x, torch.ones_like(x))
    assert torch.equal(keys, before)


def test_no_generator_is_asked():
    state = torch.random.get_rng_state()
    dropout(torch.ones(3, 4), 0.5, keys_at(row_keys(0, 0, ROWS[:3]), "verb"))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.cuda
def test_a_gpu_drops_the_same():
    x, keys = torch.randn(16, 9, 30), row_keys(5, 2, ROWS[:16])
    on_cpu, on_gpu = (keys_at(keys_of_tokens(k, {"video": 9}), "verb") for k in (keys, keys.cuda()))
    torch.testing.assert_close(
        dropout(x.cuda(), 0.3, on_gpu).cpu(), dropout(x, 0.3, on_cpu), rtol=1e-6, atol=0
    )


def test_heads_side_by_side_drop_as_each_does_alone():
    """At no, little and much probability; where none drops, nothing is done at all."""
    keys = keys_at(row_keys(0, 0, ROWS), "verb")
    x = torch.randn(200, 4, 511, generator=torch.Generator().manual_seed(0))
    chances = [0.0, 0.1, 0.5, 0.9999999]
    found = dropout_of_heads(x, chances, keys)
    for number, p in enumerate(chances):
        assert torch.equal(found[:, number], dropout(x[:, number], p, keys))
    own = torch.stack([keys_at(row_keys(seed, 0, ROWS), "verb") for seed in range(4)], 1)
    found = dropout_of_heads(x, chances, own)
    for number, p in enumerate(chances):
        assert torch.equal(found[:, number], dropout(x[:, number], p, own[:, number]))
    assert not torch.equal(found[:, 2] == 0, dropout_of_heads(x, chances, own[:, :1])[:, 2] == 0)
    assert dropout_of_heads(x, [0.0] * 4, keys) is x
    assert dropout_of_heads(x, chances, None) is x
