"""Images that are made up: records with the payload of chest X-rays, and vectors that lie as those of an encoder do."""

from collections.abc import Iterator

import numpy as np

from cbmir.schema import EmbeddedBatch, ImageRecord, Vectors, normalise

_CLUSTERS, _BATCH = 500, 512


def batches(images: int, dim: int, fingerprint: str) -> Iterator[EmbeddedBatch]:
    """So many images, in batches."""
    for start in range(0, images, _BATCH):
        numbers = range(start, min(start + _BATCH, images))
        yield EmbeddedBatch(tuple(map(record, numbers)), vectors(len(numbers), dim, start + 1), fingerprint)


def record(number: int) -> ImageRecord:
    """An image by its number."""
    return ImageRecord(
        filepath=f"images_{number % 12:03}/{number:08}_000.png",
        dataset="bench",
        split=("train", "val", "test")[number % 3],
        modality="XR",
        anatomic_region="chest",
        labels=(f"XR/chest/finding_{number % 14}",),
        patient_id=f"bench-{number // 4:07}",
        study_id=f"bench-{number // 2:07}",
        sha256=f"{number:064x}",
        width=1024,
        height=1024,
        age_years=float(number % 90),
        sex="FM"[number % 2],
        view=("pa", "ap")[number % 2],
    )


def vectors(count: int, dim: int, seed: int) -> Vectors:
    """(count, dim) unit vectors around centres that are the same for every seed."""
    centres = np.random.default_rng(0).standard_normal((_CLUSTERS, dim))
    rng = np.random.default_rng(seed)
    return normalise(
        (centres[rng.integers(0, _CLUSTERS, count)] + rng.standard_normal((count, dim))).astype(np.float32)
    )
