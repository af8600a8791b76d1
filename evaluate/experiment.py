"""``cbmir evaluate run``: each analysis of each collection once, its result beside what it is a result of."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

import cbmir
from cbmir.errors import CbmirError, CollectionError
from cbmir.evaluate.analysis import Analysis, Chosen
from cbmir.evaluate.configuration import Configuration
from cbmir.evaluate.experiment_plan import Plan, Step
from cbmir.evaluate.results import Result, versions, write_whole
from cbmir.store import Collection, Store


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a step.

    Attributes:
        collection: Whose; None for a step that takes all together.
        step: Its name.
        state: ``done`` now, ``kept`` from an earlier run that nothing has changed since, or ``failed``.
        file: The result.
        seconds: That it took.
        reason: Why it failed; empty otherwise.
    """

    collection: str | None
    step: str
    state: Literal["done", "kept", "failed"]
    file: Path
    seconds: float = 0.0
    reason: str = ""

    def __str__(self) -> str:
        """A line for people."""
        text = f"{self.collection or 'together'}: {self.step} {self.state}"
        return f"{text}: {self.reason}" if self.reason else f"{text} in {self.seconds:.1f} s: {self.file}"


def run(plan: Plan, store: Store, out: Path, *, again: bool = False) -> Iterator[Outcome]:
    """Do all that a plan asks for.

    ``OUT/COLLECTION/STEP.json`` holds a result and its provenance, ``STEP.csv`` beside it the rows. Steps that take all
    collections together lie in OUT itself. A result is kept if what it depends on is the same: its configuration, the
    content of the collections, the code and the versions of the programs; and if its other files are still there. It is
    written last, so that a killed run does its step again.

    A step that fails doesn't stop the others.

    Args:
        plan: The experiment.
        store: Where the collections are; open, but none of them.
        out: Folder of the results.
        again: Keep nothing.

    Yields:
        What became of each step, as it ends.

    Raises:
        CollectionError: a collection doesn't exist.
        CbmirError: a collection can't be read, or a result can't be written.
    """
    states = [_state(plan, store, name) for name in plan.collections or store.names()]
    for state in states:
        for step in plan.steps:
            if not step.together:
                yield _step(step, [state], store, out / state.collection, again)
    for step in plan.steps:
        if step.together:
            yield _step(step, states, store, out, again)


def _state(plan: Plan, store: Store, name: str) -> State:
    try:
        with store.open(name) as collection:
            return state_of(collection)
    except CollectionError as error:
        if not plan.needs or name in store.names():
            raise
        raise CollectionError(f"{error}; make it with: {plan.needs.replace('STORE', store.location)}") from error


def _step(step: Step, states: Sequence[State], store: Store, folder: Path, again: bool) -> Outcome:
    origin = provenance(step, states)
    key = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()
    file = folder / f"{step.name}.json"
    name = None if step.together else states[0].collection
    out = folder / (step.name if step.analysis.folder else f"{step.name}.csv")
    written = step.written(folder)
    if not again and _key(file) == key and all(path.exists() for path in (out, *written.values())):
        return Outcome(name, step.name, "kept", file)
    started, began = datetime.now(UTC), time.monotonic()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        asked = step.configuration.model_copy(update=written)
        names = tuple(state.collection for state in states)
        result = _result(step.analysis, Chosen(store, names), asked)
        files = result.write(out)
    except OSError as error:
        raise CbmirError(f"can't write to {folder}: {error.strerror}") from error
    except CbmirError as error:
        return Outcome(name, step.name, "failed", file, time.monotonic() - began, str(error))
    seconds = time.monotonic() - began
    origin |= {"key": key, "started": started.isoformat(timespec="seconds"), "seconds": round(seconds, 1)}
    made = {"files": [str(path.relative_to(folder)) for path in files]} if step.analysis.folder else {}
    data = {"provenance": origin, "result": {**made, **result.as_json()}}
    write_whole(file, json.dumps(data, indent=1, ensure_ascii=False).encode())
    return Outcome(name, step.name, "done", file, seconds)


def _result(analysis: Analysis[Any], chosen: Chosen, asked: Configuration) -> Result:
    if analysis.takes != "one":
        return analysis.run(chosen, asked)
    with chosen.store.open(chosen.names[0]) as collection:
        return analysis.run(collection, asked)


def _key(file: Path) -> str | None:
    """What an earlier result depends on; None without one."""
    try:
        key: str = json.loads(file.read_text(encoding="utf-8"))["provenance"]["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return key
