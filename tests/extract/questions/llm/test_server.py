"""What is sent to a server and read of it: formats, token counts, long replies, waits."""

import hashlib
from email.utils import formatdate

import pytest

from helpers.llm_runs import ROWS, run, settings
from mambavl.extract.questions.llm.server import retry_after


def test_retry_after_is_read_in_all_its_forms():
    now = 1_700_000_000.0
    for headers, expected in (
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": formatdate(now + 90, usegmt=True)}, 90.0),
        ({"retry-after": formatdate(now - 90, usegmt=True)}, 0.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ):
        assert retry_after(headers, now) == expected, headers
    assert retry_after({"retry-after": "inf"}, now) == float("inf")  # cut to max_wait


@pytest.mark.parametrize("usage", ["usage-empty", "usage-null", "usage-huge", "usage-text"])
def test_a_reply_whose_tokens_are_not_counted_is_kept_at_the_bound(server, tmp_path, usage):
    found = run(server, tmp_path, f"always:{usage}")
    assert not found.written.failures
    assert found.tally.calls == 12
    assert found.ledger.spent >= 12 * settings(server).cost(0, 400)


def test_what_somebody_between_gave_up_waiting_for_may_have_been_paid(server, tmp_path):
    found = run(server, tmp_path, "once:504")
    assert not found.written.failures
    assert found.ledger.spent > 12 * settings(server).cost(0, 400)


def test_of_an_enormous_reply_only_the_beginning_is_kept(server, tmp_path):
    found = run(server, tmp_path, "always:enormous", rows=ROWS[:1], attempts=2)
    assert "rejected, the last one as length" in found.written.failures["P01_01_0"]
    assert sum(path.stat().st_size for path in tmp_path.glob("*.journal")) < 50_000
    (replies,) = found.ledger.replies.values()
    digest = hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert replies[0].text.endswith(f"[cut: 3,000,000 characters, sha256 {digest}]")


@pytest.mark.parametrize(
    ("structured", "expected"),
    [("json_schema", "json_schema"), ("json_object", "json_object"), ("none", None)],
)
def test_the_server_is_held_to_a_schema_as_far_as_it_can_be(server, tmp_path, structured, expected):
    assert not run(server, tmp_path, structured=structured, token_limit_name="max_tokens").written.failures
    for line in server.lines():
        assert (line["response_format"] or {}).get("type") == expected
        assert line["max_completion_tokens"] is None
    if structured == "json_schema":
        schema = server.lines()[0]["response_format"]["json_schema"]
        assert schema["strict"] is True
        assert schema["schema"]["required"] == ["description"]
        assert schema["schema"]["additionalProperties"] is False


@pytest.mark.parametrize("fault", ["mute", "trickle"])
def test_a_call_ends_when_its_time_is_over_whether_bytes_come_or_not(server, tmp_path, fault):
    """By a real clock: the server never ends, so the limit is met however slow the machine is."""
    found = run(server, tmp_path, f"always:{fault}", rows=ROWS[:1], timeout=0.1, retries=0)
    assert "no reply in 0.1 s" in found.written.failures["P01_01_0"]
    assert found.ledger.spent > settings(server).cost(0, 400)  # the server may have done the work
