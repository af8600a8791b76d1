"""What a result is a result of: enough to tell whether it would come out the same again."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

import cbmir
from cbmir.evaluate.analyses.experiment.plan import Step
from cbmir.evaluate.results import versions
from cbmir.store import Collection


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
    read = dict(step.configuration.files("read"))
    return {
        "analysis": step.analysis.name,
        "configuration": {**step.configuration.as_json(), **{field: path.name for field, path in read.items()}},
        "files": [_digest(path) for path in read.values()],
        "collections": [asdict(state) for state in states],
        "versions": versions(),
        "code": code_digest(),
    }


@cache
def code_digest() -> str:
    """SHA-256 of the source files of cbmir: a result is of the code that made it, not of a version number alone."""
    digest = hashlib.sha256()
    root = Path(cbmir.__file__).parent
    folders = os.walk(root, followlinks=True)  # ingest, search and evaluate may be links
    files = (Path(folder) / name for folder, _, names in folders for name in names if name.endswith(".py"))
    for path in sorted(files):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _digest(path: Path) -> str | None:
    """SHA-256 of a file; None of a folder, which is too much to read."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
