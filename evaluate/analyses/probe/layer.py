"""A linear probe: one layer on frozen vectors, kept in one file and used without torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import FingerprintError, ProtocolError, WeightsError
from cbmir.evaluate.analyses.classification.verdicts import Verdicts
from cbmir.evaluate.analyses.classification.votes import Labels, Shares
from cbmir.evaluate.results import write_whole
from cbmir.schema import Vectors

BLOCK = 1 << 16
"""Vectors scored at once."""

FORMAT = 1


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
            vectors: (n, dim) of the encoder that the probe was trained on, see `require`.

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

    def require(self, fingerprint: str) -> None:
        """Refuse vectors of another encoder.

        Raises:
            FingerprintError: the probe was trained on vectors with another fingerprint.
        """
        if fingerprint != self.task.fingerprint:
            raise FingerprintError(
                f"the probe was trained on vectors with fingerprint {self.task.fingerprint}, these have {fingerprint}"
            )

    def save(self, path: Path) -> None:
        """Write the probe as one safetensors file, and what it is as JSON beside it, for people.

        A reader finds the old file or the new one, never a part.

        Raises:
            CbmirError: the files can't be written.
        """
        from safetensors.numpy import save

        text = json.dumps(self._card(), indent=1)
        content = save({"weight": self.weight, "bias": self.bias}, metadata={"probe": text})
        write_whole(path, content)
        write_whole(path.with_suffix(".json"), text.encode())

    @classmethod
    def load(cls, path: Path) -> "Probe":
        """Read a probe that `save` wrote; the JSON beside it isn't needed.

        Raises:
            WeightsError: the file is missing, damaged, or no probe.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                tensors = {key: file.get_tensor(key) for key in ("weight", "bias")}
                return cls._from((file.metadata() or {})["probe"], tensors)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path} is no probe of this cbmir or is damaged ({error})") from error

    def _card(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "fingerprint": self.task.fingerprint,
            "seed": self.seed,
            "epoch": self.epoch,
            "val_accuracy": self.val_accuracy,
            "several": self.task.several,
            "classes": list(self.task.classes),
        }

    @classmethod
    def _from(cls, text: str, tensors: Mapping[str, Any]) -> "Probe":
        card = json.loads(text)
        if card["format"] != FORMAT:
            raise ValueError(f"format {card['format']}, this cbmir reads {FORMAT}")
        task = Task(tuple(card["classes"]), card["fingerprint"], card["several"])
        if tensors["weight"].shape[:1] != tensors["bias"].shape or len(tensors["bias"]) != len(task.classes):
            raise ValueError(f"{len(task.classes)} classes with weights of shape {tensors['weight'].shape}")
        return cls(task, tensors["weight"], tensors["bias"], card["seed"], card["epoch"], card["val_accuracy"])


def _softmax(logits: Shares) -> Shares:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Shares = powers / powers.sum(axis=1, keepdims=True)
    return result


def _sigmoid(logits: Shares) -> Shares:
    small = np.exp(-np.abs(logits))  # never overflows
    result: Shares = np.where(logits >= 0, 1, small) / (1 + small)
    return result
