"""Ingest killed with SIGKILL at any moment and run again comes to what an undisturbed run comes to."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from builders import contents_of, until
from pictures import cbmir, command, environment, write_table

SEED = 7
TIMEOUT_S = 180
MARK = "CBMIR_TEST_RUN"
"""Variable that all processes of one run inherit, so that survivors can be told by it."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for surviving processes in /proc"),
]

Points = dict[str, tuple[dict[str, Any], bytes]]


@dataclass(frozen=True)
class Work:
    """A table to ingest, and what an undisturbed run of it took and left."""

    table: Path
    encoder: str
    count: int
    points: Points
    seconds: float

    def arguments(self, store: Path) -> tuple[object, ...]:
        return (
            *("ingest", "images", self.table, "--encoder", self.encoder, "--store", store),
            *("--workers", 2, "--json", "--failures", store.with_suffix(".csv")),
        )


def work(folder: Path, encoder: str, count: int) -> Work:
    plan = Work(write_table(folder / "data", count), encoder, count, {}, 0.0)
    started = time.monotonic()
    done = cbmir(*plan.arguments(folder / "whole"))
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    return Work(plan.table, encoder, count, contents_of(folder / "whole", encoder), seconds)


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Work:
    return work(tmp_path_factory.mktemp("killed"), "pixels", 1500)


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Work:
    return work(tmp_path_factory.mktemp("killed_network"), "efficientnet-lite0-untrained", 150)


def environments() -> dict[int, bytes]:
    """The environment of every process that lives."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = (entry / "environ").read_bytes()
            except OSError:
                continue  # it has ended, or belongs to somebody else
    return found


def alive(run: str) -> list[int]:
    return [pid for pid, variables in environments().items() if f"{MARK}={run}".encode() in variables]


def indexing(run: str) -> bool:
    for pid in alive(run):
        try:
            if b"cbmir.store.optimize" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False


Moment = Callable[[subprocess.Popen[bytes], str, Path], None]


def after(seconds: float) -> Moment:
    """So long after the start, wherever that finds the run."""

    def wait(process: subprocess.Popen[bytes], run: str, store: Path) -> None:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    return wait


def while_storing(seconds: float) -> Moment:
    """So long after the collection has come into being."""

    def wait(process: subprocess.Popen[bytes], run: str, store: Path) -> None:
        until(lambda: list(store.glob("*/collection.json")) or process.poll() is not None)
        after(seconds)(process, run, store)

    return wait


def while_indexing(seconds: float) -> Moment:
    """So long after the process that builds the index has been started."""

    def wait(process: subprocess.Popen[bytes], run: str, store: Path) -> None:
        until(lambda: indexing(run) or process.poll() is not None)
        after(seconds)(process, run, store)

    return wait


def killed(plan: Work, store: Path, moment: Moment) -> bool:
    """Run, kill at the moment, and look at what is left; False where the run was over before."""
    run = uuid.uuid4().hex
    process = subprocess.Popen(
        command(*plan.arguments(store)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**environment(), MARK: run},
    )
    try:
        moment(process, run, store)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait(TIMEOUT_S)
    listed = cbmir("collections", "list", "--store", store, "--json")  # at once: no lock is left behind
    assert listed.returncode == 0, listed.stderr
    assert sum(row["points"] for row in json.loads(listed.stdout)) <= plan.count
    until(lambda: not alive(run))
    return process.returncode == -signal.SIGKILL


def check_run_again(plan: Work, store: Path) -> None:
    done = cbmir(*plan.arguments(store))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["read"] == plan.count == report["stored"] + report["skipped"]
    points = contents_of(store, plan.encoder)
    assert points.keys() == plan.points.keys()
    assert [id for id in points if points[id] != plan.points[id]] == []
    assert [path.name for path in store.iterdir()] == [plan.encoder]


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [
        pytest.param(after, random.Random(SEED).uniform(0.05, 0.8), id="starting"),
        pytest.param(while_storing, random.Random(SEED + 1).uniform(0.2, 1.2), id="storing"),
        pytest.param(while_indexing, random.Random(SEED + 2).uniform(0.0, 0.2), id="indexing"),
    ],
)
def test_ingest_images__killed_and_run_again_equals_an_undisturbed_run(quick, tmp_path, moment, seconds):
    store = tmp_path / "store"
    while not killed(quick, store, moment(seconds)):  # on a fast machine the run is over by then
        shutil.rmtree(store)
        seconds *= 0.5
    check_run_again(quick, store)


@pytest.mark.soak
@pytest.mark.parametrize("number", range(20))
def test_ingest_images__network_killed_at_twenty_moments(network, tmp_path, number):
    rng = random.Random(SEED + number)
    delay_s = (number + rng.random()) / 20 * network.seconds
    moment = while_indexing(rng.uniform(0.0, 0.4)) if number % 5 == 4 else after(delay_s)
    store = tmp_path / "store"
    while not killed(network, store, moment):  # this run was faster than the undisturbed one: it was over already
        shutil.rmtree(store)
        delay_s *= 0.7
        moment = after(delay_s)
    check_run_again(network, store)


@pytest.mark.soak
def test_ingest_images__killed_again_and_again_in_one_store(quick, tmp_path):
    rng = random.Random(SEED)
    for _ in range(20):
        killed(quick, tmp_path / "store", after(rng.uniform(0.1, quick.seconds)))
    check_run_again(quick, tmp_path / "store")


def test_killed__survivors_would_be_found():
    run = uuid.uuid4().hex
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={**os.environ, MARK: run})
    try:
        until(lambda: alive(run) == [sleeper.pid])
    finally:
        sleeper.kill()
        sleeper.wait()
    assert alive(run) == []
