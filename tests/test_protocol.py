"""Queries, gallery and relevance, without a store."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbmir.errors import CutoffError, FilterError, ProtocolError
from evaluate.protocol import RetrievalProtocol, conditions, wording
from evaluate.relevance import find_relevance, judge, overlaps
from evaluate.trial import NONE, Images, Trial, Vocabularies, packed

SETS = ((), ("a",), ("b",), ("a", "b"), ("c",))


def test_conditions__all_means_no_condition():
    assert conditions(["all"]) == ()
    assert wording(conditions(["all"])) == "all"


def test_conditions__wording_is_the_inverse():
    texts = ["split=test|val", "age_years<60.0", "view!=lateral"]
    assert wording(conditions(texts)) == " and ".join(texts)


def test_conditions__unknown_field_names_the_known():
    with pytest.raises(FilterError, match="no field 'slit' to filter by; there are dataset, split"):
        conditions(["slit=test"])


@pytest.mark.parametrize(
    ("terms", "error", "message"),
    [
        ({"label": "sex"}, ProtocolError, "no label field 'sex'; there are primary_label, labels"),
        ({"measures": ("recal",)}, ProtocolError, "no measure 'recal'; there are .*precision_capped"),
        ({"measures": ()}, ProtocolError, "no measure is asked for"),
        ({"searches": ("hnsw",)}, ProtocolError, "no search 'hnsw'; there are exact, approximate"),
        ({"k": (0,)}, CutoffError, "k is 0; cutoffs lie in 1 to 100"),
        ({"k": (1, 101)}, CutoffError, "k is 1, 101; cutoffs lie in 1 to 100"),
        ({"k": ()}, CutoffError, "k is missing"),
    ],
)
def test_retrieval_protocol__refuses(terms, error, message):
    with pytest.raises(error, match=message):
        RetrievalProtocol(**terms)


def test_packed__sorts_as_text_and_keeps_zero_bytes():
    ids = [
        "00000000-0000-0000-0000-000000000000",
        "00000000-0000-0000-0000-000000000001",
        "10000000-0000-0000-0000-000000000000",
        "80000000-0000-0000-0000-00000000ff00",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
    ]
    np.testing.assert_array_equal(np.argsort(packed(reversed(ids))), [4, 3, 2, 1, 0])
    images = _images(ids, [0] * 5, [NONE] * 5)
    assert images.places(packed(ids[::-1])).tolist() == [4, 3, 2, 1, 0]
    assert images.places(packed(["90000000-0000-0000-0000-000000000000"])).tolist() == [NONE]
    assert images.places(packed([])).tolist() == []


@given(st.lists(st.frozensets(st.sampled_from("abcd")).map(lambda item: tuple(sorted(item))), max_size=12))
def test_overlaps__is_a_shared_value(sets):
    expected = [[bool(set(one) & set(other)) for other in sets] for one in sets]
    assert overlaps(sets).tolist() == expected


@st.composite
def trials(draw):
    """Queries and a gallery drawn from the same dozen images, as any filters may pick them."""
    ids = [f"{number:032x}" for number in range(12)]
    sets = draw(st.lists(st.integers(0, len(SETS) - 1), min_size=12, max_size=12))
    patients = draw(st.lists(st.integers(NONE, 3), min_size=12, max_size=12))
    everything = _images(ids, sets, patients)
    queries = everything.take(np.array(draw(st.sets(st.integers(0, 11), min_size=1).map(sorted))))
    gallery = everything.take(np.array(draw(st.sets(st.integers(0, 11), min_size=1).map(sorted))))
    excluded = draw(st.booleans())
    barred = np.where(excluded & (queries.patients != NONE), queries.patients, NONE - 1).astype(np.int32)
    vocabularies = Vocabularies()
    for item in SETS[1:]:
        vocabularies.sets.code(item)
    return Trial(queries, gallery, vocabularies, (), (), 0, barred, gallery.places(queries.ids))


@given(trials())
def test_find_relevance__against_plain_loops(trial):
    relevance = find_relevance(trial)
    for row in range(len(trial.queries)):
        wanted, barred = 0, 0
        for place in range(len(trial.gallery)):
            itself = trial.gallery.ids[place] == trial.queries.ids[row]
            same_patient = trial.gallery.patients[place] == trial.barred_patients[row]
            shares = set(SETS[trial.gallery.sets[place]]) & set(SETS[trial.queries.sets[row]])
            barred += itself or same_patient
            wanted += bool(shares) and not (itself or same_patient)
        assert (relevance.relevant[row], relevance.barred[row]) == (wanted, barred)


def test_judge__missing_places_gain_nothing():
    images = _images([f"{number:032x}" for number in range(3)], [1, 2, 3], [NONE] * 3)
    vocabularies = Vocabularies()
    for item in SETS[1:]:
        vocabularies.sets.code(item)
    trial = Trial(images, images, vocabularies, (), (), 0, np.full(3, NONE - 1, np.int32), np.arange(3))
    found = np.array([[2, 1, NONE], [0, 2, NONE], [1, 0, NONE]])
    gains = judge(trial, find_relevance(trial), found)
    assert gains.gains.tolist() == [[1, 0, 0], [0, 1, 0], [1, 1, 0]]
    assert gains.relevant.tolist() == [1, 1, 2]


def _images(ids, sets, patients):
    count = len(ids)
    codes = (np.array(column, np.int32) for column in (sets, [0] * count, [0] * count, patients))
    return Images(packed(ids), *codes)
