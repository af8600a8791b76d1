"""The kNN vote and its figures: tables worked by hand, scikit-learn on the same votes, and what must always hold."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.sparse import csr_array
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
    roc_auc_score,
)
from sklearn.neighbors import KNeighborsClassifier

from cbmir.errors import CutoffError, ProtocolError
from cbmir.evaluate.analyses.classification.assessment import (
    ACCURACY,
    EXACT_MATCH,
    Cohort,
    assess,
    named,
    names_of,
)
from cbmir.evaluate.analyses.classification.classes import SHARES, class_figures, confusion_table
from cbmir.evaluate.analyses.classification.knn import Asked, VoteRules, choose_k, classify
from cbmir.evaluate.analyses.classification.roc import average_precision, roc_auc
from cbmir.evaluate.analyses.classification.votes import (
    NONE,
    TEMPERATURE,
    VOTES,
    ClassVotes,
    Labels,
    Verdicts,
    micro_f1,
    predict,
    predictions,
    shares,
)
from cbmir.evaluate.intervals import percentile_interval
from cbmir.evaluate.significance import Resampler

EVERYTHING = slice(None)
CUTOFFS = (1, 2, 3, 8, 17, 40)
SCORERS = {"f1": f1_score, "precision": precision_score, "recall": recall_score}

# Six gallery images of classes 0, 0, 1, 1, 2 and one without a label.
ALONE = Resampler(np.full(5, -1), draws=0)

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


def _class_votes(places, cosines, labels=GALLERY, **terms):
    return ClassVotes(places=places, cosines=cosines, labels=labels, **terms)


def _each_k(class_votes):
    return np.array([item.copy() for item in predictions(class_votes, EVERYTHING)])


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
    np.testing.assert_array_equal(_each_k(_class_votes(PLACES, COSINES)), expected)


def test_predictions__ties_to_the_lowest_class_by_hand():
    expected = [[0, 1, NONE, NONE], [0, 0, 2, NONE], [1, 0, 2, NONE], [0, 0, 2, NONE]]
    np.testing.assert_array_equal(_each_k(_class_votes(PLACES, COSINES, ties="lowest")), expected)


def test_predictions__of_images_with_several_classes_by_hand():
    gallery = Labels.of_matrix(np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]], bool))
    class_votes = _class_votes(
        np.array([[0, 1, 2], [3, 2, NONE]]), np.array([[0.9, 0.8, 0.7], [0.9, 0.8, np.nan]]), gallery
    )
    expected = [
        [[1, 1, 0], [0, 0, 0]],  # the first neighbour of the second query has no label
        [[1, 1, 0], [0, 0, 1]],  # half of the votes is enough
        [[1, 0, 0], [0, 0, 1]],
    ]
    np.testing.assert_array_equal(_each_k(class_votes), np.array(expected, bool))


def test_shares__leave_missing_and_unlabelled_neighbours_out():
    expected = [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0], [0, 0, 1], [0, 0, 0]]
    np.testing.assert_allclose(shares(_class_votes(PLACES, COSINES), 3), expected, atol=1e-15)


def test_shares__softmax_by_hand():
    weights = np.exp(np.array([0.9, 0.8, 0.7]) / TEMPERATURE)
    result = shares(_class_votes(PLACES, COSINES, vote="softmax"), 3)
    np.testing.assert_allclose(result[0], [weights[0], weights[1] + weights[2], 0] / weights.sum(), rtol=1e-12)
    np.testing.assert_array_equal(result[2:], [[0, 0, 1], [0, 0, 0]])


def test_micro_f1__counts_a_query_without_a_vote_as_wrong():
    truth = Labels(np.array([0, 0, 2, 1], np.int32), 3)
    np.testing.assert_allclose(micro_f1(_class_votes(PLACES, COSINES), truth), [1 / 4, 2 / 4, 2 / 4, 3 / 4])


@pytest.mark.parametrize("vote", VOTES)
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("k", CUTOFFS)
def test_votes__as_scikit_learn(k, several, vote):
    model, asked, places, cosines, known, _ = _scene(3, several)
    weights = "uniform" if vote == "mean" else lambda distances: np.exp((1 - distances) / TEMPERATURE)
    model.set_params(n_neighbors=k, weights=weights)
    class_votes = _class_votes(places, cosines, known, vote=vote, ties="lowest")
    theirs = model.predict_proba(asked)
    if several:
        theirs = np.stack([item[:, 1] for item in theirs], axis=1)
    np.testing.assert_allclose(shares(class_votes, k), theirs, rtol=0, atol=1e-12)
    expected = theirs >= 0.5 if several else model.predict(asked)
    np.testing.assert_array_equal(predict(class_votes, k), expected)


@pytest.mark.parametrize("several", [False, True])
def test_predict__is_the_same_in_blocks_of_queries(several, monkeypatch):
    _, _, places, cosines, known, truth = _scene(4, several)
    class_votes = _class_votes(places, cosines, known)
    whole, scores, votes = predict(class_votes, 9), micro_f1(class_votes, truth), shares(class_votes, 9)
    monkeypatch.setattr("cbmir.evaluate.analyses.classification.votes.CELLS", 50)  # seven queries a block
    np.testing.assert_array_equal(predict(class_votes, 9), whole)
    np.testing.assert_array_equal(micro_f1(class_votes, truth), scores)
    np.testing.assert_array_equal(shares(class_votes, 9), votes)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_votes__properties(data):
    queries, depth, classes = (data.draw(st.integers(1, 6)) for _ in range(3))
    codes = np.array(data.draw(st.lists(st.integers(NONE, classes - 1), min_size=8, max_size=8)), np.int32)
    flat = data.draw(st.lists(st.integers(NONE, 7), min_size=queries * depth, max_size=queries * depth))
    order = np.array(data.draw(st.permutations(range(queries))))
    places = np.array(flat).reshape(queries, depth)
    cosines = -np.sort(-np.random.default_rng(0).uniform(-1, 1, places.shape), axis=1)
    class_votes = _class_votes(places, cosines, Labels(codes, classes), vote=data.draw(st.sampled_from(VOTES)))
    result = _each_k(class_votes)
    shuffled = _class_votes(places[order], cosines[order], class_votes.labels, vote=class_votes.vote)
    np.testing.assert_array_equal(_each_k(shuffled), result[:, order])
    np.testing.assert_array_equal(result[0], np.where(places[:, 0] == NONE, NONE, codes[places[:, 0]]))
    for k, predicted in enumerate(result, start=1):
        votes = shares(class_votes, k)
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
    said = predict(_class_votes(test.places, test.cosines, known, vote="softmax"), k)
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


def _expected(truth, said, scores, weights=None, whole=None):
    """All figures by scikit-learn; (n,) codes, or (n, classes) flags.

    The macro means of precision and F1 are over classes that are true or said; a class that no query has in a draw
    keeps its figure of the whole sample, as `whole` has it.
    """
    several = truth.ndim == 2
    flags = truth if several else np.eye(scores.shape[1], dtype=bool)[truth]
    answers = said if several else np.eye(scores.shape[1] + 1, dtype=bool)[said][:, :-1]  # NONE is the last
    weights = np.ones(len(flags)) if weights is None else weights
    terms = {"sample_weight": weights, "zero_division": 0}
    accuracy = EXACT_MATCH if several else ACCURACY  # of flags scikit-learn's is that of exact matches
    values = {(accuracy, "micro"): accuracy_score(truth, said, sample_weight=weights)}
    each = {}
    for name, scorer in SCORERS.items():
        values[name, "micro"] = scorer(truth, said, average="micro", **terms)
        each[name] = scorer(truth, said, average=None, labels=np.arange(flags.shape[1]), **terms)
        if whole is not None:
            each[name] = np.where(weights @ flags > 0, each[name], whole[name])
        over = flags.any(axis=0) | (answers.any(axis=0) & (name != "recall"))
        values[name, "macro"] = each[name][over].mean()
    if not several:
        values["balanced_accuracy", "macro"] = values["recall", "macro"]
        values["kappa", "micro"] = cohen_kappa_score(truth, said, sample_weight=weights)
        values["mcc", "micro"] = matthews_corrcoef(truth, said, sample_weight=weights)
    everyone = flags.any(axis=0) & ~flags.all(axis=0)
    if whole is None:
        values["roc_auc", "micro"] = roc_auc_score(flags[:, everyone].ravel(), scores[:, everyone].ravel())
        values["roc_auc", "macro"] = np.mean(
            [roc_auc_score(flags[:, code], scores[:, code]) for code in np.flatnonzero(everyone)]
        )
    return values if whole is not None else (values, each)


def _truth(labels):
    return labels.codes if labels.members is None else labels.flags()


@pytest.mark.parametrize("vote", VOTES)
@pytest.mark.parametrize("several", [False, True])
def test_assess__as_scikit_learn(several, vote):
    _, _, places, cosines, known, truth = _scene(6, several)
    places[:3] = NONE  # queries without a vote
    result = classify(known, Asked(places, cosines, truth), Cohort.plain(90), VoteRules(k=12, vote=vote))
    expected, _ = _expected(_truth(truth), result.verdicts.said, result.verdicts.scores)
    values = _values(result.assessment)
    assert list(values) == [(named([name], several)[0], average) for name, average in names_of(several)]
    assert set(values) == set(expected)
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
    for key, value in _expected(truth.codes, said, scores)[0].items():
        assert values[key] == pytest.approx(value, rel=0, abs=1e-12), key


@pytest.mark.parametrize("several", [False, True])
def test_assess__intervals_are_those_of_scikit_learn_on_every_draw(several):
    _, _, places, cosines, known, truth = _scene(7, several)
    patients = np.random.default_rng(1).integers(-1, 25, size=90)
    resampler = Resampler(patients, draws=40, seed=3, method="percentile")
    asked = Asked(places, cosines, truth)
    result = classify(known, asked, Cohort({}, np.ones(90, bool), resampler), VoteRules(k=12))
    draws = np.concatenate(list(resampler.blocks()))[:, resampler.codes]
    said, scores = result.verdicts.said, result.verdicts.scores
    _, whole = _expected(_truth(truth), said, scores)
    table = [_expected(_truth(truth), said, scores, weights, whole) for weights in draws]
    for figure in result.assessment.figures:
        assert figure.low <= figure.value <= figure.high
        if figure.measure != "roc_auc":
            column = np.array([[row[figure.measure, figure.average]] for row in table])
            low, high = percentile_interval(column)
            assert (figure.low, figure.high) == pytest.approx((low[0], high[0]), rel=0, abs=1e-12), figure


def test_assess__macro_interval_holds_a_figure_of_which_rare_classes_are_the_low_ones():
    """Two common classes that are told right and twelve of one query each that are not: draws lack some of these."""
    codes = np.concatenate([np.repeat([0, 1], 40), np.arange(2, 14)]).astype(np.int32)
    said = np.where(codes < 2, codes, 0)
    resampler = Resampler(np.full(92, -1), draws=500, method="percentile")
    verdicts = Verdicts(Labels(codes, 14), said, np.eye(14)[said])
    for figure in assess(verdicts, Cohort({}, np.ones(92, bool), resampler)).figures:
        if figure.average == "macro" and figure.measure != "roc_auc":
            assert figure.low <= figure.value <= figure.high
            assert figure.high < 0.2, figure  # 2 of 14 classes: draws of fewer classes would give up to .3


def test_assess__classes_that_are_said_only_count_in_each_group():
    """Of the CT queries class 1 is said and none has it; scikit-learn counts it as 0."""
    truth = Labels(np.array([0, 0, 0, 1, 1], np.int32), 2)
    said = np.array([0, 0, 1, 1, 1])
    ct = np.array([True, True, True, False, False])
    result = assess(Verdicts(truth, said, np.eye(2)[said]), Cohort({"modality=CT": ct}, np.ones(5, bool), ALONE))
    values = _values(result, "modality=CT")
    assert (
        values["precision", "macro"] == precision_score([0, 0, 0], [0, 0, 1], average="macro", zero_division=0) == 0.5
    )
    assert values["f1", "macro"] == pytest.approx(f1_score([0, 0, 0], [0, 0, 1], average="macro", zero_division=0))
    assert values["recall", "macro"] == 2 / 3  # of class 0 alone


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
    assert [figures[name].patients for name in ("all", "modality=CT")] == [3, 1]
    row, figure = result.assessment.rows(12, "exact")[3], result.assessment.figures[3]
    assert (row.measure, row.average, row.group, row.k, row.search) == ("precision", "micro", "all", 12, "exact")
    assert (row.value, row.n, row.coverage, row.low, row.high) == (figure.value, 90, 75 / 90, figure.low, figure.high)


def test_assess__names_the_classes_that_have_no_curve():
    truth = Labels.of_matrix(np.array([[1, 1, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]], bool))
    scores = np.array([[0.9, 0.9, 0.1, 0.6], [0.2, 0.8, 0.1, 0.0], [0.1, 0.7, 0.1, 0.1]])
    result = assess(Verdicts(truth, scores >= 0.5, scores), Cohort.plain(3))
    assert (result.absent, result.universal, result.stray, result.lone) == ((2, 3), (1,), (3,), ())
    values = _values(result)
    assert values["roc_auc", "macro"] == values["roc_auc", "micro"] == 0.5  # of class 0 alone
    assert values["recall", "macro"] == (1 / 2 + 1) / 2
    assert values["precision", "micro"] == 4 / 5
    assert values["exact_match_accuracy", "micro"] == 1 / 3
    assert result.confusion is None


@pytest.mark.parametrize("several", [False, True])
def test_class_figures__as_scikit_learn(several):
    _, _, places, cosines, known, truth = _scene(6, several)
    verdicts = classify(known, Asked(places, cosines, truth), Cohort.plain(90), VoteRules(k=12)).verdicts
    patients = np.arange(90) // 3
    figures = class_figures(verdicts, [f"c{code}" for code in range(6)], Resampler(patients, 100))
    flags = truth.flags()
    answers = verdicts.said if several else np.eye(6, dtype=bool)[verdicts.said]
    for code, item in enumerate(figures):
        true, said, scores = flags[:, code], answers[:, code], verdicts.scores[:, code]
        assert (item.label, item.queries, item.said) == (f"c{code}", true.sum(), said.sum())
        assert item.patients == len(set(patients[true]))
        matrix = confusion_matrix(true, said)
        counts = item.as_json()
        ours = [
            [counts["true_negative"], counts["false_positive"]],
            [counts["false_negative"], counts["true_positive"]],
        ]
        np.testing.assert_array_equal(ours, matrix)
        expected = {
            "sensitivity": recall_score(true, said),
            "specificity": recall_score(~true, ~said),
            "ppv": precision_score(true, said),
            "npv": precision_score(~true, ~said),
            "f1": f1_score(true, said),
            "roc_auc": roc_auc_score(true, scores),
            "auprc": average_precision_score(true, scores),
        }
        for name, value in expected.items():
            found = item.figures[name]
            assert found.value == pytest.approx(value, rel=0, abs=1e-12), name
            assert 0 <= found.low <= found.value <= found.high <= 1


def test_class_figures__of_a_class_that_no_query_or_every_query_has():
    truth = Labels.of_matrix(np.array([[1, 1, 0], [0, 1, 0]], bool))
    scores = np.array([[0.9, 0.9, 0.6], [0.2, 0.8, 0.1]])
    resampler = Resampler(np.array([-1, -1]), draws=0)
    usual, everyones, nobodys = class_figures(Verdicts(truth, scores >= 0.5, scores), ["a", "b", "c"], resampler)
    assert [usual.figures[name].value for name in (*SHARES, "roc_auc", "auprc")] == [1.0] * 7
    assert math.isnan(usual.figures["f1"].low)  # no draws, no interval
    assert (everyones.queries, everyones.figures["sensitivity"].value) == (2, 1.0)
    assert all(math.isnan(everyones.figures[name].value) for name in ("specificity", "npv", "roc_auc", "auprc"))
    assert (nobodys.queries, nobodys.said, nobodys.figures["ppv"].value) == (0, 1, 0.0)
    assert all(math.isnan(nobodys.figures[name].value) for name in ("sensitivity", "roc_auc", "auprc"))
    assert json.dumps(nobodys.as_json(), allow_nan=False)


def test_class_figures__intervals_of_independent_images_are_wilson_with_t():
    codes = np.repeat([0, 1], [30, 20]).astype(np.int32)
    said = codes.copy()
    said[:6], said[30:32] = 1, 0
    item, _ = class_figures(
        Verdicts(Labels(codes, 2), said, np.eye(2)[said]), ["a", "b"], Resampler(np.full(50, -1), draws=1)
    )
    for name, hits, n in (("sensitivity", 24, 30), ("specificity", 18, 20), ("ppv", 24, 26), ("npv", 18, 24)):
        t = stats.t.ppf(0.975, n - 1)
        share = hits / n
        centre, half = share + t**2 / (2 * n), t * math.sqrt(share * (1 - share) / n + t**2 / (4 * n**2))
        found = item.figures[name]
        assert (found.low, found.high) == pytest.approx(
            ((centre - half) / (1 + t**2 / n), (centre + half) / (1 + t**2 / n)), abs=1e-12
        )


def test_class_figures__of_one_patient_have_no_interval():
    codes = np.array([0, 0, 0, 1, 1, 1], np.int32)
    said = np.array([0, 0, 1, 1, 1, 1])
    item, _ = class_figures(
        Verdicts(Labels(codes, 2), said, np.eye(2)[said]), ["a", "b"], Resampler(np.array([1, 1, 1, 2, 3, 4]), 10)
    )
    assert math.isnan(item.figures["sensitivity"].low)
    assert math.isnan(item.figures["roc_auc"].low)
    assert not math.isnan(item.figures["specificity"].low)
    assert (item.queries, item.patients) == (3, 1)


def test_confusion_table__has_counts_and_shares_of_each_true_class():
    table = csr_array(np.array([[3, 1], [0, 0]]))
    header, rows = confusion_table(["a", "b"], table, [5, 0])
    assert header == ["true", "a", "b", "no answer", "queries", "rate a", "rate b"]
    assert rows == [["a", 3, 1, 1, 5, 0.6, 0.2], ["b", 0, 0, 0, 0, "", ""]]


def _obuchowski(scores, positive, clusters):
    """Area and variance by the sums of the paper, as plain loops."""
    ours, others = scores[positive], scores[~positive]
    kernel = (ours[:, None] > others) + (ours[:, None] == others) / 2
    area = kernel.mean()
    sums = {}
    for side, values, owners in (
        (0, kernel.mean(axis=1), clusters[positive]),
        (1, kernel.mean(axis=0), clusters[~positive]),
    ):
        for cluster in np.unique(clusters):
            mine = values[owners == cluster]
            sums[side, cluster] = (mine.sum() - len(mine) * area, len(mine))
    n, m = len(ours), len(others)
    everyone = np.unique(clusters)
    having = [sum(sums[side, cluster][1] > 0 for cluster in everyone) for side in (0, 1)]
    s10 = having[0] / ((having[0] - 1) * n) * sum(sums[0, cluster][0] ** 2 for cluster in everyone)
    s01 = having[1] / ((having[1] - 1) * m) * sum(sums[1, cluster][0] ** 2 for cluster in everyone)
    s11 = len(everyone) / (len(everyone) - 1) * sum(sums[0, cluster][0] * sums[1, cluster][0] for cluster in everyone)
    return area, s10 / n + s01 / m + 2 * s11 / (n * m)


@pytest.mark.parametrize("seed", range(5))
def test_roc_auc__of_independent_images_has_the_variance_of_delong(seed):
    rng = np.random.default_rng(seed)
    positive = rng.random(70) < 0.3
    scores = np.round(rng.normal(size=70) + positive, 1)
    clusters = np.arange(70)
    area = roc_auc(scores[:, None], positive[:, None], clusters, 70)
    value, variance = _obuchowski(scores, positive, clusters)
    assert area.value == pytest.approx(value, abs=1e-12) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert (area.influence**2).sum() == pytest.approx(variance, rel=1e-12)  # no cluster has both: the same to rounding


@pytest.mark.parametrize("seed", range(5))
def test_roc_auc__of_clusters_has_the_variance_of_obuchowski(seed):
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(40), 5)
    effect = np.repeat(rng.normal(size=40), 5)
    positive = rng.random(200) < 0.4
    scores = effect + positive + rng.normal(size=200)
    area = roc_auc(scores[:, None], positive[:, None], clusters, 40)
    value, variance = _obuchowski(scores, positive, clusters)
    assert area.value == pytest.approx(value, abs=1e-12)
    assert (area.influence**2).sum() == pytest.approx(variance, rel=0.01)  # the factor of the covariance differs


def test_roc_auc__votes_that_differ_by_rounding_tie():
    """Four queries with the same votes, summed in another order; ranks of the last digits would give an area of 1."""
    votes = np.array([0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1])
    assert votes[0] != votes[1]
    scores = np.array([votes.max(), votes.max(), votes.min(), votes.min()])
    positive = np.array([True, True, False, False])
    assert roc_auc(scores[:, None], positive[:, None], np.arange(4), 4).value == 0.5
    assert average_precision(scores, positive, np.arange(4), 4).value == 0.5
    tiny = np.array([3e-13, 3e-13, 0.0, 0.0])  # far apart, for what softmax leaves of a distant neighbour
    assert roc_auc(tiny[:, None], positive[:, None], np.arange(4), 4).value == 1


@pytest.mark.parametrize("several", [False, True])
def test_average_precision__influence_is_the_derivative_by_each_weight(several):
    rng = np.random.default_rng(3)
    positive = rng.random(40) < 0.4
    scores = np.round(rng.normal(size=40) + positive, 1 if several else 6)
    area = average_precision(scores, positive, np.arange(40), 40)
    step = 1e-6
    for row in range(40):
        weights = np.ones(40)
        weights[row] += step
        moved = average_precision_score(positive, scores, sample_weight=weights)
        assert area.influence[row] / math.sqrt(40 / 39) == pytest.approx((moved - area.value) / step, abs=1e-4)


def test_roc_auc__intervals_agree_with_resamples_on_30_sets():
    """Closed form against 200 resamples of the patients, macro over four classes that share them."""
    ratios = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        clusters, codes = np.repeat(np.arange(60), 4), rng.integers(4, size=240)
        scores = np.eye(4)[codes] + np.repeat(rng.normal(size=(60, 4)), 4, axis=0) + rng.normal(size=(240, 4))
        verdicts = Verdicts(Labels(codes.astype(np.int32), 4), scores.argmax(axis=1), scores)
        resampler = Resampler(clusters, draws=200)
        (figure,) = [
            item
            for item in assess(verdicts, Cohort({}, np.ones(240, bool), resampler)).figures
            if (item.measure, item.average) == ("roc_auc", "macro")
        ]
        draws = []
        for counts in np.concatenate(list(resampler.blocks())):
            rows = np.repeat(np.arange(240), counts[clusters].astype(int))
            mine, each = codes[rows], np.arange(240)
            draws.append(
                np.mean([roc_auc(scores[rows][:, [c]], (mine == c)[:, None], each, 240).value for c in range(4)])
            )
        plain = np.mean([roc_auc_score(codes == code, scores[:, code]) for code in range(4)])
        assert figure.value == pytest.approx(plain, abs=1e-12)
        ratios.append((figure.high - figure.low) / (3.92 * np.std(draws)))
    assert 0.97 < np.mean(ratios) < 1.06
    assert 0.85 < min(ratios) < max(ratios) < 1.2


def test_assess__without_any_curve():
    truth = Labels(np.zeros(2, np.int32), 2)
    values = _values(assess(Verdicts(truth, np.array([0, 1]), np.eye(2)), Cohort.plain(2)))
    assert math.isnan(values["roc_auc", "micro"])
    assert math.isnan(values["roc_auc", "macro"])
    assert values["accuracy", "micro"] == 0.5


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=2, max_size=30))
def test_areas__as_scikit_learn(items):
    scores, positive, clusters = (np.array(column) for column in zip(*items, strict=True))
    scores = scores.astype(float)
    area = roc_auc(scores[:, None], positive[:, None], clusters, 4)
    precision = average_precision(scores, positive, clusters, 4)
    if positive.all() or not positive.any():
        assert math.isnan(area.value)
        assert math.isnan(precision.value)
        return
    assert area.value == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert precision.value == pytest.approx(average_precision_score(positive, scores), abs=1e-12)


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
        classify(
            GALLERY,
            asked,
            Cohort({"modality=MR": np.zeros(4, bool)}, np.ones(4, bool), Cohort.plain(4).resampler),
            VoteRules(k=1),
        )


def test_shares__refuse_what_does_not_fit(monkeypatch):
    monkeypatch.setattr("cbmir.evaluate.analyses.classification.votes.MAX_SHARES", 10)
    with pytest.raises(ProtocolError, match="the votes of 4 queries on 3 classes don't fit"):
        shares(_class_votes(PLACES, COSINES), 2)


def test_labels__refuse_codes_that_mean_nothing():
    with pytest.raises(ProtocolError, match="codes outside -1 to 1"):
        Labels(np.array([0, 2], np.int32), 2)
