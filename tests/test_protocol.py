"""Queries, gallery and relevance, without a store."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbmir.errors import CutoffError, ProtocolError
from cbmir.evaluate.protocol import RetrievalProtocol, conditions, wording
from cbmir.evaluate.ranking.exclusion import Exclusion
from cbmir.evaluate.ranking.relevance import find_grades, find_relevance, judge
from cbmir.evaluate.ranking.rules import RULES, LabelSets, Relations, hierarchy
from cbmir.evaluate.ranking.trial import NONE, PATHS, Images, Trial, Vocabulary, packed_ids

SETS = ((), ("CT/a/x",), ("CT/a/y",), ("CT/a/x", "CT/a/y"), ("MR/a/x",))


def test_conditions__all_means_no_condition():
    assert conditions(["all"]) == ()
    assert wording(conditions(["all"])) == "all"


def test_conditions__wording_is_the_inverse():
    texts = ["split=test|val", "age_years<60.0", "view!=lateral"]
    assert wording(conditions(texts)) == " and ".join(texts)


def test_conditions__a_name_that_is_no_field_is_an_own_column():
    assert conditions(["slit=test"])[0].field == "extra.slit"


@pytest.mark.parametrize(
    ("terms", "error", "message"),
    [
        ({"label": "sex"}, ProtocolError, "no label field 'sex'; there are primary_label, labels"),
        ({"measures": ("recal",)}, ProtocolError, "no measure 'recal'; there are .*precision_capped"),
        ({"measures": ()}, ProtocolError, "no measure is asked for"),
        ({"searches": ("hnsw",)}, ProtocolError, "no search 'hnsw'; there are approximate, exact"),
        ({"k": (0,)}, CutoffError, "k is 0; cutoffs lie in 1 to 10000"),
        ({"k": (1, 10_001)}, CutoffError, "k is 1, 10001; cutoffs lie in 1 to 10000"),
        ({"exclude": ("hospital",)}, ProtocolError, "no thing to exclude by 'hospital'; there are patient, study"),
        ({"by": ("age_years",)}, ProtocolError, "results can't be grouped by age_years; there are "),
        ({"relevance": "all"}, ProtocolError, "no rule of relevance 'all'; there are any, exact, jaccard"),
        ({"k": ()}, CutoffError, "k is missing"),
    ],
)
def test_retrieval_protocol__refuses(terms, error, message):
    with pytest.raises(error, match=message):
        RetrievalProtocol(**terms)


def test_packed_ids__sorts_as_text_and_keeps_zero_bytes():
    ids = [
        "00000000-0000-0000-0000-000000000000",
        "00000000-0000-0000-0000-000000000001",
        "10000000-0000-0000-0000-000000000000",
        "80000000-0000-0000-0000-00000000ff00",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
    ]
    np.testing.assert_array_equal(np.argsort(packed_ids(reversed(ids))), [4, 3, 2, 1, 0])
    images = _images(ids, [0] * 5, [0] * 5)
    assert images.places(packed_ids(ids[::-1])).tolist() == [4, 3, 2, 1, 0]
    assert images.places(packed_ids(["90000000-0000-0000-0000-000000000000"])).tolist() == [NONE]
    assert images.places(packed_ids([])).tolist() == []


def _grade(rule, one, other):
    return rule(LabelSets([tuple(one), tuple(other)]), np.array([0]))[0, 1]


@pytest.mark.parametrize(
    ("one", "other", "grades"),
    [
        ({"a"}, {"a"}, (1, 1, 1)),
        ({"a", "b"}, {"b", "c"}, (1, 0, 1 / 3)),
        ({"a", "b"}, {"b"}, (1, 0, 1 / 2)),
        ({"a"}, {"b"}, (0, 0, 0)),
    ],
)
def test_rules__by_hand(one, other, grades):
    assert tuple(_grade(rule, one, other) for rule in RULES.values()) == grades


@pytest.mark.parametrize(
    ("one", "other", "grade"),
    [
        ("XR/chest/pneumonia", "XR/chest/pneumonia", 3),
        ("XR/chest/pneumonia", "XR/chest/nodule", 2),
        ("XR/chest/pneumonia", "XR/hand/pneumonia", 1),
        ("XR/chest/pneumonia", "CT/chest/pneumonia", 0),
        ("XR/chest", "XR/chest/nodule", 2),
    ],
)
def test_hierarchy__by_hand(one, other, grade):
    assert _grade(hierarchy, {one}, {other}) == grade
    assert _grade(hierarchy, {one, "MR"}, {other, "US"}) == grade


def _trial(queries, gallery, **terms):
    vocabulary = Vocabulary()
    for item in SETS[1:]:
        vocabulary.code(item)
    numbers = Vocabulary()
    for number in range(1, 6):
        numbers.code((str(number),))
    vocabularies = {"labels": vocabulary, PATHS: vocabulary, "patient_id": numbers, "dataset": numbers}
    none = np.zeros((0, 1), np.float32)
    protocol = RetrievalProtocol(label="labels", **terms)
    places = gallery.places(queries.ids)
    classes = np.zeros(len(queries), np.int32)
    return Trial(protocol, queries, gallery, vocabularies, classes, ("x",), none, none, (), (), 0, places, classes)


@st.composite
def trials(draw):
    """Queries and a gallery drawn from the same dozen images, as any filters may pick them."""
    ids = [f"{number:032x}" for number in range(12)]
    sets = draw(st.lists(st.integers(0, len(SETS) - 1), min_size=12, max_size=12))
    patients = draw(st.lists(st.integers(0, 4), min_size=12, max_size=12))
    datasets = draw(st.lists(st.integers(0, 2), min_size=12, max_size=12))
    everything = _images(ids, sets, patients, datasets)
    queries = everything.take(np.array(draw(st.sets(st.integers(0, 11), min_size=1).map(sorted))))
    gallery = everything.take(np.array(draw(st.sets(st.integers(0, 11), min_size=1).map(sorted))))
    exclude = draw(st.sampled_from([(), ("patient",), ("dataset",), ("patient", "dataset")]))
    return _trial(queries, gallery, exclude=exclude, relevance=draw(st.sampled_from(list(RULES))))


@given(trials())
def test_find_relevance__against_plain_loops(trial):
    exclusion = Exclusion(trial, trial.protocol.excluded_fields)
    relevance, grades = find_relevance(trial, exclusion), find_grades(trial, exclusion)
    rule = RULES[trial.protocol.relevance]
    threshold = 0.5 if trial.protocol.relevance == "jaccard" else 1
    total = 0
    for row in range(len(trial.queries)):
        own, graded, barred = [], [], 0
        for place in range(len(trial.gallery)):
            same = [trial.gallery.ids[place] == trial.queries.ids[row]]
            for field in exclusion.fields:
                code = trial.queries.codes[field][row]
                same.append(bool(code) and trial.gallery.codes[field][place] == code)
            barred += any(same)
            one = frozenset(SETS[trial.queries.codes["labels"][row]])
            other = frozenset(SETS[trial.gallery.codes["labels"][place]])
            if one and other and not any(same):
                own.append(_grade(rule, one, other))
                graded.append(_grade(hierarchy, one, other))
        total += barred
        assert relevance.relevant[row] == sum(grade >= threshold for grade in own)
        best = [*sorted(graded, reverse=True), *[0] * 15][:15]
        assert grades.ideal(15)[row].tolist() == best
    assert exclusion.images == total


def test_judge__missing_places_gain_nothing():
    images = _images([f"{number:032x}" for number in range(3)], [1, 2, 3], [0] * 3)
    trial = _trial(images, images)
    exclusion = Exclusion(trial, ())
    found = np.array([[2, 1, NONE], [0, 2, NONE], [1, 0, NONE]])
    gains = judge(trial, find_relevance(trial, exclusion), find_grades(trial, exclusion), found)
    assert gains.hits.tolist() == [[1, 0, 0], [0, 1, 0], [1, 1, 0]]
    assert gains.relevant.tolist() == [1, 1, 2]
    assert gains.grades.tolist() == [[3, 2, 0], [2, 3, 0], [3, 3, 0]]


def test_relations__from_a_file(tmp_path):
    path = tmp_path / "relations.yaml"
    path.write_text("same: 2\nrelations:\n- [a, b, 1]\n")
    relations = Relations.read(path)
    assert [_grade(relations, "a", other) for other in ("a", "b", "c")] == [2, 1, 0]
    assert _grade(relations, "bc", "a") == 1


@pytest.mark.parametrize(
    "text",
    [
        *("- a", "relations: [[a, b]]", "relations: [[a, b, -1]]", "same: [", "same: .nan"),
        *("relations: [[a, a, 9]]", "relations: [[a, b, 1], [b, a, 2]]"),
    ],
)
def test_relations__refuses(tmp_path, text):
    path = tmp_path / "relations.yaml"
    path.write_text(text)
    with pytest.raises(ProtocolError, match=r"relations\.yaml") as caught:
        Relations.read(path)
    assert "\n" not in str(caught.value)


def _images(ids, sets, patients, datasets=None):
    codes = {"labels": sets, PATHS: sets, "patient_id": patients, "dataset": datasets or [0] * len(ids)}
    return Images(packed_ids(ids), {name: np.array(column, np.int32) for name, column in codes.items()})
