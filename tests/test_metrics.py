"""The measures against tables worked by hand, a slow oracle, and what must hold for any ranking."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cbmir.errors import CutoffError, ProtocolError
from evaluate.metrics import METRICS, Gains, macro, micro, precision, precision_capped

# One row a query: the answer by rank (1 right, 0 wrong or missing), and how many right ones the gallery holds.
ANSWERS = Gains(
    np.array(
        [
            [1, 0, 1, 1, 0],  # many right ones in the gallery
            [1, 0, 0, 0, 1],  # two right ones, the second found at place 5
            [0, 0, 0, 0, 0],  # none in the gallery
            [1, 1, 0, 0, 0],  # three right ones, and the gallery ends after place 2
        ],
        np.float32,
    ),
    np.array([7, 2, 0, 3]),
)
NAN = math.nan


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, [1, 1, NAN, 1]),
        (2, [1 / 2, 1 / 2, NAN, 1]),
        (3, [2 / 3, 1 / 2, NAN, 2 / 3]),
        (4, [3 / 4, 1 / 2, NAN, 2 / 3]),
        (5, [3 / 5, 1 / 2, NAN, 2 / 3]),
    ],
)
def test_precision_capped__by_hand(k, expected):
    np.testing.assert_allclose(precision_capped(ANSWERS, k), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, [1, 1, 0, 1]),
        (2, [1 / 2, 1 / 2, 0, 1]),
        (3, [2 / 3, 1 / 3, 0, 2 / 3]),
        (4, [3 / 4, 1 / 4, 0, 1 / 2]),
        (5, [3 / 5, 2 / 5, 0, 2 / 5]),
    ],
)
def test_precision__by_hand(k, expected):
    np.testing.assert_allclose(precision(ANSWERS, k), expected, rtol=0, atol=1e-15)


def test_micro__leaves_out_queries_without_a_value():
    assert micro(np.array([1.0, 0.5, NAN, 0.0])) == 0.5
    assert math.isnan(micro(np.array([NAN])))


def test_macro__is_the_mean_of_class_means():
    scores = np.array([1.0, 0.0, 0.5, NAN, NAN])
    classes = np.array([4, 4, 2, 2, 0], np.int32)  # class 0 has no value at all, classes 1 and 3 no query
    assert macro(scores, classes) == pytest.approx((0.5 + 0.5) / 2)
    assert macro(np.array([1.0, 1.0, 1.0, 0.0]), np.array([0, 0, 0, 1], np.int32)) == 0.5
    assert math.isnan(macro(np.array([NAN]), np.array([3], np.int32)))


@pytest.mark.parametrize("name", sorted(METRICS))
@pytest.mark.parametrize("k", [0, 6])
def test_metric__refuses_a_cutoff_that_was_not_retrieved(name, k):
    with pytest.raises(CutoffError, match=f"{name} at {k} needs a cutoff in 1 to 5"):
        METRICS[name](ANSWERS, k)


def test_gains__refuses_shapes_that_do_not_fit():
    with pytest.raises(ProtocolError, match="met counts of shape"):
        Gains(np.zeros((2, 5), np.float32), np.zeros(3, np.int64))


@st.composite
def rankings(draw):
    queries, depth = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    gains = draw(arrays(np.float32, (queries, depth), elements=st.sampled_from([0.0, 1.0])))
    missed = draw(arrays(np.int64, queries, elements=st.integers(0, 5)))
    return Gains(gains, gains.sum(axis=1).astype(np.int64) + missed)


@pytest.mark.parametrize("name", sorted(METRICS))
@given(gains=rankings(), data=st.data())
def test_metric__lies_in_0_to_1_or_is_undefined_where_nothing_is_relevant(name, gains, data):
    scores = METRICS[name](gains, data.draw(st.integers(1, gains.depth)))
    assert scores.shape == gains.relevant.shape
    assert not (np.isnan(scores) & (gains.relevant > 0)).any()
    valued = scores[~np.isnan(scores)]
    assert ((valued >= 0) & (valued <= 1)).all()


@pytest.mark.parametrize("name", sorted(METRICS))
@given(gains=rankings(), data=st.data())
def test_metric__order_of_queries_changes_nothing(name, gains, data):
    k = data.draw(st.integers(1, gains.depth))
    order = np.array(data.draw(st.permutations(range(len(gains.relevant)))))
    classes = np.arange(len(order), dtype=np.int32) % 3
    scores = METRICS[name](gains, k)
    shuffled = METRICS[name](Gains(gains.gains[order], gains.relevant[order]), k)
    np.testing.assert_array_equal(shuffled, scores[order])
    np.testing.assert_allclose(micro(shuffled), micro(scores), atol=1e-15)
    np.testing.assert_allclose(macro(shuffled, classes[order]), macro(scores, classes), atol=1e-15)


@pytest.mark.parametrize("name", sorted(METRICS))
@given(gains=rankings(), tail=st.integers(1, 5), data=st.data())
def test_metric__irrelevant_tail_changes_nothing(name, gains, tail, data):
    k = data.draw(st.integers(1, gains.depth))
    longer = Gains(np.pad(gains.gains, ((0, 0), (0, tail))), gains.relevant)
    np.testing.assert_array_equal(METRICS[name](longer, k), METRICS[name](gains, k))


@given(gains=rankings(), data=st.data())
def test_precision_capped__is_precision_where_the_gallery_has_enough(gains, data):
    k = data.draw(st.integers(1, gains.depth))
    enough = gains.relevant >= k
    np.testing.assert_array_equal(precision_capped(gains, k)[enough], precision(gains, k)[enough])
