"""Training of a linear probe: seeded, stopped early, and resumed where it was killed."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.probe.descent import Descent, Epoch, Examples, ProbeSettings
from cbmir.evaluate.analyses.probe.layer import Probe, Task
from cbmir.evaluate.results import write_whole

BEST = "best.safetensors"
LAST = "last.pt"


@dataclass(frozen=True, slots=True)
class Training:
    """A finished training.

    Attributes:
        probe: The weights of the best epoch.
        curve: Every epoch.
        unseen: Codes of classes without a training image.
        resumed: Epochs that an earlier run had done.
    """

    probe: Probe
    curve: tuple[Epoch, ...]
    unseen: tuple[int, ...]
    resumed: int


def train_probe(
    train: Examples, val: Examples, task: Task, settings: ProbeSettings | None = None, folder: Path | None = None
) -> Training:
    """Train one linear layer with AdamW on cross-entropy, or on a binary one a class where images have several.

    The weights of the epoch with the best validation accuracy are taken, the first of them. On one machine's CPU the
    same images, settings and seed give the same weights, in one run or in several.

    Args:
        train: What is learnt from.
        val: What tells when to stop.
        task: What is told apart.
        settings: How; the default is the published protocol.
        folder: Where `BEST` is written at each improvement and `LAST` after each epoch; a run that finds its own
            `LAST` there goes on from it. None keeps nothing.

    Raises:
        ProtocolError: images and task don't fit each other, the folder holds another run, or the loss isn't finite.
        EncoderError: the device isn't here.
        WeightsError: `LAST` is damaged.
        CbmirError: a file can't be written.
    """
    settings = settings or ProbeSettings()
    _check(train, val, task)
    run = Descent(train, val, task, settings)
    terms = _terms(train, val, task, settings)
    last = folder / LAST if folder else None
    if last and last.exists():
        run.restore(last, terms)
    resumed = len(run.curve)
    with tqdm(total=settings.epochs, initial=resumed, desc="probe", unit="epoch", leave=False, disable=None) as bar:
        while run.unfinished():
            improved = run.step()
            if folder and improved:
                run.best.save(folder / BEST)
            if last:
                write_whole(last, run.state(terms))
            bar.update()
    seen = np.bincount(train.labels.pairs()[1], minlength=len(task.classes))
    return Training(run.best, tuple(run.curve), tuple(np.flatnonzero(seen == 0).tolist()), resumed)


def _terms(train: Examples, val: Examples, task: Task, settings: ProbeSettings) -> dict[str, Any]:
    """What must be the same for a run to go on: all that the weights depend on, but for the device."""
    kept = ("batch", "learning_rate", "weight_decay", "init_std", "seed")
    return {
        "classes": list(task.classes),
        "fingerprint": task.fingerprint,
        "several": task.several,
        "training images": _traits(train),
        "validation images": _traits(val),
        **{name: getattr(settings, name) for name in kept},
    }


def _traits(examples: Examples) -> list[int]:
    """Shape and checksums of some images, by which another choice or order of them shows; vectors by a sample."""
    sample = examples.vectors[:: max(1, len(examples.vectors) // 1024)]
    return [*examples.vectors.shape, *(zlib.crc32(item.tobytes()) for item in (examples.labels.codes, sample))]


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
