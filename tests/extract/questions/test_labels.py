"""Labels where they must be there: read when both are, refused by name when one is not."""

from dataclasses import replace

import pytest

from helpers.toyclasses import NOUNS, VERBS, segment
from mambavl.configs.errors import DataError
from mambavl.extract.questions.labels import classes_of, is_labelled, refuse_unlabelled

ROW = segment("take plate", "take", "plate")


def test_both_classes_are_read():
    assert is_labelled(ROW)
    assert classes_of(ROW) == (list(VERBS).index("take"), list(NOUNS).index("plate"))


@pytest.mark.parametrize("missing", ["verb", "noun"])
def test_a_segment_that_lacks_one_class_is_unlabelled_and_named(missing):
    bare = replace(ROW.labelled(**{missing: None}), narration_id="P01_01_7")
    assert not is_labelled(bare)
    with pytest.raises(DataError, match="P01_01_7: has no verb and noun class"):
        classes_of(bare)
    with pytest.raises(
        DataError, match=r"P01_01_7: .* \(1 of 2 rows have none\); probes need labels, use `--pro"
    ):
        refuse_unlabelled([ROW, bare], "probes need labels")
    refuse_unlabelled([ROW], "probes need labels")
