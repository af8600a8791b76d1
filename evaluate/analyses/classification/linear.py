"""A linear probe: its layer, and what it is trained on and how."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.classification.votes import NONE, Labels, Shares, Verdicts
from cbmir.schema import Vectors

BLOCK = 1 << 16
"""Vectors scored at once."""

Solver = Literal["adamw", "lbfgs"]


@dataclass(frozen=True, slots=True)
class Task:
    """What a probe tells apart, and in whose vectors.

    Attributes:
        classes: Names of the classes, in the order of their codes.
        fingerprint: Of the encoder that made the vectors.
        several: Whether an image may have several classes, each a question of its own.
    """

    classes: tuple[str, ...]
    fingerprint: str
    several: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """A trained layer.

    Attributes:
        task: What it tells apart.
        weight: (classes, dim).
        bias: (classes,).
        seed: That it was trained with.
        epoch: After which it was taken, from 1.
        val_accuracy: On the validation images after that epoch.
    """

    task: Task
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    seed: int
    epoch: int
    val_accuracy: float

    def scores(self, vectors: Vectors) -> Shares:
        """(n, classes) probabilities: softmax over the classes, or where an image may have several, a sigmoid of each.

        Args:
            vectors: (n, dim) of the encoder that the probe was trained on.

        Raises:
            ProtocolError: the vectors have another length.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.weight.shape[1]:
            raise ProtocolError(f"a probe of {self.weight.shape[1]} dimensions met vectors of shape {vectors.shape}")
        result = np.empty((len(vectors), len(self.bias)))
        for start in range(0, len(vectors), BLOCK):
            logits = (vectors[start : start + BLOCK] @ self.weight.T + self.bias).astype(np.float64)
            result[start : start + BLOCK] = _sigmoid(logits) if self.task.several else _softmax(logits)
        return result

    def verdicts(self, vectors: Vectors, truth: Labels) -> Verdicts:
        """What the probe says of some images: the likeliest class, or all with a probability of 1/2 or more.

        Args:
            vectors: (n, dim).
            truth: Their classes, coded as the task's.
        """
        scores = self.scores(vectors)
        said = scores >= 0.5 if self.task.several else scores.argmax(axis=1).astype(np.int32)
        return Verdicts(truth, said, scores)


def _softmax(logits: Shares) -> Shares:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Shares = powers / powers.sum(axis=1, keepdims=True)
    return result


def _sigmoid(logits: Shares) -> Shares:
    small = np.exp(-np.abs(logits))  # never overflows
    result: Shares = np.where(logits >= 0, 1, small) / (1 + small)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    """How a probe is trained; the defaults are those of the published protocol.

    Attributes:
        solver: ``adamw``: by epochs, stopped by the validation accuracy. ``lbfgs``: to the optimum of logistic
            regression for each penalty of `C_TRIED`, of which the one with the lowest validation loss is taken; of the
            settings that follow only the device has a part then.
        epochs: At most.
        patience: Epochs without a better validation accuracy after which training stops.
        batch: Images a step.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        init_std: Standard deviation of the first weights; the bias starts at 0.
        seed: Of the first weights and the order of images.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``auto``.

    Raises:
        ProtocolError: a setting is out of range.
    """

    solver: Solver = "adamw"
    epochs: int = 100
    patience: int = 20
    batch: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    init_std: float = 0.01
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ProtocolError(f"{name} of a probe is {getattr(self, name)}; it lies above 0")
        for name in ("weight_decay", "init_std", "seed"):
            if not getattr(self, name) >= 0:
                raise ProtocolError(f"{name} of a probe is {getattr(self, name)}; it is 0 or more")


@dataclass(frozen=True, slots=True)
class Examples:
    """Images of one split.

    Attributes:
        vectors: (n, dim) float32; they are read where they are, never copied on a CPU.
        labels: Their classes.

    Raises:
        ProtocolError: there are none, the shapes don't fit, or one has no label.
    """

    vectors: Vectors
    labels: Labels

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or not len(self.vectors) or len(self.vectors) != len(self.labels):
            raise ProtocolError(f"vectors of shape {self.vectors.shape} met the labels of {len(self.labels):,} images")
        if unlabelled := int((self.labels.codes == NONE).sum()):
            raise ProtocolError(f"images without a label: {unlabelled:,} of {len(self.labels):,}; leave them out")

    def take(self, rows: Any) -> "Examples":
        """Some of the images, by number or mask."""
        return Examples(self.vectors[rows], self.labels.take(rows))


@dataclass(frozen=True, slots=True)
class Epoch:
    """A point of the learning curve.

    Attributes:
        epoch: From 1.
        train_loss: Mean over the images, each as its batch was met.
        val_loss: The same loss on the validation images, after the epoch.
        val_accuracy: Share of validation images for which exactly the true classes are predicted.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float
