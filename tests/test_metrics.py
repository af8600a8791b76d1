"""The measures against tables worked by hand, slow and foreign oracles, and what must hold for any ranking."""

import math
from fractions import Fraction

import ir_measures
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ir_measures import AP, RR, P, R, Rprec, Success, nDCG

from cbmir.errors import CutoffError, ProtocolError
from cbmir.evaluate.metrics import METRICS, Gains, at, macro, micro, ndcg, precision, precision_capped, valued

NAN = math.nan

# One row a query: the answer by rank (1 right, 0 wrong or missing), and how many right ones the gallery holds.
ANSWERS = Gains.binary(
    np.array(
        [
            [1, 0, 1, 1, 0],  # many right ones in the gallery
            [0, 1, 0, 0, 1],  # two right ones, the second found at place 5
            [0, 0, 0, 0, 0],  # none in the gallery
            [1, 1, 0, 0, 0],  # three right ones, and the gallery ends after place 2
            [0, 0, 0, 0, 0],  # two in the gallery, none found
        ],
        np.bool_,
    ),
    np.array([7, 2, 0, 3, 2]),
)
NONE, ALL, UNDEFINED = [0] * 5, [1] * 5, [NAN] * 5
D2, D4, D5 = 1 / math.log2(3), 1 / math.log2(5), 1 / math.log2(6)  # discounts; that of place 3 is 1/2
BY_HAND = {
    "precision_capped": [
        [1, 1 / 2, 2 / 3, 3 / 4, 3 / 5],
        [0, 1 / 2, 1 / 2, 1 / 2, 1 / 2],
        UNDEFINED,
        [1, 1, 2 / 3, 2 / 3, 2 / 3],
        NONE,
    ],
    "precision": [
        [1, 1 / 2, 2 / 3, 3 / 4, 3 / 5],
        [0, 1 / 2, 1 / 3, 1 / 4, 2 / 5],
        NONE,
        [1, 1, 2 / 3, 1 / 2, 2 / 5],
        NONE,
    ],
    "recall": [
        [1 / 7, 1 / 7, 2 / 7, 3 / 7, 3 / 7],
        [0, 1 / 2, 1 / 2, 1 / 2, 1],
        UNDEFINED,
        [1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3],
        NONE,
    ],
    "hit_rate": [ALL, [0, 1, 1, 1, 1], NONE, ALL, NONE],
    "mrr": [ALL, [0, 1 / 2, 1 / 2, 1 / 2, 1 / 2], NONE, ALL, NONE],
    "map": [
        [1, 1 / 2, (1 + 2 / 3) / 3, (1 + 2 / 3 + 3 / 4) / 4, (1 + 2 / 3 + 3 / 4) / 5],
        [0, 1 / 4, 1 / 4, 1 / 4, (1 / 2 + 2 / 5) / 2],
        UNDEFINED,
        [1, 1, 2 / 3, 2 / 3, 2 / 3],
        NONE,
    ],
    "map_r": [
        UNDEFINED,
        [NAN, 1 / 4, 1 / 4, 1 / 4, 1 / 4],
        UNDEFINED,
        [NAN, NAN, 2 / 3, 2 / 3, 2 / 3],
        [NAN, 0, 0, 0, 0],
    ],
    "r_precision": [
        UNDEFINED,
        [NAN, 1 / 2, 1 / 2, 1 / 2, 1 / 2],
        UNDEFINED,
        [NAN, NAN, 2 / 3, 2 / 3, 2 / 3],
        [NAN, 0, 0, 0, 0],
    ],
    "ndcg": [
        [
            1,
            1 / (1 + D2),
            (1 + 1 / 2) / (1 + D2 + 1 / 2),
            (1 + 1 / 2 + D4) / (1 + D2 + 1 / 2 + D4),
            (1 + 1 / 2 + D4) / (1 + D2 + 1 / 2 + D4 + D5),
        ],
        [0, D2 / (1 + D2), D2 / (1 + D2), D2 / (1 + D2), (D2 + D5) / (1 + D2)],
        UNDEFINED,
        [1, 1, (1 + D2) / (1 + D2 + 1 / 2), (1 + D2) / (1 + D2 + 1 / 2), (1 + D2) / (1 + D2 + 1 / 2)],
        NONE,
    ],
    "majority_vote": [[1, 0, 1, 1, 1], NONE, NONE, [1, 1, 1, 0, 0], NONE],
}


@pytest.mark.parametrize("name", sorted(METRICS))
def test_metric__by_hand(name):
    np.testing.assert_allclose(METRICS[name](ANSWERS), BY_HAND[name], rtol=0, atol=1e-15)


def test_ndcg__by_hand_with_grades():
    none = np.zeros((2, 3), np.bool_)
    grades = np.array([[1, 3, 0], [1, 0, 0]], np.float32)
    ideal = np.array([[3, 2, 2], [2, 1, 0]], np.float32)  # the second query has no relevant image, but similar ones
    expected = [[1 / 3, (1 + 3 * D2) / (3 + 2 * D2), (1 + 3 * D2) / (3 + 2 * D2 + 1)], [1 / 2, *[1 / (2 + D2)] * 2]]
    np.testing.assert_allclose(ndcg(Gains(none, np.array([4, 0]), grades, ideal)), expected, rtol=0, atol=1e-15)


def test_map__does_not_divide_by_the_hits_found():
    # Divided by the two hits found the value would be .61, though five of the seven relevant images were missed.
    gains = Gains.binary(np.array([[1, 0, 0, 0, 0, 0, 0, 0, 1, 0]], np.bool_), np.array([7]))
    assert at("map", gains, [10])[0, 0] == pytest.approx((1 + 2 / 9) / 7)


def test_precision_capped__equals_a_plain_count_at_every_k():
    draw = np.random.default_rng(7)
    gallery = {f"g{i}": f"class {draw.integers(12) ** 2 // 12}" for i in range(400)}
    queries = {f"q{i}": f"class {draw.integers(12)}" for i in range(60)}  # of some classes the gallery has none
    neighbours = {query: [f"g{i}" for i in draw.permutation(400)[:100]] for query in queries}
    gains = Gains.binary(
        np.array([[gallery[image] == queries[query] for image in found] for query, found in neighbours.items()]),
        np.array([list(gallery.values()).count(label) for label in queries.values()]),
    )
    scores = precision_capped(gains)
    for k in range(1, 100):
        for row, (query, label) in enumerate(queries.items()):
            limit = min(k, sum(other == label for other in gallery.values()))
            if not limit:
                assert math.isnan(scores[row, k - 1])
                continue
            right = sum(gallery[image] == label for image in neighbours[query][:limit])
            assert abs(scores[row, k - 1] - Fraction(right, limit)) <= 1e-12


def test_metric__agrees_with_trec_eval():
    gains, qrels, run = _foreign()
    depth = gains.depth
    foreign = {
        measure: _calculated(measure, depth, qrels, run, len(gains.hits)) for measure in (P, R, AP, RR, Success, nDCG)
    }
    r_precision = _calculated(lambda **_: Rprec(rel=2), 1, qrels, run, len(gains.hits))
    rows, relevant, k = np.arange(len(gains.hits)), gains.relevant[:, np.newaxis], gains.ranks
    reached = k >= relevant
    at_r = np.minimum(gains.relevant, depth) - 1  # average precision at the cutoff R is MAP@R
    expected = {
        "precision": foreign[P],
        "precision_capped": foreign[P][rows[:, np.newaxis], np.minimum(k, relevant) - 1],
        "recall": foreign[R],
        "hit_rate": foreign[Success],
        "mrr": foreign[RR],
        "map": foreign[AP] * relevant / np.minimum(k, relevant),
        "map_r": np.where(reached, foreign[AP][rows, at_r][:, np.newaxis], NAN),
        "r_precision": np.where(reached, r_precision, NAN),
        "ndcg": foreign[nDCG],
        "majority_vote": foreign[P] > 0.5,
    }
    assert expected.keys() == METRICS.keys()
    for name, table in expected.items():
        np.testing.assert_allclose(METRICS[name](gains), table, rtol=0, atol=1e-12, err_msg=name)


def _foreign():
    """30 graded rankings of 25 places as gains and as the dictionaries of ir_measures; relevant is grade 2 or more."""
    draw = np.random.default_rng(3)
    grades = draw.choice(4, p=[0.5, 0.2, 0.2, 0.1], size=(30, 60))
    grades[:8, 6:] = np.minimum(grades[:8, 6:], 1)  # few relevant images, so that R lies before many cutoffs
    grades[np.arange(30), draw.integers(60, size=30)] = 3  # none without a relevant image: trec_eval gives those 0
    ideal = -np.sort(-grades, axis=1)[:, :25]
    hits = grades[:, :25] >= 2
    gains = Gains(hits, (grades >= 2).sum(axis=1), grades[:, :25].astype(np.float32), ideal.astype(np.float32))
    qrels = {f"q{row}": {f"d{i}": int(grade) for i, grade in enumerate(line)} for row, line in enumerate(grades)}
    run = {query: {f"d{i}": -float(i) for i in range(25)} for query in qrels}
    return gains, qrels, run


def _calculated(measure, depth, qrels, run, queries):
    """(queries, depth) a measure of ir_measures at every cutoff."""
    asked = {(measure(cutoff=k) if measure is nDCG else measure(rel=2, cutoff=k)): k - 1 for k in range(1, depth + 1)}
    table = np.full((queries, depth), NAN)
    for value in ir_measures.iter_calc(list(asked), qrels, run):
        table[int(value.query_id[1:]), asked[value.measure]] = value.value
    return table


def test_at__picks_cutoffs():
    np.testing.assert_array_equal(at("recall", ANSWERS, (5, 2)), METRICS["recall"](ANSWERS)[:, [4, 1]])
    assert at("recall", ANSWERS, ()).shape == (5, 0)


@pytest.mark.parametrize("k", [0, 6])
def test_at__refuses_a_cutoff_that_was_not_retrieved(k):
    with pytest.raises(CutoffError, match=f"precision at {k} needs a cutoff in 1 to 5"):
        at("precision", ANSWERS, (1, k))


def test_gains__refuses_what_does_not_fit():
    hits, grades = np.ones((2, 5), np.bool_), np.ones((2, 5), np.float32)
    with pytest.raises(ProtocolError, match="met counts of shape"):
        Gains(hits, np.full(3, 9), grades, grades)
    with pytest.raises(ProtocolError, match="met grades of"):
        Gains(hits, np.full(2, 9), grades[:, :4], grades)
    with pytest.raises(ProtocolError, match="query 1 found 5 relevant images where there are 4"):
        Gains.binary(hits, np.array([5, 4]))


def test_micro__leaves_out_queries_without_a_value():
    scores = np.array([[1.0, NAN], [0.5, NAN], [NAN, NAN], [0.0, NAN]])
    np.testing.assert_array_equal(micro(scores), [0.5, NAN])
    np.testing.assert_array_equal(valued(scores), [3, 0])


def test_macro__is_the_mean_of_class_means():
    scores = np.array([[1.0, 0.25], [0.0, 0.25], [0.5, NAN], [NAN, NAN], [NAN, NAN]])
    classes = np.array([4, 4, 2, 2, 0], np.int32)  # class 0 has no value at all, classes 1 and 3 no query
    np.testing.assert_array_equal(macro(scores, classes), [(0.5 + 0.5) / 2, 0.25])
    np.testing.assert_array_equal(macro(np.array([[NAN]]), np.array([3], np.int32)), [NAN])


def test_means__of_no_query_are_undefined():
    np.testing.assert_array_equal(micro(np.zeros((0, 2))), [NAN, NAN])
    np.testing.assert_array_equal(macro(np.zeros((0, 2)), np.zeros(0, np.int32)), [NAN, NAN])


@given(data=st.data(), queries=st.integers(1, 20))
def test_means__equal_those_of_pandas(data, queries):
    scores = data.draw(arrays(np.float64, (queries, 3), elements=st.floats(0, 1) | st.just(NAN)))
    classes = data.draw(arrays(np.int32, queries, elements=st.integers(0, 4)))
    frame = pd.DataFrame(scores)
    np.testing.assert_allclose(micro(scores), frame.mean(), atol=1e-12)
    np.testing.assert_allclose(macro(scores, classes), frame.groupby(classes).mean().mean(), atol=1e-12)


@st.composite
def rankings(draw):
    """Graded answers; the relevant images are those of the two upper grades, and some were missed."""
    queries, depth, missed = draw(st.integers(1, 8)), draw(st.integers(1, 10)), draw(st.integers(0, 4))
    grades = draw(arrays(np.float32, (queries, depth + missed), elements=st.sampled_from([0, 0.25, 2, 3])))
    ideal = -np.sort(-grades, axis=1)[:, :depth]
    grades, relevant = grades[:, :depth], np.count_nonzero(grades >= 2, axis=1)
    return Gains(grades >= 2, relevant, grades, ideal)


@pytest.mark.parametrize("name", sorted(METRICS))
@given(gains=rankings())
def test_metric__lies_in_0_to_1_or_is_undefined(name, gains):
    scores = METRICS[name](gains)
    relevant = gains.relevant[:, np.newaxis]
    undefined = {
        "precision": False,
        "hit_rate": False,
        "mrr": False,
        "majority_vote": False,
        "map_r": (relevant == 0) | (relevant > gains.ranks),
        "r_precision": (relevant == 0) | (relevant > gains.ranks),
        "ndcg": gains.ideal[:, :1] == 0,
    }.get(name, relevant == 0)
    assert scores.shape == gains.hits.shape
    assert scores.dtype == np.float64
    np.testing.assert_array_equal(np.isnan(scores), np.broadcast_to(undefined, scores.shape))
    assert ((scores >= 0) & (scores <= 1) | np.isnan(scores)).all()


@pytest.mark.parametrize("name", sorted(METRICS))
@given(gains=rankings(), data=st.data())
def test_metric__order_of_queries_changes_nothing(name, gains, data):
    order = np.array(data.draw(st.permutations(range(len(gains.hits)))))
    shuffled = Gains(gains.hits[order], gains.relevant[order], gains.grades[order], gains.ideal[order])
    scores, classes = METRICS[name](gains), np.arange(len(order), dtype=np.int32) % 3
    np.testing.assert_array_equal(METRICS[name](shuffled), scores[order])
    np.testing.assert_allclose(micro(scores[order]), micro(scores), atol=1e-15)
    np.testing.assert_allclose(macro(scores[order], classes[order]), macro(scores, classes), atol=1e-15)


@pytest.mark.parametrize("name", sorted(METRICS))
@given(gains=rankings(), tail=st.integers(1, 5))
def test_metric__irrelevant_tail_changes_no_earlier_cutoff_and_only_precisions_later(name, gains, tail):
    ideal = np.pad(gains.ideal, ((0, 0), (0, tail)))
    hits, grades = (np.pad(part, ((0, 0), (0, tail))) for part in (gains.hits, gains.grades))
    before, after = METRICS[name](gains), METRICS[name](Gains(hits, gains.relevant, grades, ideal))
    np.testing.assert_array_equal(after[:, : gains.depth], before)
    if name == "precision":
        np.testing.assert_allclose(after[:, -1], before[:, -1] * gains.depth / (gains.depth + tail))
    elif name != "majority_vote":  # the others divide by no more than the relevant images
        whole = gains.relevant <= gains.depth if name not in ("recall", "hit_rate", "mrr", "ndcg") else slice(None)
        np.testing.assert_array_equal(after[whole, -1], before[whole, -1])


@pytest.mark.parametrize("name", ["hit_rate", "recall", "mrr"])
@given(gains=rankings())
def test_metric__never_falls_as_the_cutoff_grows(name, gains):
    assert not (np.diff(METRICS[name](gains), axis=1) < 0).any()


@given(gains=rankings())
def test_precision_capped__is_precision_where_the_gallery_has_enough(gains):
    enough = gains.relevant[:, np.newaxis] >= gains.ranks
    np.testing.assert_array_equal(precision_capped(gains)[enough], precision(gains)[enough])
