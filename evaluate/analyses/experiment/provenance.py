"""What a result is a result of: enough to tell whether it would come out the same again."""

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

import cbmir
from cbmir.evaluate.analyses.experiment.plan import Step
from cbmir.store import Collection

PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "qdrant-edge-py", "qdrant-client")


@dataclass(frozen=True, slots=True)
class State:
    """A collection at one moment.

    Attributes:
        collection: Its name.
        encoder: Name of its encoder.
        fingerprint: Of that encoder.
        points: Images.
        indexed: Vectors in an HNSW graph, on which approximate figures depend.
        content: SHA-256 of all that figures depend on: ids and payloads, and the vectors where these were made
            elsewhere; elsewise fingerprint and hash of the picture say what a vector is.
    """

    collection: str
    encoder: str
    fingerprint: str
    points: int
    indexed: int
    content: str


def state_of(collection: Collection) -> State:
    """Read a collection once, without vectors unless they were made elsewhere."""
    digest = hashlib.sha256()
    info, card = collection.info(), collection.card
    with tqdm(total=info.points, desc=f"state of {collection.name}", unit="image", leave=False, disable=None) as bar:
        for points in collection.scroll(vectors=card.is_external):
            for point in points:
                digest.update(json.dumps([point.id, point.payload], sort_keys=True).encode())
                if point.vector is not None:
                    digest.update(point.vector.tobytes())
            bar.update(len(points))
    return State(collection.name, card.name, card.fingerprint, info.points, info.indexed, digest.hexdigest())


def provenance(step: Step, states: Sequence[State]) -> dict[str, Any]:
    """What the result of a step is a result of; nothing in it depends on when or where it is made.

    Args:
        step: The analysis.
        states: The collections that it reads.
    """
    return {
        "analysis": step.command.name,
        "options": [Path(word).name if place in step.read else word for place, word in enumerate(step.arguments)],
        "files": [_digest(Path(step.arguments[place])) for place in step.read],
        "collections": [asdict(state) for state in states],
        "versions": {"cbmir": cbmir.__version__, "python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
    }


def _digest(path: Path) -> str | None:
    """SHA-256 of a file; None of a folder, which is too much to read."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
