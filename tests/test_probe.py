"""The linear probe: a plain loop written out by hand, scikit-learn on separable data, and what a killed run leaves."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cbmir.errors import EncoderError, ProtocolError
from cbmir.evaluate.analyses.classification.assessment import Cohort, assess
from cbmir.evaluate.analyses.classification.linear import Examples, Probe, ProbeSettings, Task
from cbmir.evaluate.analyses.classification.probe import Folds, drawn, few_shot
from cbmir.evaluate.analyses.classification.training import C_TRIED, train_probe
from cbmir.evaluate.analyses.classification.votes import NONE, Labels

pytestmark = pytest.mark.slow

NAMES = ("CT/lung/nodule", "MR/brain/glioma", "XR/chest/normal")
TASK = Task(NAMES, "f00d")
SEVERAL = Task(NAMES, "f00d", several=True)
SHORT = ProbeSettings(epochs=12, patience=4, batch=32, learning_rate=0.05, seed=7)


def _examples(seed, n=100, noise=0.6, several=False):
    """Unit vectors around one corner a class; with `several`, around the sum of the corners of the classes."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(3, size=n)
    flags = np.eye(3, dtype=bool)[classes]
    if several:
        flags |= rng.random((n, 3)) < 0.3
    vectors = flags @ np.eye(3, 6) + rng.normal(size=(n, 6)) * noise
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return Examples(vectors, Labels.of_matrix(flags) if several else Labels(classes.astype(np.int32), 3))


def _plain_loop(train, val, settings, several):
    """Train as the facts say, in one function; returns the learning curve and the best weights."""
    import torch

    def tensors(examples):
        labels = examples.labels.flags().astype(np.float32) if several else examples.labels.codes.astype(np.int64)
        return torch.tensor(examples.vectors), torch.tensor(labels)

    numbers = torch.Generator().manual_seed(settings.seed)
    weight = torch.normal(0.0, settings.init_std, (3, 6), generator=numbers).requires_grad_()
    bias = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=settings.learning_rate, weight_decay=settings.weight_decay)
    criterion = torch.nn.BCEWithLogitsLoss() if several else torch.nn.CrossEntropyLoss()
    (x, y), (val_x, val_y) = tensors(train), tensors(val)
    curve, best, best_accuracy, since = [], None, -1.0, 0
    for epoch in range(1, settings.epochs + 1):
        losses = []
        for rows in torch.randperm(len(x), generator=numbers).split(settings.batch):
            optimizer.zero_grad()
            loss = criterion(torch.nn.functional.linear(x[rows], weight, bias), y[rows])
            loss.backward()
            optimizer.step()
            losses += [loss.item()] * len(rows)
        with torch.no_grad():
            logits = torch.nn.functional.linear(val_x, weight, bias)
            val_loss = criterion(logits, val_y).item()
            right = ((logits.sigmoid() >= 0.5) == val_y.bool()).all(1) if several else logits.argmax(1) == val_y
        accuracy = right.double().mean().item()
        curve.append((epoch, float(np.mean(losses)), val_loss, accuracy))
        since += 1
        if accuracy > best_accuracy:
            best, best_accuracy, since = (weight.detach().numpy().copy(), bias.detach().numpy().copy()), accuracy, 0
        if since == settings.patience:
            break
    return curve, best


@pytest.mark.parametrize("several", [False, True])
def test_train_probe__as_a_plain_loop(several, monkeypatch):
    monkeypatch.setattr("cbmir.evaluate.analyses.classification.training.VALIDATED", 16)
    train, val = _examples(1, several=several), _examples(2, 40, several=several)
    result = train_probe(train, val, SEVERAL if several else TASK, SHORT)
    curve, (weight, bias) = _plain_loop(train, val, SHORT, several)
    np.testing.assert_array_equal(result.probe.weight, weight)
    np.testing.assert_array_equal(result.probe.bias, bias)
    assert len(result.curve) == len(curve)
    for epoch, expected in zip(result.curve, curve, strict=True):
        assert (epoch.epoch, epoch.val_accuracy) == (expected[0], pytest.approx(expected[3]))
        assert (epoch.train_loss, epoch.val_loss) == pytest.approx(expected[1:3], rel=1e-6)


def test_train_probe__stops_when_the_accuracy_no_longer_rises():
    result = train_probe(_examples(1), _examples(2, 40), TASK, replace(SHORT, epochs=90, patience=3))
    accuracies = [epoch.val_accuracy for epoch in result.curve]
    best = 1 + int(np.argmax(accuracies))
    assert result.probe.epoch == best  # the first of the best
    assert result.probe.val_accuracy == max(accuracies)
    assert len(accuracies) == best + 3 < 90


def test_train_probe__same_seed_same_weights_and_the_global_seed_is_left_alone():
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again = (train_probe(_examples(1), _examples(2, 40), TASK, SHORT) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(first.probe.weight, again.probe.weight)
    assert first.curve == again.curve
    other = train_probe(_examples(1), _examples(2, 40), TASK, replace(SHORT, seed=8))
    assert not np.array_equal(first.probe.weight, other.probe.weight)


def test_train_probe__as_logistic_regression_where_classes_are_apart():
    train, val, test = (_examples(seed, 120, noise=0.1) for seed in (1, 2, 3))
    result = train_probe(train, val, TASK, replace(SHORT, epochs=30))
    model = LogisticRegression().fit(train.vectors, train.labels.codes)
    verdicts = result.probe.verdicts(test.vectors, test.labels)
    np.testing.assert_array_equal(verdicts.said, model.predict(test.vectors))
    assert (verdicts.said == test.labels.codes).all()
    assert assess(verdicts, Cohort.plain(120)).figures[0].value == 1


OPTIMUM = ProbeSettings(solver="lbfgs")


@pytest.mark.parametrize("seed", range(12))
def test_train_probe__lbfgs_is_the_optimum_of_logistic_regression(seed):
    """Twelve small sets: areas within .005 of scikit-learn's optimum for the same penalty, weights near to it."""
    train, val, test = (_examples(10 * seed + number, 60, noise=0.7) for number in range(3))
    result = train_probe(train, val, TASK, OPTIMUM)
    assert result.converged
    assert result.c in C_TRIED
    assert [epoch.val_loss for epoch in result.curve].index(
        min(epoch.val_loss for epoch in result.curve)
    ) == C_TRIED.index(result.c)
    model = LogisticRegression(C=result.c, max_iter=10_000, tol=1e-10).fit(train.vectors, train.labels.codes)
    ours = result.probe.scores(test.vectors)
    theirs = model.predict_proba(test.vectors)
    areas = [roc_auc_score(test.labels.codes, scores, multi_class="ovr") for scores in (ours, theirs)]
    assert abs(areas[0] - areas[1]) < 0.005
    np.testing.assert_allclose(ours, theirs, atol=0.01)


def test_train_probe__lbfgs_of_several_classes_is_one_regression_a_class():
    train, val, test = (_examples(number, 90, several=True) for number in range(3))
    result = train_probe(train, val, SEVERAL, OPTIMUM)
    flags = train.labels.flags()
    ours = result.probe.scores(test.vectors)
    for code in range(3):
        model = LogisticRegression(C=result.c, max_iter=10_000, tol=1e-10).fit(train.vectors, flags[:, code])
        np.testing.assert_allclose(ours[:, code], model.predict_proba(test.vectors)[:, 1], atol=0.01)


def test_train_probe__says_whether_it_converged():
    train, val = _examples(1, 40), _examples(2, 40)
    published = train_probe(train, val, TASK, ProbeSettings(epochs=20))
    assert not published.converged  # one step an epoch at a rate of .001
    assert published.gradient > 0.5
    long = train_probe(train, val, TASK, replace(SHORT, epochs=400, patience=400, learning_rate=0.1))
    assert 0 < long.gradient < published.gradient
    assert train_probe(train, val, TASK, OPTIMUM).gradient < 1e-3


@pytest.mark.parametrize("task", [TASK, SEVERAL])
def test_probe__scores_are_probabilities(task, monkeypatch):
    monkeypatch.setattr("cbmir.evaluate.analyses.classification.training.BLOCK", 7)
    rng = np.random.default_rng(0)
    probe = Probe(task, rng.normal(size=(3, 6)).astype(np.float32) * 400, np.ones(3, np.float32), 0, 1, 0.5)
    vectors = _examples(3, 20).vectors
    logits = (vectors @ probe.weight.T + probe.bias).astype(np.float64)
    expected = expit(logits) if task.several else softmax(logits, axis=1)
    np.testing.assert_allclose(probe.scores(vectors), expected, rtol=1e-3, atol=1e-12)  # blocks sum in another order
    assert probe.scores(vectors[:0]).shape == (0, 3)


def test_train_probe__reports_classes_it_never_saw():
    train = _examples(1)
    train = train.take(train.labels.codes != 1)
    assert train_probe(train, _examples(2, 40), TASK, replace(SHORT, epochs=1)).unseen == (1,)


def test_train_probe__takes_vectors_that_cannot_be_written():
    train = _examples(1)
    train.vectors.setflags(write=False)
    assert len(train_probe(train, _examples(2, 40), TASK, replace(SHORT, epochs=1)).curve) == 1


def test_train_probe__refuses():
    train, val = _examples(1), _examples(2, 40)
    with pytest.raises(ProtocolError, match="images of 3 classes met a task of 2"):
        train_probe(train, val, Task(NAMES[:2], "f00d"), SHORT)
    with pytest.raises(ProtocolError, match="a task of several classes an image met images coded for one"):
        train_probe(train, val, SEVERAL, SHORT)
    with pytest.raises(ProtocolError, match="of 6 dimensions met validation vectors of 5"):
        train_probe(train, Examples(val.vectors[:, :5], val.labels), TASK, SHORT)
    with pytest.raises(EncoderError, match="no device 'tpu'"):
        train_probe(train, val, TASK, replace(SHORT, device="tpu"))
    bad = Examples(np.full_like(train.vectors, np.nan), train.labels)
    with pytest.raises(ProtocolError, match="the loss of the probe is nan in epoch 1"):
        train_probe(bad, val, TASK, SHORT)
    with pytest.raises(ProtocolError, match="images without a label: 1 of 2; leave them out"):
        Examples(val.vectors[:2], Labels(np.array([0, NONE], np.int32), 3))
    with pytest.raises(ProtocolError, match="batch of a probe is 0"):
        ProbeSettings(batch=0)


def test_probe__refuses_vectors_of_another_length():
    probe = Probe(TASK, np.zeros((3, 6), np.float32), np.zeros(3, np.float32), 0, 1, 0.5)
    with pytest.raises(ProtocolError, match=r"a probe of 6 dimensions met vectors of shape \(2, 5\)"):
        probe.scores(np.zeros((2, 5), np.float32))


def test_drawn__takes_as_many_of_each_class():
    labels = Labels(np.array([0] * 50 + [1] * 3 + [NONE] * 4 + [2] * 20, np.int32), 3)
    rows = drawn(labels, 5, seed=0)
    assert np.bincount(labels.codes[rows]).tolist() == [5, 3, 5]
    np.testing.assert_array_equal(rows, drawn(labels, 5, seed=0))
    assert rows.tolist() != drawn(labels, 5, seed=1).tolist()
    often = np.bincount(np.concatenate([drawn(labels, 5, seed) for seed in range(400)]), minlength=77)
    assert often[50:53].tolist() == [400] * 3
    assert often[:50].min() > 15  # 40 are expected
    assert often[:50].max() < 70


def test_drawn__of_images_with_several_classes():
    labels = Labels.of_matrix(np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]], bool))
    assert drawn(labels, 1, seed=0).tolist() in ([0, 2], [0, 1, 2])


def test_few_shot__gives_the_figures_of_every_draw():
    splits = Folds(_examples(1, 100), _examples(2, 40), _examples(3, 60))
    result = few_shot(splits, TASK, shots=4, draws=3, settings=SHORT)
    assert [draw.seed for draw in result.draws] == [7, 8, 9]
    assert [draw.images for draw in result.draws] == [12, 12, 12]
    accuracy = result.spreads[0]
    assert (accuracy.measure, len(result.spreads)) == ("accuracy", 12)
    shares = []
    for draw in result.draws:
        rows = drawn(splits.train.labels, 4, draw.seed)
        probe = train_probe(splits.train.take(rows), splits.val, TASK, replace(SHORT, seed=draw.seed)).probe
        shares.append(np.mean(probe.scores(splits.test.vectors).argmax(axis=1) == splits.test.labels.codes))
    assert accuracy.values == pytest.approx(shares)
    assert (accuracy.mean, accuracy.std) == pytest.approx((np.mean(shares), np.std(shares, ddof=1)))


def test_few_shot__reports_short_classes_and_single_draws():
    train = _examples(1, 100)
    rare = np.flatnonzero(train.labels.codes == 2)[2:]
    splits = Folds(train.take(np.delete(np.arange(100), rare)), _examples(2, 40), _examples(3, 60))
    result = few_shot(splits, TASK, shots=5, draws=1, settings=replace(SHORT, epochs=2))
    assert result.short == (2,)
    assert result.draws[0].images == 12
    assert math.isnan(result.spreads[0].std)
    with pytest.raises(ProtocolError, match="draws 0, images a class 5; ask for 1 or more"):
        few_shot(splits, TASK, shots=5, draws=0)


@pytest.mark.gpu
def test_train_probe__on_a_gpu_as_on_a_cpu():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    train, val = _examples(1), _examples(2, 40)
    cpu, gpu = (train_probe(train, val, TASK, replace(SHORT, device=device)) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(gpu.probe.weight, cpu.probe.weight, atol=1e-4)
