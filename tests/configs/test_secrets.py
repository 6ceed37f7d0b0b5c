"""A secret is cut out of every text, whole, in pieces and in either case; what a terminal would obey goes."""

import pytest

from mambavl.configs.secrets import Secret, printable

TOKEN = "hf_QkV7xR2mZp9sLt4YbN1c"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"Bearer {TOKEN}!", "Bearer [key]!"),
        (TOKEN.upper() + " " + TOKEN.lower(), "[key] [key]"),
        (f"a {TOKEN[3:11]} b", "a [key] b"),
        (f"{TOKEN[:-1]}/{TOKEN[1:]}", "[key]/[key]"),
        (f"{TOKEN}{TOKEN}", "[key][key]"),
        (TOKEN[:7], TOKEN[:7]),  # seven characters tell nothing
        ("nothing of it", "nothing of it"),
    ],
)
def test_no_piece_that_tells_something_stays(text, left):
    assert Secret(TOKEN).cut_out(text) == left


def test_short_words_and_none_at_all():
    assert Secret("EMPTY").cut_out("EMPTY, empty") == "[key], empty"
    assert Secret("").cut_out("as it was") == "as it was"


def test_what_a_terminal_would_obey_goes():
    assert printable("a\x1b[31mb\u202ec\ud800") == "a�[31mb�c�"
