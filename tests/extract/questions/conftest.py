"""One audit that several test files look at."""

from dataclasses import replace

import pytest


@pytest.fixture(scope="session")
def toy_audit(tmp_path_factory):
    """(numbers, page) of clean, leaking, generic and empty questions of the same rows."""
    from helpers.toyaudit import CLEAN, DATA, write
    from mambavl.extract.questions import generate
    from mambavl.extract.questions.audit import audit
    from mambavl.extract.questions.audit_page import write_page
    from mambavl.extract.questions.forms import inflections

    folder = tmp_path_factory.mktemp("audit")
    leaking = []
    for row, question in zip(DATA.segments, CLEAN, strict=True):
        form = min(inflections(row.verb.split("-")[0]) - {row.verb})
        leaking.append(replace(question, verb_question=f"{question.verb_question} Perhaps {form}?"))
    files = [write(folder / "clean.jsonl"), write(folder / "leaking.jsonl", leaking)]
    files.append(write(folder / "generic.jsonl", generate(DATA, "generic")))
    files.append(write(folder / "none.jsonl", generate(DATA, "none")))
    result = audit(files, DATA)
    write_page(result, folder / "audit.html")
    return result, (folder / "audit.html").read_text(encoding="utf-8")
