"""Runs an experiment: each analysis of each collection once, its result beside what it is a result of."""

import contextlib
import hashlib
import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import click

from cbmir.errors import CbmirError, CollectionError
from cbmir.evaluate.analyses.experiment.plan import Plan, Step
from cbmir.evaluate.analyses.experiment.provenance import State, provenance, state_of
from cbmir.evaluate.rows import write_whole
from cbmir.store import Store


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

    ``OUT/COLLECTION/STEP.json`` holds a result and its provenance, ``STEP.csv`` beside it the rows; steps that take all
    collections together lie in OUT itself. A result is kept if what it depends on is the same: the options, the content
    of the collections and the versions of the programs. It is written last, so that a killed run does its step again.
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
    if not again and _key(file) == key:
        return Outcome(name, step.name, "kept", file)
    started, began = datetime.now(UTC), time.monotonic()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        result = _result(_command_line(step, states, store, folder), step)
    except OSError as error:
        raise CbmirError(f"can't write to {folder}: {error.strerror}") from error
    except CbmirError as error:
        return Outcome(name, step.name, "failed", file, time.monotonic() - began, str(error))
    seconds = time.monotonic() - began
    origin |= {"key": key, "started": started.isoformat(timespec="seconds"), "seconds": round(seconds, 1)}
    text = json.dumps({"provenance": origin, "result": result}, indent=1, ensure_ascii=False)
    write_whole(file, text.encode())
    return Outcome(name, step.name, "done", file, seconds)


def _command_line(step: Step, states: Sequence[State], store: Store, folder: Path) -> list[str]:
    names = [state.collection for state in states]
    chosen = names if step.together else ["--collection", *names]
    folders = [item for item in step.command.params if item.name == "out" and _is_folder(item)]
    out = folder / (step.name if folders else f"{step.name}.csv")
    return [*chosen, *step.typed(folder), "--store", store.location, "--out", str(out), "--json"]


def _is_folder(option: click.Parameter) -> bool:
    return isinstance(option.type, click.Path) and not option.type.file_okay


def _result(arguments: list[str], step: Step) -> Any:
    """What a command prints, in this process: the libraries are loaded once."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            step.command.main(arguments, prog_name=step.name, standalone_mode=False)
    except click.ClickException as error:
        raise CbmirError(error.format_message()) from error
    return json.loads(said.getvalue())


def _key(file: Path) -> str | None:
    """What an earlier result depends on; None without one."""
    try:
        key: str = json.loads(file.read_text(encoding="utf-8"))["provenance"]["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return key
