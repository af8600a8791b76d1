"""A linear probe, one layer on frozen vectors, and its training: to the optimum, or as the published program does."""

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.classification.linear import BLOCK, Epoch, Examples, Probe, ProbeSettings, Task

if TYPE_CHECKING:
    import torch


C_TRIED = (0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0)
"""Inverse strengths of the penalty, as scikit-learn's ``LogisticRegression`` has it; vectors have length 1."""

SETTLED = 0.1
"""Part of the first gradient below which the loss of a training by epochs counts as settled."""

VALIDATED = 1 << 14
"""Validation images scored at once."""

_STEPS = 1000
_EXACT = 1e-3
"""The same of a training to the optimum, which is stopped at a hundredth of it."""


class _Data:
    """Examples on a device."""

    def __init__(self, examples: Examples, device: str) -> None:
        import torch

        labels = examples.labels
        with warnings.catch_warnings():  # of arrays that can't be written: nobody does
            warnings.simplefilter("ignore", UserWarning)
            self._vectors = torch.from_numpy(np.ascontiguousarray(examples.vectors)).to(device)
        self._codes = torch.tensor(labels.codes, dtype=torch.int64, device=device)
        self._members = None
        if labels.members is not None:
            self._members = torch.tensor(labels.members, dtype=torch.float32, device=device)

    def __len__(self) -> int:
        return len(self._codes)

    def batch(self, rows: "torch.Tensor | slice") -> "tuple[torch.Tensor, torch.Tensor]":
        """Vectors and targets of some images: (b,) classes, or (b, classes) of 0 and 1."""
        codes = self._codes[rows]
        return self._vectors[rows], codes if self._members is None else self._members[codes]


class Descent:
    """A training under way: layer, optimiser, order of the images, and the best so far."""

    def __init__(self, train: Examples, val: Examples, task: Task, settings: ProbeSettings) -> None:
        import torch

        from cbmir.device import place

        self._task, self._settings = task, settings
        self._device = place(settings.device, "fp32").device
        self._train, self._val = _Data(train, self._device), _Data(val, self._device)
        self._order = torch.Generator().manual_seed(settings.seed)
        shape = (train.vectors.shape[1], len(task.classes))
        layer = torch.nn.Linear(*shape, device="meta").to_empty(device="cpu")  # leaves the global seed alone
        torch.nn.init.normal_(layer.weight, std=settings.init_std, generator=self._order)
        torch.nn.init.zeros_(layer.bias)
        self._layer = layer.to(self._device)
        self._optimizer = torch.optim.AdamW(
            self._layer.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._first: float | None = None
        self.curve: list[Epoch] = []
        self.best = self._snapshot()

    def unfinished(self) -> bool:
        """Whether another epoch may still help."""
        done = len(self.curve)
        return done < self._settings.epochs and done - self.best.epoch < self._settings.patience

    def step(self) -> bool:
        """Do an epoch; tells whether it was the best."""
        train_loss = self._learn()
        val_loss, accuracy = self._validate()
        self.curve.append(Epoch(len(self.curve) + 1, train_loss, val_loss, accuracy))
        self._check_finite(train_loss, val_loss)
        improved = accuracy > self.best.val_accuracy
        if improved:
            self.best = self._snapshot()
        return improved

    def minimise(self, c: float) -> Probe:
        """Find the optimum of the loss with a penalty on the weights, from where the layer stands.

        Raises:
            ProtocolError: the loss isn't finite.
        """
        import torch

        if not self.curve:
            torch.nn.init.zeros_(self._layer.weight)
        optimizer = torch.optim.LBFGS(
            self._layer.parameters(),
            max_iter=_STEPS,
            history_size=20,
            tolerance_grad=self._first_gradient() * _EXACT / 100,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def closure() -> float:
            optimizer.zero_grad()
            return self._penalised(c)

        optimizer.step(closure)  # type: ignore[no-untyped-call]  # torch has no types here
        train_loss = self._penalised(c)
        val_loss, accuracy = self._validate()
        self.curve.append(Epoch(len(self.curve) + 1, train_loss, val_loss, accuracy))
        self._check_finite(train_loss, val_loss)
        return self._snapshot()

    def gradient(self, probe: Probe, c: float = math.inf) -> float:
        """Length of the gradient at the weights of a probe, as a part of that of a layer of zeros."""
        import torch

        first = self._first_gradient()
        with torch.no_grad():
            self._layer.weight.copy_(torch.from_numpy(probe.weight))
            self._layer.bias.copy_(torch.from_numpy(probe.bias))
        self._layer.zero_grad()
        self._penalised(c)
        return self._length() / first if first else 0.0

    def _first_gradient(self) -> float:
        """Length of the gradient of the loss of a layer of zeros; the layer keeps its weights, not its gradients."""
        import torch

        if self._first is None:
            kept = [item.detach().clone() for item in self._layer.parameters()]
            with torch.no_grad():
                for item in self._layer.parameters():
                    item.zero_()
            self._layer.zero_grad()
            self._penalised(math.inf)
            self._first = self._length()
            with torch.no_grad():
                for item, before in zip(self._layer.parameters(), kept, strict=True):
                    item.copy_(before)
        return self._first

    def _length(self) -> float:
        return math.sqrt(sum(float((item.grad**2).sum()) for item in self._layer.parameters() if item.grad is not None))

    def _penalised(self, c: float) -> float:
        """The loss on all training images with its penalty, and its gradient: added to that of the layer.

        The loss is the mean over images; where these have several classes, the sum over classes.
        """
        import torch

        n, total = len(self._train), 0.0
        classes = len(self._task.classes) if self._task.several else 1
        for start in range(0, n, BLOCK):
            vectors, targets = self._train.batch(slice(start, start + BLOCK))
            loss = self._loss(self._layer(vectors), targets) * (classes * len(vectors) / n)
            torch.autograd.backward(loss)
            total += float(loss.detach())
        penalty = (self._layer.weight**2).sum() / (2 * c * n)
        torch.autograd.backward(penalty)
        return total + float(penalty.detach())

    def _check_finite(self, train_loss: float, val_loss: float) -> None:
        if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
            raise ProtocolError(
                f"the loss of the probe is {train_loss} in epoch {len(self.curve)}; lower the learning rate, and check "
                "that the vectors are finite"
            )

    def _learn(self) -> float:
        """One pass over the training images in a random order; the mean loss."""
        import torch

        total = torch.zeros((), dtype=torch.float64, device=self._device)
        order = torch.randperm(len(self._train), generator=self._order).to(self._device)
        for start in range(0, len(order), self._settings.batch):
            rows = order[start : start + self._settings.batch]
            vectors, targets = self._train.batch(rows)
            self._optimizer.zero_grad()
            loss = self._loss(self._layer(vectors), targets)
            torch.autograd.backward(loss)
            self._optimizer.step()
            total += loss.detach() * len(rows)
        return float(total) / len(self._train)

    def _validate(self) -> tuple[float, float]:
        """Loss and accuracy on the validation images."""
        import torch

        loss, right = 0.0, 0
        with torch.inference_mode():
            for start in range(0, len(self._val), VALIDATED):
                vectors, targets = self._val.batch(slice(start, start + VALIDATED))
                logits = self._layer(vectors)
                loss += float(self._loss(logits, targets)) * len(vectors)
                if self._task.several:
                    right += int(((logits >= 0) == (targets > 0)).all(dim=1).sum())
                else:
                    right += int((logits.argmax(dim=1) == targets).sum())
        return loss / len(self._val), right / len(self._val)

    def _loss(self, logits: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        from torch.nn import functional

        if self._task.several:
            return functional.binary_cross_entropy_with_logits(logits, targets)
        return functional.cross_entropy(logits, targets)

    def _snapshot(self) -> Probe:
        """The layer as it is; before the first epoch one that every accuracy beats."""
        weight, bias = (item.detach().cpu().numpy().copy() for item in (self._layer.weight, self._layer.bias))
        last = self.curve[-1] if self.curve else Epoch(0, math.nan, math.nan, -1.0)
        return Probe(self._task, weight, bias, self._settings.seed, last.epoch, last.val_accuracy)


@dataclass(frozen=True, slots=True)
class Training:
    """A finished training.

    Attributes:
        probe: The weights of the best epoch, or of the best penalty.
        curve: Every epoch; or every penalty in the order of `C_TRIED`.
        unseen: Codes of classes without a training image.
        gradient: Of the loss, with its penalty if there is one, as a part of that of a layer of zeros.
        converged: Whether that is small.
        c: The penalty that was taken; None where there is none.
    """

    probe: Probe
    curve: tuple[Epoch, ...]
    unseen: tuple[int, ...]
    gradient: float = 0.0
    converged: bool = True
    c: float | None = None


def train_probe(train: Examples, val: Examples, task: Task, settings: ProbeSettings | None = None) -> Training:
    """Train one linear layer with AdamW on cross-entropy, or on a binary one a class where images have several.

    The weights of the epoch with the best validation accuracy are taken, the first of them. On one machine's CPU the
    same images, settings and seed give the same weights.

    Args:
        train: What is learnt from.
        val: What tells when to stop.
        task: What is told apart.
        settings: How; the default is the published protocol.

    Raises:
        ProtocolError: images and task don't fit each other, or the loss isn't finite.
        EncoderError: the device isn't here.
    """
    settings = settings or ProbeSettings()
    _check(train, val, task)
    run = Descent(train, val, task, settings)
    unseen = tuple(np.flatnonzero(np.bincount(train.labels.pairs()[1], minlength=len(task.classes)) == 0).tolist())
    if settings.solver == "lbfgs":
        return _to_the_optimum(run, unseen)
    with tqdm(total=settings.epochs, desc="probe", unit="epoch", leave=False, disable=None) as bar:
        while run.unfinished():
            run.step()
            bar.update()
    gradient = run.gradient(run.best)
    return Training(run.best, tuple(run.curve), unseen, gradient, gradient <= SETTLED)


def _to_the_optimum(run: "Descent", unseen: tuple[int, ...]) -> Training:
    """Logistic regression for each penalty, each from the weights of the one before."""
    found: list[tuple[Probe, float]] = []
    with tqdm(C_TRIED, desc="probe", unit="penalty", leave=False, disable=None) as bar:
        for c in bar:
            probe = run.minimise(c)
            found.append((probe, run.gradient(probe, c)))
    losses = [epoch.val_loss for epoch in run.curve]
    best = int(np.argmin(losses))
    probe, gradient = found[best]
    return Training(probe, tuple(run.curve), unseen, gradient, gradient <= _EXACT, C_TRIED[best])


def _check(train: Examples, val: Examples, task: Task) -> None:
    for examples in (train, val):
        if examples.labels.classes != len(task.classes):
            raise ProtocolError(f"images of {examples.labels.classes} classes met a task of {len(task.classes)}")
        if (examples.labels.members is not None) != task.several:
            words = ("several classes", "one") if task.several else ("one class", "several")
            raise ProtocolError(f"a task of {words[0]} an image met images coded for {words[1]}")
    if train.vectors.shape[1] != val.vectors.shape[1]:
        raise ProtocolError(
            f"training vectors of {train.vectors.shape[1]} dimensions met validation vectors of {val.vectors.shape[1]}"
        )
