"""Verb and noun questions for every segment: made, masked, read and written."""

from mambavl.extract import MASK
from mambavl.extract.questions.file import (
    PROTOCOLS,
    QUESTION_KEYS,
    Question,
    read_questions,
    write_questions,
)
from mambavl.extract.questions.masking import Masked, mask
from mambavl.extract.questions.template import generate

__all__ = [
    "MASK",
    "PROTOCOLS",
    "QUESTION_KEYS",
    "Masked",
    "Question",
    "generate",
    "mask",
    "read_questions",
    "write_questions",
]
