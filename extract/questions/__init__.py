"""Verb and noun questions for every segment: made, masked, read and written."""

from mambavl.extract.questions.file import MASK as MASK
from mambavl.extract.questions.file import PROTOCOLS as PROTOCOLS
from mambavl.extract.questions.file import QUESTION_KEYS as QUESTION_KEYS
from mambavl.extract.questions.file import Question as Question
from mambavl.extract.questions.file import read_questions as read_questions
from mambavl.extract.questions.file import write_questions as write_questions
from mambavl.extract.questions.masking import Masked as Masked
from mambavl.extract.questions.masking import mask as mask
from mambavl.extract.questions.template import generate as generate
