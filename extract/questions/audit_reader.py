"""A reader that guesses classes from questions by one fixed rule, without any training.

For a row and a kind, with `question` that kind's own: a class is *compatible* when some train row of it has
the same hint, some train row of it has the same number of placeholders, and it is not named in the question.
Where most train questions of the file name their own class (questions that were never masked), it must be
named instead. A condition that no class meets together with those before it is left out. The guess is the
compatible class with the most train rows; for the action, the most frequent train pair of two compatible
classes, or the two guesses where there is none.
"""

from collections import Counter
from typing import Any

import numpy as np

from mambavl.extract import MASK
from mambavl.extract.questions.audit_rows import TARGETS, VERB_STEP, Rows, top1
from mambavl.extract.questions.file import Question
from mambavl.extract.questions.leaks import Checker, Kind

Pair = tuple[int, int]  # verb, noun


def read(checker: Checker, train: Rows, test: Rows) -> dict[str, Any]:
    """How often the rule is right over the test rows, and how many classes it leaves to choose from."""
    verb_classes = Compatible(checker, "verb", train)
    noun_classes = Compatible(checker, "noun", train)
    pairs = CompatiblePairs(train)
    guesses: dict[str, list[int]] = {target: [] for target in TARGETS}
    sizes: dict[str, list[int]] = {"verb": [], "noun": []}
    for question in test.questions:
        verbs, nouns = verb_classes.of(question), noun_classes.of(question)
        verb, noun = verb_classes.most_frequent(verbs), noun_classes.most_frequent(nouns)
        pair = pairs.most_frequent(verbs, nouns) or (verb, noun)
        guesses["verb"].append(verb)
        guesses["noun"].append(noun)
        guesses["action"].append(pair[0] * VERB_STEP + pair[1])
        sizes["verb"].append(len(verbs))
        sizes["noun"].append(len(nouns))
    by_kind = {"verb": verb_classes, "noun": noun_classes}
    return {
        "top1": top1(test, {target: np.array(values) for target, values in guesses.items()}),
        "mean_compatible": {kind: float(np.mean(values)) for kind, values in sizes.items()},
        "train_classes": {kind: len(classes.count) for kind, classes in by_kind.items()},
        "own_class_is_named": {kind: classes.named_share for kind, classes in by_kind.items()},
    }


class Compatible:
    """Which train classes of a kind a question allows, by the rule at the top of this file."""

    def __init__(self, checker: Checker, kind: Kind, train: Rows) -> None:
        self.key = f"{kind}_question"
        self.names = checker.verbs if kind == "verb" else checker.nouns
        labels = train.labels(kind).tolist()
        self.count = Counter(labels)
        self._by_hint: dict[str | None, set[int]] = {}
        self._by_masks: dict[int, set[int]] = {}
        self._known: dict[tuple[str, str | None], frozenset[int]] = {}
        named = 0
        for label, question in zip(labels, train.questions, strict=True):
            text = getattr(question, self.key)
            self._by_hint.setdefault(question.hint[self.key], set()).add(label)
            self._by_masks.setdefault(text.count(MASK), set()).add(label)
            named += label in self.names.find(text)
        self.named_share = named / len(labels)

    def of(self, question: Question) -> frozenset[int]:
        """The compatible classes, at least one."""
        text, hint = getattr(question, self.key), question.hint[self.key]
        if (text, hint) not in self._known:
            self._known[text, hint] = self._find(text, hint)
        return self._known[text, hint]

    def most_frequent(self, classes: frozenset[int]) -> int:
        """The class with the most train rows; the smallest of equals."""
        return max(classes, key=lambda label: (self.count[label], -label))

    def _find(self, text: str, hint: str | None) -> frozenset[int]:
        named = self.names.find(text).keys() & self.count.keys()
        conditions = (
            self._by_hint.get(hint, set()),
            self._by_masks.get(text.count(MASK), set()),
            named if self.named_share > 0.5 else self.count.keys() - named,
        )
        left = set(self.count)
        for condition in conditions:
            left = left & condition or left
        return frozenset(left)


class CompatiblePairs:
    """The train rows' pairs of a verb and a noun, most frequent first."""

    def __init__(self, train: Rows) -> None:
        pairs = Counter(zip(train.labels("verb").tolist(), train.labels("noun").tolist(), strict=True))
        self._by_rows: list[Pair] = sorted(pairs, key=lambda pair: (-pairs[pair], pair))
        self._known: dict[tuple[frozenset[int], frozenset[int]], Pair | None] = {}

    def most_frequent(self, verbs: frozenset[int], nouns: frozenset[int]) -> Pair | None:
        """The most frequent pair of two compatible classes, None where no train row has one."""
        if (verbs, nouns) not in self._known:
            found = (pair for pair in self._by_rows if pair[0] in verbs and pair[1] in nouns)
            self._known[verbs, nouns] = next(found, None)
        return self._known[verbs, nouns]
