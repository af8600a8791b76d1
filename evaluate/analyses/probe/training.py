"""Training of a linear probe: seeded and stopped early."""

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.probe.descent import Descent, Epoch, Examples, ProbeSettings
from cbmir.evaluate.analyses.probe.layer import Probe, Task


@dataclass(frozen=True, slots=True)
class Training:
    """A finished training.

    Attributes:
        probe: The weights of the best epoch.
        curve: Every epoch.
        unseen: Codes of classes without a training image.
    """

    probe: Probe
    curve: tuple[Epoch, ...]
    unseen: tuple[int, ...]


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
    with tqdm(total=settings.epochs, desc="probe", unit="epoch", leave=False, disable=None) as bar:
        while run.unfinished():
            run.step()
            bar.update()
    seen = np.bincount(train.labels.pairs()[1], minlength=len(task.classes))
    return Training(run.best, tuple(run.curve), tuple(np.flatnonzero(seen == 0).tolist()))


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
