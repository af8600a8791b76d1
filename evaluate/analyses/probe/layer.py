"""A linear probe: one layer on frozen vectors, used without torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.classification.verdicts import Verdicts
from cbmir.evaluate.analyses.classification.votes import Labels, Shares
from cbmir.schema import Vectors

BLOCK = 1 << 16
"""Vectors scored at once."""


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
