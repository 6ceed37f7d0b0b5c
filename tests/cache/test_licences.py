"""What EK100 and Ego4D allow, by their class counts and the names of their files; others must be named."""

import pytest

from helpers.submissions import CLASSES as EK100
from helpers.tiny import CLASSES
from mambavl.cache.classes import Classes, Target, verb_noun_classes
from mambavl.cache.licences import licence_of, refuse_public, terms_of
from mambavl.configs.errors import UsageError


def classes_of(verbs, nouns):
    return verb_noun_classes({}, {}, num_verbs=verbs, num_nouns=nouns)


@pytest.mark.parametrize(
    ("verbs", "nouns", "name"),
    [
        (97, 300, "EPIC-KITCHENS-100"),
        (115, 478, "Ego4D"),
        (117, 521, "Ego4D"),
        (97, 301, None),
        (98, 300, None),
        (115, 521, None),
        (300, 97, None),
    ],
)
def test_a_data_set_is_told_by_its_class_counts(verbs, nouns, name):
    found = terms_of(classes_of(verbs, nouns))
    assert (found and found.name) == name


def test_a_target_beside_the_verb_and_the_noun_changes_nothing():
    more = Classes({"tool": Target({}, 5), **EK100.targets})
    assert terms_of(more).name == "EPIC-KITCHENS-100"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("EPIC_100_train.csv", "EPIC-KITCHENS-100"),
        ("fho_lta_train.json", "Ego4D"),
        ("train.csv", None),
        ("my_EPIC_100_train.csv", None),
    ],
)
def test_rows_without_labels_are_told_by_the_names_of_their_lists(file, name):
    found = terms_of(Classes({}), ["targets.toml", file])
    assert (found and found.name) == name


def test_ek100_is_not_for_commercial_use():
    terms = terms_of(EK100)
    assert licence_of(terms, None, "run") == "cc-by-nc-4.0"
    assert licence_of(terms, "CC-BY-NC-SA-4.0", "run") == "CC-BY-NC-SA-4.0"
    for asked in ("mit", "apache-2.0", "cc-by-4.0", "other"):
        with pytest.raises(UsageError, match=f"run: --licence {asked}: it was made from EPIC-KITCHENS-100"):
            licence_of(terms, asked, "run")
    refuse_public(terms, "run")


def test_ego4d_stays_private_and_its_licence_as_it_is():
    terms = terms_of(classes_of(117, 521))
    assert licence_of(terms, None, "run") == "other"
    for asked in ("mit", "cc-by-nc-4.0"):
        with pytest.raises(UsageError, match=r"Ego4D, whose licence each user signs.*leave --licence out"):
            licence_of(terms, asked, "run")
    with pytest.raises(UsageError, match=r"forbids handing its data on.*add --private"):
        refuse_public(terms, "run")


def test_of_others_the_licence_is_asked_for():
    assert licence_of(terms_of(CLASSES), "mit", "run") == "mit"
    refuse_public(terms_of(CLASSES), "run")
    with pytest.raises(UsageError, match="say with --licence under which its data let it be"):
        licence_of(None, None, "run")


@pytest.mark.parametrize("asked", ["", "  ", "mit\nlicense: nc", "cc\x1b[31m"])
def test_what_cannot_be_the_name_of_a_licence_is_refused(asked):
    for terms in (None, terms_of(EK100)):
        with pytest.raises(UsageError, match="name it as model hubs do"):
            licence_of(terms, asked, "run")
