"""Intervals and tests over patients, against scipy, slow loops, enumeration, and simulations whose truth is known."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from benchmarks.coverage import alarms
from benchmarks.coverage import sample as coverage_sample
from cbmir.errors import ProtocolError
from cbmir.evaluate import significance
from cbmir.evaluate.intervals import (
    METHODS,
    Interval,
    Spread,
    closed_form,
    effective,
    percentile_interval,
    resampled,
    wilson,
)
from cbmir.evaluate.metrics import macro, micro
from cbmir.evaluate.significance import Resampler, holm, intervals, least_draws, paired_test, tally

NAN = np.nan
ALONE = np.full(300, -1)


def simulated(patients=40, images=5, columns=300):
    """Scores of which 80% of the variance lies between patients, a trial a column, and the patient of each query."""
    draw = np.random.default_rng(11)
    effects = np.repeat(draw.normal(0, 2, (patients, columns)), images, axis=0)
    return effects + draw.normal(0, 1, effects.shape), np.repeat(np.arange(patients), images)


def covered(interval, truth=0.0):
    """Share of the columns whose interval holds the truth."""
    return np.mean((interval.low <= truth) & (truth <= interval.high))


def test_resampler__numbers_clusters_and_keeps_those_without_a_code_apart():
    resampler = Resampler(np.array([7, -1, 7, 2, -1, -5], np.int32))
    assert resampler.count == 5
    assert sorted(set(resampler.codes.tolist())) == [0, 1, 2, 3, 4]
    assert resampler.codes[0] == resampler.codes[2]
    assert resampler.codes.dtype == np.int64


def test_resampler__draws_as_many_clusters_as_there_are_and_repeats_itself():
    resampler = Resampler(np.arange(50) // 2, draws=1000, seed=3)
    counts = np.concatenate(list(resampler.blocks()))
    assert counts.shape == (1000, 25)
    assert counts.dtype == np.float32
    assert (counts.sum(axis=1) == 25).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.15)  # five standard errors
    np.testing.assert_allclose(counts.var(axis=0), 24 / 25, atol=0.3)
    np.testing.assert_array_equal(counts, np.concatenate(list(resampler.blocks())))
    other = Resampler(np.arange(50) // 2, draws=1000, seed=4)
    assert (counts != np.concatenate(list(other.blocks()))).any()


def test_resampler__draws_do_not_depend_on_the_block(monkeypatch):
    resampler = Resampler(np.arange(9), draws=100)
    whole = list(resampler.blocks())
    monkeypatch.setattr(significance, "BLOCK_CELLS", 70)
    parts = list(resampler.blocks())
    assert (len(whole), len(parts)) == (1, 15)
    np.testing.assert_array_equal(np.concatenate(parts), whole[0])


def test_resampler__flips_each_cluster_half_the_time():
    resampler = Resampler(np.arange(13), draws=2000)
    flips = np.concatenate(list(resampler.flips()))
    assert flips.shape == (2000, 13)
    np.testing.assert_allclose(flips.mean(axis=0), 0.5, atol=0.06)
    np.testing.assert_array_equal(flips, np.concatenate(list(resampler.flips())))


def test_percentile_interval__leaves_out_draws_without_a_value():
    values = np.full((101, 3), NAN)
    values[:, 0] = np.random.default_rng(0).permutation(101)
    values[:41, 1] = np.arange(41)
    low, high = percentile_interval(values)
    np.testing.assert_allclose(low, [2.5, 1, NAN])
    np.testing.assert_allclose(high, [97.5, 39, NAN])


def test_intervals__equal_those_of_a_slow_loop():
    draw = np.random.default_rng(5)
    patients, classes = draw.integers(-1, 12, 60), draw.integers(0, 6, 60)
    scores = draw.random((60, 3))
    scores[draw.random((60, 3)) < 0.2] = NAN
    scores[classes == 4, 1] = NAN
    resampler = Resampler(patients, draws=200, seed=1, method="percentile")
    micros, macros = [], []
    whole = pd.DataFrame(scores).groupby(classes).mean()
    for counts in np.concatenate(list(resampler.blocks())):
        queries = np.repeat(np.arange(60), counts[resampler.codes].astype(int))
        frame = pd.DataFrame(scores[queries])
        micros.append(frame.mean())
        means = frame.groupby(classes[queries]).mean().reindex(whole.index)
        macros.append(means.fillna(whole).mean())  # a class that a draw lacks keeps its mean
    for interval, values in zip(intervals(scores, classes, resampler), (micros, macros), strict=True):
        np.testing.assert_allclose(interval.low, np.percentile(values, 2.5, axis=0), atol=1e-6)
        np.testing.assert_allclose(interval.high, np.percentile(values, 97.5, axis=0), atol=1e-6)


def test_intervals__of_lone_queries_equal_those_of_scipy():
    scores = np.random.default_rng(2).beta(2, 1, (300, 2))
    ours, _ = intervals(scores, np.zeros(300, np.int32), Resampler(ALONE, method="percentile"))
    theirs = stats.bootstrap((scores,), np.mean, method="percentile", n_resamples=9999, rng=1, batch=1000)
    width = ours.high - ours.low
    np.testing.assert_array_less(np.abs(ours.low - theirs.confidence_interval.low), 0.05 * width)
    np.testing.assert_array_less(np.abs(ours.high - theirs.confidence_interval.high), 0.05 * width)


def test_intervals__hold_the_truth_19_times_in_20_only_if_patients_are_drawn():
    scores, patients = simulated()
    classes = np.arange(len(scores)) % 4
    by_patient, by_image = Resampler(patients, draws=1000), Resampler(np.full(len(scores), -1), draws=1000)
    for interval in intervals(scores, classes, by_patient):
        assert 0.90 <= covered(interval) <= 0.98
    for interval in intervals(scores, classes, by_image):
        assert covered(interval) < 0.75


def test_intervals__need_two_patients():
    scores = np.array([[0.5, 0.1, NAN], [1.0, NAN, NAN], [0.0, 0.3, NAN], [0.25, NAN, NAN]])
    classes = np.array([0, 0, 1, 1])
    for interval in intervals(scores, classes, Resampler(np.array([1, 2, 1, 2]), draws=500)):
        assert np.isfinite(interval.low[0])
        assert interval.low[0] < interval.high[0]
        assert np.isnan(interval.low[1:]).all()  # the values of the second column are all of one patient
    own_class = intervals(scores, np.array([0, 1, 0, 1]), Resampler(np.array([1, 2, 1, 2]), draws=500))[1]
    assert own_class.low[0] < 0.4375 < own_class.high[0]  # each class is one patient, whose resamples are all alike
    for interval in intervals(scores, classes, Resampler(np.full(4, 6))):
        assert np.isnan([interval.low, interval.high]).all()
    for interval in intervals(scores[:0], classes[:0], Resampler(classes[:0])):
        assert np.isnan([interval.low, interval.high]).all()


def test_intervals__of_equal_scores_have_no_width():
    scores, classes = np.tile([0.1, 1.0, 1 / 3], (30, 1)), np.arange(30) % 4
    for interval in intervals(scores, classes, Resampler(np.arange(30) // 2, draws=200)):
        np.testing.assert_allclose([interval.low, interval.high], [scores[0]] * 2, rtol=0, atol=1e-15)


def test_intervals__without_draws_are_undefined():
    for interval in intervals(np.eye(4), np.zeros(4, np.int32), Resampler(np.arange(4), draws=0)):
        assert np.isnan([interval.low, interval.high]).all()


def test_intervals__hold_a_macro_mean_of_which_rare_classes_are_the_low_ones():
    """Thirteen classes, nine of a single query that finds nothing, as in an archive with rare findings."""
    draw = np.random.default_rng(3)
    classes = np.concatenate([np.repeat(np.arange(4), 50), np.arange(4, 13)])
    scores = np.concatenate([draw.random(200), np.zeros(9)])[:, np.newaxis]
    patients = np.concatenate([np.arange(200) // 20, 10 + np.arange(9)])
    _, interval = intervals(scores, classes, Resampler(patients, draws=2000))
    mean = macro(scores, classes)
    assert interval.low < mean < interval.high
    assert interval.low >= 0


@pytest.mark.parametrize("method", ["percentile", "expanded", "bca"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_intervals__of_balanced_classes_are_the_same_micro_and_macro(seed, method):
    """Where every patient has each class equally often, both means are the same in every draw."""
    scores = np.random.default_rng(5).random((120, 2))
    classes, patients = np.arange(120) % 3, np.arange(120) // 12
    both = intervals(scores, classes, Resampler(patients, 500, seed, method))
    np.testing.assert_allclose(both[0].low, both[1].low, rtol=0, atol=1e-6)
    np.testing.assert_allclose(both[0].high, both[1].high, rtol=0, atol=1e-6)


def test_intervals__of_several_classes_do_not_depend_on_their_order():
    rng = np.random.default_rng(6)
    scores, patients = rng.random((50, 2)), np.arange(50) // 2
    flags = rng.random((50, 4)) < 0.4
    owners, codes = np.nonzero(flags)
    ours = intervals(scores, codes, Resampler(patients, 300), owners)
    shuffled = rng.permutation(len(owners))
    theirs = intervals(scores, codes[shuffled], Resampler(patients, 300), owners[shuffled])
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.low, other.low, rtol=0, atol=1e-6)
    alone = intervals(scores, np.zeros(50, int), Resampler(patients, 300))[0]
    np.testing.assert_array_equal(ours[0].low, alone.low)  # the micro mean takes each query once


def test_intervals__stay_in_the_range_of_the_scores():
    scores = np.repeat([[1.0], [1.0], [0.0]], [400, 400, 1], axis=0)
    for interval in intervals(scores, np.arange(801) % 7, Resampler(np.full(801, -1), 500)):
        assert interval.high[0] <= 1


def test_intervals__of_rare_classes_hold_their_macro_mean():
    """Twenty classes of two or three patients each: plain percentiles are far too narrow."""
    rng = np.random.default_rng(7)
    own = np.concatenate([np.arange(20), rng.integers(20, size=30)])
    patients = np.repeat(np.arange(50), 4)
    effects = rng.normal(0.5, 0.15, (50, 300))
    scores = effects[patients] + rng.normal(0, 0.05, (200, 300))
    by_method = {
        method: covered(intervals(scores, own[patients], Resampler(patients, 500, method=method))[1], 0.5)
        for method in ("percentile", "expanded")
    }
    assert by_method["percentile"] < 0.88
    assert 0.92 < by_method["expanded"] < 0.99


def test_spread__by_hand():
    """Two classes: one of clusters 0 and 1, whose ratios are 0 and 1; one of cluster 2 alone, of ratio 1."""
    ones = np.ones((2, 1))
    parts = [(np.array([0, 1]), np.array([[0.0], [1.0]]), ones), (np.array([2]), ones[:1], ones[:1])]
    spread = Spread.of(parts, 3, 1)
    # class one: residuals -1/4 and 1/4, times sqrt(2); class two: 1 less the mean of 1/2 and 1
    squares = 2 * (np.sqrt(2) / 4) ** 2 + (1 - 0.75) ** 2
    assert spread.error[0] == pytest.approx(np.sqrt(squares) / 2)
    assert spread.factor[0] == pytest.approx(np.sqrt(squares / (2 / 16)) / np.sqrt(3 / 2))
    assert spread.clusters[0] == 2  # (1/4 + 1/16)^2 / (1/16 + 1/256) is 1.47 degrees of freedom: one


def test_resampled__bca_equals_that_of_scipy():
    scores = np.random.default_rng(2).beta(5, 1, (40, 1))
    ours, _ = intervals(scores, np.zeros(40, np.int32), Resampler(np.full(40, -1), 20_000, method="bca"))
    theirs = stats.bootstrap((scores[:, 0],), np.mean, method="BCa", n_resamples=20_000, rng=1).confidence_interval
    width = ours.high[0] - ours.low[0]
    assert abs(ours.low[0] - theirs.low) < 0.03 * width
    assert abs(ours.high[0] - theirs.high) < 0.03 * width


def test_resampled__expanded_by_hand():
    """Of five clusters: t of 4 degrees of freedom is 2.776445, times sqrt(5 / 4) is 3.104160; the tail .000954."""
    values = np.linspace(0, 1, 100_001)[:, np.newaxis]
    found = resampled(values, np.array([5]), "expanded")
    tail = stats.norm.sf(stats.t.ppf(0.975, 4) * np.sqrt(5 / 4))
    assert tail == pytest.approx(0.000954, abs=1e-6)
    np.testing.assert_allclose([found.low[0], found.high[0]], [tail, 1 - tail], atol=1e-9)


def test_wilson__equals_that_of_statistics_programs():
    """Wilson's interval as scipy has it, where t is the normal distribution: many clusters."""
    for hits, n in ((0, 10), (3, 10), (10, 10), (45, 60)):
        found = wilson(np.array([hits / n]), np.array([float(n)]), np.array([10_000_000]))
        theirs = stats.binomtest(hits, n).proportion_ci(method="wilson")
        np.testing.assert_allclose([found.low[0], found.high[0]], [theirs.low, theirs.high], atol=1e-6)


def test_intervals__wilson_of_what_is_right_or_wrong():
    rng = np.random.default_rng(2)
    scores = np.stack([rng.random(60) < 0.8, rng.random(60)], axis=1).astype(float)
    scores[:4, 0] = NAN
    classes = np.arange(60) % 3
    ours = intervals(scores, classes, Resampler(np.full(60, -1), 300, method="wilson"))
    others = intervals(scores, classes, Resampler(np.full(60, -1), 300, method="expanded"))
    right = int(np.nansum(scores[:, 0]))
    expected = wilson(np.array([right / 56]), np.array([56.0]), np.array([56]))
    assert (ours[0].low[0], ours[0].high[0]) == pytest.approx((expected.low[0], expected.high[0]))
    assert ours[0].low[1] == others[0].low[1]  # not right or wrong
    np.testing.assert_array_equal(ours[1].low, others[1].low)
    perfect = intervals(np.ones((8, 1)), np.zeros(8, int), Resampler(np.arange(8), 100, method="wilson"))[0]
    assert perfect.low[0] < 0.7
    assert perfect.high[0] == 1


def test_effective__is_the_count_of_patients_where_images_of_one_are_all_alike():
    hits = np.array([[4.0], [0], [4], [0], [4], [0]])
    n, clusters = effective(hits, np.full((6, 1), 4.0))
    assert n[0] == pytest.approx(24 / (6 / 5 * 6 * 4 / (24 * 0.25)))  # sums of squares by hand: design effect 4.8
    assert clusters[0] == 6
    single, _ = effective(np.array([[1.0], [0], [1]]), np.ones((3, 1)))
    assert single[0] == 3  # independent images are taken as they are
    sure, _ = effective(np.full((6, 1), 4.0), np.full((6, 1), 4.0))
    assert sure[0] == 6  # all right: patients, not images


def test_closed_form__of_a_perfect_figure_has_a_width():
    found = closed_form(np.array([1.0, 0.0]), np.zeros((8, 2)), np.array([8, 8]))
    exact = stats.binomtest(8, 8).proportion_ci(method="exact")
    np.testing.assert_allclose([found.low[0], found.high[0]], [exact.low, 1], atol=1e-12)
    np.testing.assert_allclose([found.low[1], found.high[1]], [0, 1 - exact.low], atol=1e-12)


def test_interval__is_cut_and_widened():
    found = Interval(np.array([-1e-9, 0.5]), np.array([1 + 1e-9, 0.6])).within(0, 1).holding(np.array([0.7, 0.4]))
    np.testing.assert_array_equal(found.low, [0, 0.4])
    np.testing.assert_array_equal(found.high, [1, 0.6])


def test_intervals__hold_the_means():
    draw = np.random.default_rng(8)
    scores, classes = draw.random((200, 4)), draw.integers(0, 9, 200)
    for interval, mean in zip(
        intervals(scores, classes, Resampler(draw.integers(0, 70, 200), draws=1000)),
        (micro(scores), macro(scores, classes)),
        strict=True,
    ):
        assert ((interval.low < mean) & (mean < interval.high)).all()


def test_paired_test__of_lone_queries_equals_that_of_scipy():
    draw = np.random.default_rng(4)
    first = draw.random((12, 3))
    second = first + draw.normal([0, 0.05, 0.2], 0.1, (12, 3))
    theirs = stats.permutation_test(
        (first, second), lambda a, b, axis: np.mean(a - b, axis=axis), permutation_type="samples", n_resamples=9999
    )  # enumerates all 4096
    ours = paired_test(first, second, Resampler(np.full(12, -1)))
    np.testing.assert_allclose(ours.difference, (first - second).mean(axis=0))
    np.testing.assert_allclose(ours.p, theirs.pvalue, atol=0.02)  # four standard errors
    np.testing.assert_array_equal(ours.n, 12)


@pytest.mark.parametrize("by_class", [False, True])
def test_paired_test__equals_the_enumeration_of_all_swaps_of_patients(by_class):
    draw = np.random.default_rng(9)
    patients, classes = draw.integers(0, 8, 40), 2 * draw.integers(0, 5, 40)  # no query has an odd class
    first, second = draw.random((2, 40, 2))
    first += 0.1
    first[3], second[5, 0] = NAN, NAN
    used = ~np.isnan(first - second)

    def difference(column, flipped):
        rows = used[:, column]
        gaps = np.where(flipped[patients], second - first, first - second)[rows, column]
        return pd.Series(gaps).groupby(classes[rows]).mean().mean() if by_class else gaps.mean()

    resampler = Resampler(patients, draws=20_000)
    comparison = paired_test(first, second, resampler, classes if by_class else None)
    swaps = [np.array(flips)[:, np.newaxis] for flips in itertools.product([False, True], repeat=8)]
    for column in range(2):
        observed = difference(column, np.zeros((8, 1), np.bool_))
        differences = np.abs([difference(column, flips) for flips in swaps])
        assert comparison.difference[column] == pytest.approx(observed)
        assert comparison.p[column] == pytest.approx(np.mean(differences >= abs(observed) - 1e-12), abs=0.015)
    np.testing.assert_array_equal(comparison.n, used.sum(axis=0))


def test_paired_test__raises_false_alarms_unless_patients_are_swapped():
    scores, patients = simulated()
    zeros = np.zeros_like(scores)
    assert np.mean(paired_test(scores, zeros, Resampler(patients, draws=999)).p <= 0.05) <= 0.09
    assert np.mean(paired_test(scores, zeros, Resampler(np.full(len(scores), -1), draws=999)).p <= 0.05) > 0.25


def test_paired_test__of_equal_or_no_scores():
    scores = np.array([[0.5, NAN], [0.1, NAN], [0.9, 0.3]])
    comparison = paired_test(scores, scores[:, [0, 0]] * [1, NAN], Resampler(np.arange(3), draws=99))
    np.testing.assert_array_equal(comparison.difference, [0, NAN])
    np.testing.assert_array_equal(comparison.p, [1, NAN])
    np.testing.assert_array_equal(comparison.n, [3, 0])


def test_paired_test__counts_ties_whatever_the_rounding():
    second = np.linspace(0.01, 0.87, 15)[:, np.newaxis]
    first = second + np.array([0.1] * 11 + [-0.1] * 4)[:, np.newaxis]  # a sign test: 11 of 15
    comparison = paired_test(first, second, Resampler(np.arange(15)))
    assert comparison.p[0] == pytest.approx(stats.binomtest(11, 15).pvalue, abs=0.015)


def test_paired_test__finds_the_smallest_p_it_can():
    comparison = paired_test(np.ones((60, 1)), np.zeros((60, 1)), Resampler(np.arange(60), draws=999))
    np.testing.assert_allclose(comparison.p, 1 / 1000)


scored = arrays(np.float64, (6, 2), elements=st.sampled_from([0, 0.1, 0.3, 0.7, 1]) | st.just(NAN))


@given(first=scored, second=scored)
def test_paired_test__is_symmetric(first, second):
    resampler = Resampler(np.array([0, 0, 1, 2, 2, 3]), draws=50)
    forth, back = paired_test(first, second, resampler), paired_test(second, first, resampler)
    np.testing.assert_allclose(forth.difference, -back.difference, atol=1e-15)
    np.testing.assert_array_equal(forth.p, back.p)
    assert ((forth.p >= 1 / 51) & (forth.p <= 1) | (forth.n == 0)).all()


def test_holm__by_hand():
    # In rising order times 4, 3, 2, 1: .02, .03, .06, .04; none may lie below the one before.
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, NAN, 0.03, 0.005])), [0.03, 0.06, NAN, 0.06, 0.02])
    np.testing.assert_array_equal(holm(np.array([0.6, 0.5])), [1, 1])
    assert holm(np.zeros(0)).shape == (0,)


@given(p=arrays(np.float64, st.integers(1, 8), elements=st.floats(0, 1)), level=st.floats(0.001, 0.5))
def test_holm__rejects_what_the_step_down_procedure_rejects(p, level):
    rejected = set()
    for left, test in zip(range(len(p), 0, -1), np.argsort(p), strict=True):
        if p[test] * left > level:
            break
        rejected.add(int(test))
    assert set(np.flatnonzero(holm(p) <= level).tolist()) == rejected


def test_holm__counts_rows_of_one_test_once():
    p = np.array([0.01, 0.01, 0.04, NAN])
    np.testing.assert_allclose(holm(p, [1, 1, 2, 3]), [0.02, 0.02, 0.04, NAN])
    np.testing.assert_allclose(holm(p), [0.03, 0.03, 0.04, NAN])


def test_paired_test__keys_tell_rows_of_one_test():
    rng = np.random.default_rng(1)
    first, second, classes = rng.random((60, 2)), rng.random((60, 2)), np.arange(60) % 3
    resampler = Resampler(np.arange(60) // 3, 50)
    micros, macros = paired_test(first, second, resampler), paired_test(first, second, resampler, classes)
    assert micros.keys == macros.keys  # classes are equally frequent
    assert len(set(micros.keys)) == 2
    other = paired_test(first, second, resampler, rng.integers(0, 3, 60))
    assert not set(other.keys) & set(micros.keys)


@pytest.mark.parametrize(("tests", "draws"), [(1, 19), (3, 59), (600, 11_999), (0, 0)])
def test_least_draws__the_smallest_p_reaches_the_level(tests, draws):
    assert least_draws(tests) == draws
    if tests:
        assert tests / (draws + 1) <= 0.05 + 1e-12 < tests / draws


def test_tally__by_hand():
    first = np.array([[1, 0.5], [0.5, NAN], [0, 0.5], [0.1 + 0.2, 1]])
    second = np.array([[0, 0.5], [0.5, 0.5], [0.25, NAN], [0.3, 0]])  # .1 + .2 is not quite .3
    counts = tally(first, second)
    np.testing.assert_array_equal(counts.wins, [1, 1])
    np.testing.assert_array_equal(counts.ties, [2, 1])
    np.testing.assert_array_equal(counts.losses, [1, 0])


def test_significance__refuses_other_queries():
    resampler, scores, classes = Resampler(np.arange(4)), np.zeros((4, 2)), np.zeros(4, np.int32)
    with pytest.raises(ProtocolError, match="met the clusters of 4 queries"):
        intervals(scores[:3], classes, resampler)
    with pytest.raises(ProtocolError, match="met the clusters of 4 queries"):
        intervals(scores, classes[:3], resampler)
    with pytest.raises(ProtocolError, match="met the clusters of 4 queries"):
        paired_test(scores[:, 0], scores[:, 0], resampler)
    with pytest.raises(ProtocolError, match="can't be compared"):
        paired_test(scores, scores[:, :1], resampler)


def test_alarms__at_most_the_level_without_a_difference():
    """The simulation behind the table of the documentation, with fewer samples."""
    found = {(item.patients, item.average, item.effect): item.found for item in alarms(500, 200)}
    assert all(value < 0.085 for (_, _, effect), value in found.items() if not effect)  # .05 and 3.5 standard errors
    assert found[50, "micro", 0.5] > 0.6


def test_coverage__counts_what_each_method_holds():
    """The simulation behind the table of the documentation, of one kind only."""
    rng = np.random.default_rng(1)
    found = {key: (interval, truth) for key, interval, truth in coverage_sample(rng, 20, 2, 200)}
    assert {method for name, method in found if name == "mean over queries"} == set(METHODS)
    for (name, _), (interval, truth) in found.items():
        held = np.mean((interval.low <= truth) & (truth <= interval.high))
        assert held > 0.8, name
