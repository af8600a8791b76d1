"""The kNN vote and its figures: tables worked by hand, scikit-learn on the same votes, and what must always hold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)
from sklearn.neighbors import KNeighborsClassifier

from cbmir.errors import CutoffError, ProtocolError
from cbmir.evaluate.analyses.classification.assessment import (
    ACCURACY,
    AREAS,
    COUNTED,
    EXACT_MATCH,
    Cohort,
    LabelFigures,
    assess,
    label_figures,
    named,
)
from cbmir.evaluate.analyses.classification.knn import Asked, VoteRules, choose_k, classify
from cbmir.evaluate.analyses.classification.roc import curve
from cbmir.evaluate.analyses.classification.votes import (
    NONE,
    TEMPERATURE,
    VOTES,
    Ballots,
    Labels,
    Verdicts,
    micro_f1,
    predict,
    predictions,
    shares,
)
from cbmir.evaluate.significance import Resampler, percentile_interval

EVERYTHING = slice(None)
CUTOFFS = (1, 2, 3, 8, 17, 40)
SCORERS = {"f1": f1_score, "precision": precision_score, "recall": recall_score}

# Six gallery images of classes 0, 0, 1, 1, 2 and one without a label.
GALLERY = Labels(np.array([0, 0, 1, 1, 2, NONE], np.int32), 3)
PLACES = np.array(
    [
        [0, 2, 3, 1],  # 0 leads, a tie of 0 and 1 that 0 met first, 1 leads, a tie again: 0
        [2, 0, 1, 4],  # 1 leads, a tie that 1 met first, 0 leads to the end
        [5, 4, NONE, NONE],  # nobody, then 2
        [NONE, NONE, NONE, NONE],  # nobody at all
    ]
)
COSINES = np.where(PLACES == NONE, np.nan, [0.9, 0.8, 0.7, 0.6])


def _ballots(places, cosines, labels=GALLERY, **terms):
    return Ballots(places=places, cosines=cosines, labels=labels, **terms)


def _each_k(ballots):
    return np.array([item.copy() for item in predictions(ballots, EVERYTHING)])


def _scene(seed, several=False, queries=90):
    """Clustered vectors: places and cosines of the 40 nearest, by scikit-learn, and the classes of both sides."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, 5))
    sides = []
    for size in (150, queries):
        classes = rng.integers(6, size=size)
        vectors = centres[classes] + rng.normal(size=(size, 5)) * 1.2
        labels = classes.astype(np.int32)
        if several:
            labels = rng.random((size, 6)) < 0.25
            labels[np.arange(size), classes] = True
        sides.append((vectors, labels))
    (gallery, known), (asked, truth) = sides
    model = KNeighborsClassifier(40, algorithm="brute", metric="cosine").fit(gallery, known)
    distances, places = model.kneighbors(asked)
    coded = [Labels.of_matrix(item) if several else Labels(item, 6) for item in (known, truth)]
    return model, asked, places, 1 - distances, *coded


def test_predictions__by_hand():
    expected = [[0, 1, NONE, NONE], [0, 1, 2, NONE], [1, 0, 2, NONE], [0, 0, 2, NONE]]
    np.testing.assert_array_equal(_each_k(_ballots(PLACES, COSINES)), expected)


def test_predictions__ties_to_the_lowest_class_by_hand():
    expected = [[0, 1, NONE, NONE], [0, 0, 2, NONE], [1, 0, 2, NONE], [0, 0, 2, NONE]]
    np.testing.assert_array_equal(_each_k(_ballots(PLACES, COSINES, ties="lowest")), expected)


def test_predictions__of_images_with_several_classes_by_hand():
    gallery = Labels.of_matrix(np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]], bool))
    ballots = _ballots(np.array([[0, 1, 2], [3, 2, NONE]]), np.array([[0.9, 0.8, 0.7], [0.9, 0.8, np.nan]]), gallery)
    expected = [
        [[1, 1, 0], [0, 0, 0]],  # the first neighbour of the second query has no label
        [[1, 1, 0], [0, 0, 1]],  # half of the votes is enough
        [[1, 0, 0], [0, 0, 1]],
    ]
    np.testing.assert_array_equal(_each_k(ballots), np.array(expected, bool))


def test_shares__leave_missing_and_unlabelled_neighbours_out():
    expected = [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0], [0, 0, 1], [0, 0, 0]]
    np.testing.assert_allclose(shares(_ballots(PLACES, COSINES), 3), expected, atol=1e-15)


def test_shares__softmax_by_hand():
    weights = np.exp(np.array([0.9, 0.8, 0.7]) / TEMPERATURE)
    result = shares(_ballots(PLACES, COSINES, vote="softmax"), 3)
    np.testing.assert_allclose(result[0], [weights[0], weights[1] + weights[2], 0] / weights.sum(), rtol=1e-12)
    np.testing.assert_array_equal(result[2:], [[0, 0, 1], [0, 0, 0]])


def test_micro_f1__counts_a_query_without_a_vote_as_wrong():
    truth = Labels(np.array([0, 0, 2, 1], np.int32), 3)
    np.testing.assert_allclose(micro_f1(_ballots(PLACES, COSINES), truth), [1 / 4, 2 / 4, 2 / 4, 3 / 4])


@pytest.mark.parametrize("vote", VOTES)
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("k", CUTOFFS)
def test_votes__as_scikit_learn(k, several, vote):
    model, asked, places, cosines, known, _ = _scene(3, several)
    weights = "uniform" if vote == "mean" else lambda distances: np.exp((1 - distances) / TEMPERATURE)
    model.set_params(n_neighbors=k, weights=weights)
    ballots = _ballots(places, cosines, known, vote=vote, ties="lowest")
    theirs = model.predict_proba(asked)
    if several:
        theirs = np.stack([item[:, 1] for item in theirs], axis=1)
    np.testing.assert_allclose(shares(ballots, k), theirs, rtol=0, atol=1e-12)
    expected = theirs >= 0.5 if several else model.predict(asked)
    np.testing.assert_array_equal(predict(ballots, k), expected)


@pytest.mark.parametrize("several", [False, True])
def test_predict__is_the_same_in_blocks_of_queries(several, monkeypatch):
    _, _, places, cosines, known, truth = _scene(4, several)
    ballots = _ballots(places, cosines, known)
    whole, scores, votes = predict(ballots, 9), micro_f1(ballots, truth), shares(ballots, 9)
    monkeypatch.setattr("cbmir.evaluate.analyses.classification.votes.CELLS", 50)  # seven queries a block
    np.testing.assert_array_equal(predict(ballots, 9), whole)
    np.testing.assert_array_equal(micro_f1(ballots, truth), scores)
    np.testing.assert_array_equal(shares(ballots, 9), votes)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_votes__properties(data):
    queries, depth, classes = (data.draw(st.integers(1, 6)) for _ in range(3))
    codes = np.array(data.draw(st.lists(st.integers(NONE, classes - 1), min_size=8, max_size=8)), np.int32)
    flat = data.draw(st.lists(st.integers(NONE, 7), min_size=queries * depth, max_size=queries * depth))
    order = np.array(data.draw(st.permutations(range(queries))))
    places = np.array(flat).reshape(queries, depth)
    cosines = -np.sort(-np.random.default_rng(0).uniform(-1, 1, places.shape), axis=1)
    ballots = _ballots(places, cosines, Labels(codes, classes), vote=data.draw(st.sampled_from(VOTES)))
    result = _each_k(ballots)
    shuffled = _ballots(places[order], cosines[order], ballots.labels, vote=ballots.vote)
    np.testing.assert_array_equal(_each_k(shuffled), result[:, order])
    np.testing.assert_array_equal(result[0], np.where(places[:, 0] == NONE, NONE, codes[places[:, 0]]))
    for k, predicted in enumerate(result, start=1):
        votes = shares(ballots, k)
        sums = votes.sum(axis=1)
        assert np.all(np.isclose(sums, 1) | (sums == 0))
        np.testing.assert_array_equal(predicted == NONE, sums == 0)
        chosen = np.where(predicted == NONE, 0, predicted)
        np.testing.assert_allclose(votes[np.arange(queries), chosen], votes.max(axis=1), atol=1e-12)


def test_choose_k__takes_the_first_best():
    val = Asked(PLACES[:2], COSINES[:2], Labels(np.array([0, 0], np.int32), 3))
    choice = choose_k(GALLERY, val, VoteRules())
    np.testing.assert_array_equal(choice.scores, [0.5, 0.5, 0.5, 1])
    assert (choice.k, choice.best) == (4, 4)
    alike = Asked(PLACES[:1, :2], COSINES[:1, :2], Labels(np.array([0], np.int32), 3))
    assert choose_k(GALLERY, alike, VoteRules()).k == 1
    assert choose_k(GALLERY, None, VoteRules(k=3)).k == 3


def test_choose_k__paper_takes_one_less_and_never_tries_the_last():
    places = np.array([[2, 4, 0, 0]])  # the gallery has two images of class 0, so that two neighbours vote at most
    cosines = np.array([[0.9, 0.8, 0.7, 0.6]])
    truth = Labels(np.array([0], np.int32), 3)
    ours = choose_k(GALLERY, Asked(places, cosines, truth), VoteRules())
    np.testing.assert_array_equal(ours.scores, [0, 0, 0, 1])
    assert ours.k == 4
    paper = choose_k(GALLERY, Asked(places, cosines, truth), VoteRules(paper=True))
    np.testing.assert_array_equal(paper.scores, [0, 0, 0, 0])
    assert (paper.k, paper.best) == (1, 1)  # their program dies of k = 0
    late = Asked(np.array([[2, 0, 0, 0]]), cosines, truth)
    gallery = Labels(np.array([0, 0, 1, 0, 0], np.int32), 3)
    paper = choose_k(gallery, late, VoteRules(paper=True))
    np.testing.assert_array_equal(paper.scores, [0, 1, 1, 1])  # a tie at k = 2, and 0 is the lowest class
    assert (paper.k, paper.best) == (1, 2)
    last = Asked(np.array([[0, 2, 2]]), cosines[:, :3], Labels(np.array([1], np.int32), 3))
    gallery = Labels(np.array([0, 1, 1, 1], np.int32), 3)
    paper = choose_k(gallery, last, VoteRules(paper=True))
    np.testing.assert_array_equal(paper.scores, [0, 0, 1])
    assert (paper.k, paper.best) == (1, 1)


def test_classify__paper_cuts_the_vote_to_the_images_of_the_true_class():
    asked = Asked(np.array([[4, 0, 1, 2]]), np.array([[0.9, 0.8, 0.7, 0.6]]), Labels(np.array([2], np.int32), 3))
    plain = classify(GALLERY, asked, Cohort.plain(1), VoteRules(k=3))
    paper = classify(GALLERY, asked, Cohort.plain(1), VoteRules(k=3, paper=True))
    assert plain.verdicts.said.tolist() == [0]
    assert paper.verdicts.said.tolist() == [2]  # one image of class 2 in the gallery: one neighbour votes
    np.testing.assert_array_equal(paper.verdicts.scores, [[0, 0, 1]])


def test_classify__measures_on_test_with_the_k_of_val():
    _, _, places, cosines, known, truth = _scene(5)
    half = slice(0, 45), slice(45, None)
    val, test = (Asked(places[rows], cosines[rows], truth.take(rows)) for rows in half)
    result = classify(known, test, Cohort.plain(45), VoteRules(vote="softmax"), val)
    k = result.choice.k
    assert result.choice.scores[k - 1] == result.choice.scores.max() > result.choice.scores[: k - 1].max(initial=0)
    said = predict(_ballots(test.places, test.cosines, known, vote="softmax"), k)
    assert _values(result.assessment)["accuracy", "micro"] == accuracy_score(test.truth.codes, said)
    assert result.voteless == 0


def test_classify__counts_queries_without_a_vote():
    asked = Asked(PLACES, COSINES, Labels(np.array([0, 0, 2, 1], np.int32), 3))
    result = classify(GALLERY, asked, Cohort.plain(4), VoteRules(k=1))
    assert result.voteless == 2
    assert result.assessment.unanswered == 2
    values = _values(result.assessment)
    assert values["accuracy", "micro"] == values["f1", "micro"] == values["precision", "micro"] == 1 / 4
    assert values["precision", "macro"] == pytest.approx(1 / 3)  # class 0 said once and right, 1 wrong, 2 never
    np.testing.assert_array_equal(result.assessment.confusion.toarray(), [[1, 1, 0], [0, 0, 0], [0, 0, 0]])


def _values(assessment, group="all"):
    return {(item.measure, item.average): item.value for item in assessment.figures if item.group == group}


def _expected(truth, said, scores, weights=None):
    """All figures by scikit-learn; (n,) codes, or (n, classes) flags. The macro means are over the true classes."""
    flags = truth if truth.ndim == 2 else np.eye(scores.shape[1], dtype=bool)[truth]
    weights = np.ones(len(flags)) if weights is None else weights
    present = np.flatnonzero(weights @ flags > 0)
    terms = {"sample_weight": weights, "zero_division": 0}
    accuracy = EXACT_MATCH if np.ndim(truth) == 2 else ACCURACY  # of flags scikit-learn's is that of exact matches
    values = {(accuracy, "micro"): accuracy_score(truth, said, sample_weight=weights)}
    for name, scorer in SCORERS.items():
        values[name, "micro"] = scorer(truth, said, average="micro", **terms)
        values[name, "macro"] = scorer(truth, said, average="macro", labels=present, **terms)
    everyone = flags.any(axis=0) & ~flags.all(axis=0)
    both = everyone & (weights @ flags > 0) & (weights @ ~flags > 0)
    values["roc_auc", "micro"] = roc_auc_score(
        flags[:, everyone].ravel(), scores[:, everyone].ravel(), sample_weight=np.repeat(weights, everyone.sum())
    )
    values["roc_auc", "macro"] = np.mean(
        [roc_auc_score(flags[:, code], scores[:, code], sample_weight=weights) for code in np.flatnonzero(both)]
    )
    return values


def _truth(labels):
    return labels.codes if labels.members is None else labels.flags()


@pytest.mark.parametrize("vote", VOTES)
@pytest.mark.parametrize("several", [False, True])
def test_assess__as_scikit_learn(several, vote):
    _, _, places, cosines, known, truth = _scene(6, several)
    places[:3] = NONE  # queries without a vote
    result = classify(known, Asked(places, cosines, truth), Cohort.plain(90), VoteRules(k=12, vote=vote))
    expected = _expected(_truth(truth), result.verdicts.said, result.verdicts.scores)
    values = _values(result.assessment)
    assert list(values) == [(named([name], several)[0], average) for name, average in COUNTED + AREAS]
    for key, value in expected.items():
        assert values[key] == pytest.approx(value, rel=0, abs=1e-12), key
    assert result.voteless == 3
    if not several:
        answered = result.verdicts.said != NONE
        theirs = confusion_matrix(truth.codes[answered], result.verdicts.said[answered], labels=range(6))
        np.testing.assert_array_equal(result.assessment.confusion.toarray(), theirs)


def test_assess__scores_that_are_all_different_as_scikit_learn():
    rng = np.random.default_rng(8)
    truth = Labels(rng.integers(5, size=300).astype(np.int32), 5)
    scores = rng.random((300, 5)) + np.eye(5)[truth.codes] / 2
    said = scores.argmax(axis=1)
    values = _values(assess(Verdicts(truth, said, scores), Cohort.plain(300)))
    for key, value in _expected(truth.codes, said, scores).items():
        assert values[key] == pytest.approx(value, rel=0, abs=1e-12), key


@pytest.mark.parametrize("several", [False, True])
def test_assess__intervals_are_those_of_scikit_learn_on_every_draw(several):
    _, _, places, cosines, known, truth = _scene(7, several)
    patients = np.random.default_rng(1).integers(-1, 25, size=90)
    resampler = Resampler(patients, draws=40, seed=3)
    asked = Asked(places, cosines, truth)
    result = classify(known, asked, Cohort({}, np.ones(90, bool), resampler), VoteRules(k=12))
    draws = np.concatenate(list(resampler.blocks()))[:, resampler.codes]
    table = [_expected(_truth(truth), result.verdicts.said, result.verdicts.scores, weights) for weights in draws]
    for figure in result.assessment.figures:
        column = np.array([[row[figure.measure, figure.average]] for row in table])
        low, high = percentile_interval(column)
        assert (figure.low, figure.high) == pytest.approx((low[0], high[0]), rel=0, abs=1e-12), figure
        assert figure.low <= figure.value <= figure.high
    assert (result.assessment.draws, result.assessment.area_draws) == (40, 40)


def test_assess__leaves_out_draws_of_the_area_that_cost_too_much(monkeypatch):
    _, _, places, cosines, known, truth = _scene(7)
    cohort = Cohort({}, np.ones(90, bool), Resampler(np.arange(90), draws=50))
    monkeypatch.setattr("cbmir.evaluate.analyses.classification.assessment.EFFORT", 20_000)
    result = classify(known, Asked(places, cosines, truth), cohort, VoteRules(k=12)).assessment
    assert 2 < result.area_draws < 50 == result.draws
    assert all(not math.isnan(figure.low) for figure in result.figures)


def test_assess__groups():
    _, _, places, cosines, known, truth = _scene(9)
    ct = np.arange(90) < 30
    covered = np.arange(90) >= 15
    asked = Asked(places, cosines, truth)
    cohort = Cohort({"modality=CT": ct}, covered, Resampler(np.arange(90) // 30, draws=30))
    result = classify(known, asked, cohort, VoteRules(k=12))
    alone = classify(known, Asked(places[ct], cosines[ct], truth.take(ct)), Cohort.plain(30), VoteRules(k=12))
    assert _values(result.assessment, "modality=CT") == pytest.approx(_values(alone.assessment))
    figures = {figure.group: figure for figure in result.assessment.figures}
    assert (figures["all"].n, figures["all"].coverage) == (90, 75 / 90)
    assert (figures["modality=CT"].n, figures["modality=CT"].coverage) == (30, 0.5)
    assert math.isnan(figures["modality=CT"].low)  # one patient: no interval
    assert not math.isnan(figures["all"].low)
    row, figure = result.assessment.rows(12, "exact")[3], result.assessment.figures[3]
    assert (row.measure, row.average, row.group, row.k, row.search) == ("precision", "micro", "all", 12, "exact")
    assert (row.value, row.n, row.coverage, row.low, row.high) == (figure.value, 90, 75 / 90, figure.low, figure.high)


def test_assess__names_the_classes_that_have_no_curve():
    truth = Labels.of_matrix(np.array([[1, 1, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]], bool))
    scores = np.array([[0.9, 0.9, 0.1, 0.6], [0.2, 0.8, 0.1, 0.0], [0.1, 0.7, 0.1, 0.1]])
    result = assess(Verdicts(truth, scores >= 0.5, scores), Cohort.plain(3))
    assert (result.absent, result.universal, result.stray) == ((2, 3), (1,), (3,))
    values = _values(result)
    assert values["roc_auc", "macro"] == values["roc_auc", "micro"] == 0.5  # of class 0 alone
    assert values["recall", "macro"] == (1 / 2 + 1) / 2
    assert values["precision", "micro"] == 4 / 5
    assert values["exact_match_accuracy", "micro"] == 1 / 3
    assert result.confusion is None


def test_label_figures__as_scikit_learn():
    _, _, places, cosines, known, truth = _scene(6, True)
    verdicts = classify(known, Asked(places, cosines, truth), Cohort.plain(90), VoteRules(k=12)).verdicts
    names = [f"c{code}" for code in range(truth.classes)]
    flags, figures = truth.flags(), label_figures(verdicts, names)
    assert [item.label for item in figures] == names
    for code, item in enumerate(figures):
        true, said = flags[:, code], verdicts.said[:, code]
        assert (item.queries, item.said) == (true.sum(), said.sum())
        expected = [score(true, said, zero_division=0) for score in (precision_score, recall_score, f1_score)]
        expected.append(roc_auc_score(true, verdicts.scores[:, code]))
        assert (item.precision, item.recall, item.f1, item.roc_auc) == pytest.approx(tuple(expected), abs=1e-12)


def test_label_figures__of_a_label_that_no_query_or_every_query_has():
    truth = Labels.of_matrix(np.array([[1, 1, 0], [0, 1, 0]], bool))
    scores = np.array([[0.9, 0.9, 0.6], [0.2, 0.8, 0.1]])
    usual, everyones, nobodys = label_figures(Verdicts(truth, scores >= 0.5, scores), ["a", "b", "c"])
    assert usual == LabelFigures("a", 1, 1, 1.0, 1.0, 1.0, 1.0)
    assert (everyones.queries, everyones.recall, math.isnan(everyones.roc_auc)) == (2, 1.0, True)
    assert (nobodys.queries, nobodys.said) == (0, 1)
    assert all(math.isnan(value) for value in (nobodys.precision, nobodys.recall, nobodys.f1, nobodys.roc_auc))


def test_assess__without_any_curve():
    truth = Labels(np.zeros(2, np.int32), 2)
    values = _values(assess(Verdicts(truth, np.array([0, 1]), np.eye(2)), Cohort.plain(2)))
    assert math.isnan(values["roc_auc", "micro"])
    assert math.isnan(values["roc_auc", "macro"])
    assert values["accuracy", "micro"] == 0.5


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=2, max_size=30),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_curve__as_scikit_learn_with_weights(items, weights):
    scores, positive, clusters = (np.array(column) for column in zip(*items, strict=True))
    draw = np.array(weights, np.float32)[:, np.newaxis]
    each = draw[clusters, 0]
    if not positive.any() or positive.all():
        return
    result = curve(scores[:, np.newaxis] / 4, positive[:, np.newaxis], clusters, 4).areas(draw, each.sum(keepdims=True))
    if each[positive].sum() * each[~positive].sum() == 0:
        assert math.isnan(result[0])
    else:
        assert result[0] == pytest.approx(roc_auc_score(positive, scores, sample_weight=each), rel=0, abs=1e-12)


def test_vote_rules__refuse():
    with pytest.raises(ProtocolError, match="no vote 'median'; there are mean, softmax"):
        VoteRules(vote="median")
    with pytest.raises(ProtocolError, match="the paper's protocol has the mean vote, not softmax"):
        VoteRules(vote="softmax", paper=True)
    with pytest.raises(CutoffError, match="k is 0"):
        VoteRules(k=0)
    with pytest.raises(ProtocolError, match="temperature is 0"):
        VoteRules(temperature=0)


def test_classify__refuses():
    truth = Labels(np.array([0, 0, 2, 1], np.int32), 3)
    asked = Asked(PLACES, COSINES, truth)
    with pytest.raises(CutoffError, match="a vote of 5 neighbours needs a k in 1 to 4"):
        classify(GALLERY, asked, Cohort.plain(4), VoteRules(k=5))
    with pytest.raises(ProtocolError, match="k is chosen on validation queries and there are none"):
        classify(GALLERY, asked, Cohort.plain(4))
    with pytest.raises(ProtocolError, match="don't share their classes"):
        classify(Labels(np.zeros(6, np.int32), 2), asked, Cohort.plain(4), VoteRules(k=1))
    several = Labels.of_matrix(np.eye(4, dtype=bool))
    with pytest.raises(ProtocolError, match="images of one class only"):
        classify(several, Asked(PLACES, COSINES, several), Cohort.plain(4), VoteRules(k=1, paper=True))
    with pytest.raises(ProtocolError, match="queries without a label: 1 of 2; leave them out"):
        Asked(PLACES[:2], COSINES[:2], Labels(np.array([0, NONE], np.int32), 3))
    with pytest.raises(ProtocolError, match="no query is in the group 'modality=MR'"):
        classify(GALLERY, asked, Cohort({"modality=MR": np.zeros(4, bool)}, np.ones(4, bool)), VoteRules(k=1))


def test_shares__refuse_what_does_not_fit(monkeypatch):
    monkeypatch.setattr("cbmir.evaluate.analyses.classification.votes.MAX_SHARES", 10)
    with pytest.raises(ProtocolError, match="the votes of 4 queries on 3 classes don't fit"):
        shares(_ballots(PLACES, COSINES), 2)


def test_labels__refuse_codes_that_mean_nothing():
    with pytest.raises(ProtocolError, match="codes outside -1 to 1"):
        Labels(np.array([0, 2], np.int32), 2)
