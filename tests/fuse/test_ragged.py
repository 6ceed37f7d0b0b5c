"""Padding and repeated rows are not computed, and nothing else changes."""

import pytest
import torch

from helpers.tiny import dense_rows
from mambavl.fuse import fusion, ragged
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import StreamShape
from mambavl.fuse.ragged import Ragged, equal_rows

WIDTHS = {"video": 5, "verb_question": 3, "noun_question": 3, "audio": 4}
LENGTHS = {  # 5 rows; -1: not there
    "video": [4, 4, 4, 4, 4],
    "verb_question": [2, 5, 2, 0, 1],
    "noun_question": [3, 2, 1, 5, -1],
    "audio": [3, -1, 2, 3, 0],
}


def rows_of(lengths, width, seed=0):
    """(tokens, lengths); zeros from each row's length on."""
    lengths = torch.tensor(lengths)
    tokens = torch.randn(
        len(lengths), max(lengths), width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    tokens[torch.arange(tokens.shape[1]) >= lengths[:, None]] = 0.0
    return tokens, lengths


def make_streams():
    """Texts 0 and 2 of the verb question say the same, and so does text 1 of the other question."""
    streams = {name: rows_of(lengths, WIDTHS[name], i) for i, (name, lengths) in enumerate(LENGTHS.items())}
    verb, noun = streams["verb_question"][0], streams["noun_question"][0]
    verb[2] = verb[0]
    noun[1, :2] = verb[0, :2]
    return streams


def make_head(**settings):
    torch.manual_seed(0)
    shapes = {name: StreamShape(width=width) for name, width in WIDTHS.items()}
    given = {"d_model": 6, "d_state": 2, "targets": {"verb": 3, "noun": 4}, "dropout": 0.0, **settings}
    head = SSMFusion(FusionConfig(streams=shapes, scan="reference", **given)).double()
    with torch.no_grad():
        for parameter in head.parameters():  # a bias of 0 would hide what padding adds
            parameter += 0.1 * torch.randn_like(parameter)
    return head


def outcome(head, streams):
    """Logits, and the gradient of every parameter."""
    head.zero_grad()
    logits = head(streams)
    sum((one * torch.linspace(1, 2, one.numel()).view_as(one)).sum() for one in logits.values()).backward()
    return {**logits, **{name: one.grad.clone() for name, one in head.named_parameters()}}


@pytest.mark.parametrize(
    "settings",
    [{}, {"preset": "paper"}, {"share": "none"}, {"share": "all"}, {"text_mlp_layers": 3}, {"zoh": True}],
    ids=str,
)
def test_a_head_says_and_learns_what_it_does_where_every_row_and_step_is_computed(settings, monkeypatch):
    head, streams = make_head(**settings), make_streams()
    found = outcome(head, streams)
    monkeypatch.setattr(fusion, "Ragged", dense_rows())
    plain = outcome(head, streams)
    assert found.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=name)


def test_valid_tokens_of_distinct_texts_alone_are_projected():
    head, seen = make_head(), {}
    for modality, part in head.project.items():
        part.register_forward_pre_hook(lambda _, given, name=modality: seen.update({name: given[0].shape}))
    head(make_streams())
    # texts of 2, 5, 0, 1 tokens (one of 2 is there three times), of 3, 1, 5; a text of 0 and one that is not
    # there are the same here
    assert seen["text"] == (2 + 5 + 0 + 1 + 3 + 1 + 5, 3)
    assert seen["video"] == (5, 4, 5)
    assert seen["audio"] == (3 + 2 + 3, 4)


def test_released_texts_keep_the_padding_that_counts():
    head, seen = make_head(pad_text_to=7), []
    head.project["text"].register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    head(make_streams())
    # of ten texts two say what another says, and one is not there: no step of it is computed
    assert seen == [(7 * 7, 3)]


def test_tokens_are_packed_and_padded_as_a_loop_does_it():
    tokens, lengths = rows_of([2, 0, 4, 2, 1], 3)
    tokens[3] = tokens[0]
    found = Ragged.of(tokens, lengths)
    packed = found.pack(tokens)
    by_hand = {tuple(token) for row in (0, 1, 2, 4) for token in tokens[row, : lengths[row]].tolist()}
    assert {tuple(token) for token in packed.tolist()} == by_hand
    assert packed.shape == (7, 3)
    padded = found.pad(packed)
    assert padded.shape == (4, 4, 3)
    assert torch.equal(found.spread(padded.flatten(1)).view_as(tokens), tokens)
    assert torch.equal(found.spread(found.lengths), lengths)


def test_where_nothing_is_padding_and_all_rows_differ_nothing_is_moved():
    tokens, lengths = rows_of([3, 3], 4)
    found = Ragged.of(tokens, lengths)
    assert found.pack(tokens) is tokens
    assert found.pad(tokens) is tokens
    assert found.spread(lengths) is lengths


def test_equal_rows_are_named_after_the_first_of_them():
    tokens, lengths = rows_of([2, 3, 2, 3, 1, 2], 3)
    tokens[2], tokens[5], tokens[3] = tokens[0], tokens[0], tokens[1]
    first, kind = equal_rows(tokens, lengths)
    assert sorted(first.tolist()) == [0, 1, 4]
    assert first[kind].tolist() == [0, 1, 0, 1, 4, 0]


def test_rows_that_differ_in_the_middle_alone_differ():
    tokens, lengths = rows_of([3, 3], 2)
    tokens[1] = tokens[0]
    assert equal_rows(tokens, lengths)
    tokens[1, 1, 0] += 1e-12
    assert equal_rows(tokens, lengths) is None


def test_rows_that_differ_in_an_end_spoil_it_for_no_others():
    tokens, lengths = rows_of([3, 3, 3, 3], 2)
    tokens[:] = tokens[0]
    tokens[2, 0, 0] += 1e-6
    tokens[3, 2, 1] += 1e-6
    first, kind = equal_rows(tokens, lengths)
    assert first[kind].tolist() == [0, 0, 2, 3]


def test_equal_keys_prove_nothing(monkeypatch):
    monkeypatch.setattr(ragged, "_keys", lambda tokens, lengths: torch.zeros_like(lengths))
    tokens, lengths = rows_of([3, 3], 2)
    assert equal_rows(tokens, lengths) is None
    tokens[1] = tokens[0]
    assert equal_rows(tokens, lengths)
    assert equal_rows(torch.zeros(2, 3, 2), torch.tensor([3, 2])) is None


def test_rows_of_other_lengths_differ_though_their_tokens_are_equal():
    tokens = torch.zeros(3, 2, 2)
    assert equal_rows(tokens, torch.tensor([0, 1, 2])) is None
    assert equal_rows(tokens[:0], torch.tensor([], dtype=torch.int64)) is None


def test_a_broken_row_is_equal_to_none():
    tokens, lengths = rows_of([2, 2], 2)
    tokens[:] = torch.nan
    assert equal_rows(tokens, lengths) is None


def test_texts_without_a_token_anywhere_say_nothing():
    head, streams = make_head(), make_streams()
    for name in ("verb_question", "noun_question"):
        streams[name] = (torch.zeros(5, 0, 3, dtype=torch.float64), torch.zeros(5, dtype=torch.int64))
    assert all(logits.isfinite().all() for logits in head(streams).values())
    outcome(head, streams)


def test_under_autocast_it_computes_as_without():
    head, streams = make_head(), make_streams()
    head = head.float()
    streams = {name: (tokens.float(), lengths) for name, (tokens, lengths) in streams.items()}
    exact = head(streams)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(streams)
    for target, logits in exact.items():
        torch.testing.assert_close(found[target].float(), logits, rtol=0.1, atol=0.1)
