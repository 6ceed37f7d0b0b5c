"""The page: every file is on it, nothing comes from outside, and names are escaped."""

import re
from dataclasses import replace

from helpers.toyaudit import CLEAN, DATA, write
from mambavl.extract.questions.audit import audit, guessers
from mambavl.extract.questions.audit_page import write_page


def test_the_page_shows_every_file_needs_nothing_from_outside_and_escapes(toy_audit, tmp_path):
    result, page = toy_audit
    assert page.count("<svg") == 3
    assert not re.search(r'(src|href)="https?://|<script', page)
    for row in guessers(result):
        assert row["path"] in page
        assert f"{row['top1']['verb']['percent']:.1f}" in page
    path = write(
        tmp_path / "<b>&.jsonl", [replace(CLEAN[0], verb_question="take it", prompt_version="<script>")]
    )
    write_page(audit([path], DATA, forms_only=True), tmp_path / "a.html")
    assert "&lt;b&gt;&amp;.jsonl" in (tmp_path / "a.html").read_text()
    assert "<b>&.jsonl" not in (tmp_path / "a.html").read_text()
