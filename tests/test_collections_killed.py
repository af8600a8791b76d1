"""Commands on whole collections, stopped at any moment: nothing is lost or half there, and the same command run again
comes to its end."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from pictures import command, environment
from standin import Standin
from standin_wire import RefusedError

from cbmir.fingerprint import external_card
from cbmir.schema import EmbeddedBatch, ImageRecord, normalise
from cbmir.store import Store, open_store
from cbmir.store.edge import EdgeStore

SEED = 20
TIMEOUT_S = 180
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="copies files with holes by GNU cp")]

Points = dict[str, tuple[str, bytes]]
"""Payload and vector of each point, byte for byte."""


def points_of(store: Store, name: str) -> Points:
    with store.open(name) as collection:
        return {
            point.id: (json.dumps(point.payload, sort_keys=True), point.vector.tobytes())
            for page in collection.scroll(vectors=True)
            for point in page
        }


def batch(count: int, card, folder: str = "a") -> EmbeddedBatch:
    vectors = np.random.default_rng(count).standard_normal((count, card.dim)).astype(np.float32)
    records = tuple(ImageRecord(filepath=f"{folder}/{number:05}.png", dataset="d") for number in range(count))
    return EmbeddedBatch(records, normalise(vectors), card.fingerprint)


CARD = external_card("eight", 8)
COUNT, GONE = 3000, 1200
"""Images, and those of them whose files are gone: `prune` removes them a thousand at a time."""


@dataclass(frozen=True)
class Place:
    """Where a command works, and what was there before.

    Attributes:
        store: Directory or URL.
        folder: For files.
        before: The points of each collection that anybody could see.
    """

    store: str
    folder: Path
    before: Mapping[str, Points]

    def now(self) -> dict[str, Points]:
        with open_store(self.store) as store:
            return {name: points_of(store, name) for name in store.names()}


View = Mapping[str, Points]


@dataclass(frozen=True)
class Attack:
    """A command, and what holds after it was stopped.

    Attributes:
        words: Of the command; ``{folder}`` is that of the place.
        allowed: Whether the collections may look like this at any moment.
        done: Whether they look as they do after the whole command.
        again: What a second run says where the first had done all; empty where it succeeds.
    """

    words: str
    allowed: Callable[[Place, View], bool]
    done: Callable[[Place, View], bool]
    again: str = ""

    def arguments(self, place: Place) -> list[str]:
        return [*self.words.format(folder=place.folder).split(), "--store", place.store]


def others(place: Place, now: View, *but: str) -> bool:
    """Whether all collections but some are as they were."""
    rest, were = ({name: view[name] for name in view if name not in but} for view in (now, place.before))
    return rest == were


def kept(place: Place) -> Points:
    """The points of ``eight`` whose files are there."""
    return {
        id: point for id, point in place.before["eight"].items() if int(json.loads(point[0])["filepath"][2:7]) >= GONE
    }


def pruning(place: Place, now: View) -> bool:
    left = now.get("eight", {}).items()
    return left <= place.before["eight"].items() and kept(place).items() <= left and others(place, now, "eight")


def whole_or_gone(place: Place, now: View) -> bool:
    return now.get("eight", place.before["eight"]) == place.before["eight"] and others(place, now, "eight")


def nothing_else(place: Place, now: View) -> bool:
    return others(place, now)


def a_part(place: Place, now: View) -> bool:
    return now.get("new", {}).items() <= place.before["eight"].items() and others(place, now, "new")


def all_or_none(place: Place, now: View) -> bool:
    return now.get("new", place.before["eight"]) == place.before["eight"] and others(place, now, "new")


def empty(place: Place, now: View) -> bool:
    return not now.get("new", {}) and not now.get("new__v1", {}) and others(place, now, "new", "new__v1")


def a_copy(place: Place, now: View) -> bool:
    return now.get("new") == place.before["eight"]


PRUNE = Attack(
    "collections prune eight --yes --allow-missing 50 --root {folder}/images",
    pruning,
    lambda place, now: now.get("eight") == kept(place),
)
DROP = Attack("collections drop eight --yes", whole_or_gone, lambda _, now: "eight" not in now, "no collection 'eight'")
CREATE = Attack(
    "collections create new --encoder eight --dim 8", empty, lambda _, now: now.get("new") == {}, "exists already"
)
SHORT = {"prune": PRUNE, "drop": DROP, "create": CREATE}
LONG = {
    **SHORT,
    "optimize": Attack("collections optimize eight", nothing_else, nothing_else),
    "restore": Attack("collections restore {folder}/backup --as new", all_or_none, a_copy, "exists already"),
    "import": Attack("collections import {folder}/export --as new", a_part, a_copy),
    "salvage": Attack("collections salvage eight new", a_part, a_copy, "exists already"),
}


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Path:
    """A store with a collection of many images and its neighbour, and the files of some of the images."""
    folder = tmp_path_factory.mktemp("origin")
    (folder / "images/a").mkdir(parents=True)
    for number in range(GONE, COUNT):
        (folder / f"images/a/{number:05}.png").touch()
    with EdgeStore(folder / "store") as store:
        for name, count in (("eight", COUNT), ("neighbour", 30)):
            with store.create(name, CARD) as collection:
                collection.upsert(batch(count, CARD))
                collection.finish()
    return folder


@pytest.fixture(scope="module")
def before(origin) -> View:
    return Place(str(origin / "store"), origin, {}).now()


@pytest.fixture(scope="module")
def archives(origin) -> Path:
    """The same with a backup and an export."""
    store = ("--store", origin / "store")
    for words in (("snapshot", "eight", "--out", origin / "backup"), ("export", "eight", "--out", origin / "export")):
        subprocess.run(command("collections", *words, *store), check=True, env=environment(), capture_output=True)
    return origin


def directory(origin: Path, before: View, target: Path) -> Place:
    """A copy of it all."""
    target.mkdir()
    subprocess.run(["cp", "-r", "--sparse=always", origin / "store", target / "store"], check=True)
    for name in ("images", "backup", "export"):
        (target / name).symlink_to(origin / name)
    return Place(str(target / "store"), target, before)


def stopped(arguments: list[str], how: signal.Signals, seconds: float) -> float:
    """Run a command, send it a signal so long after its start, and wait for its end; how long it lived, in seconds."""
    started = time.monotonic()
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(), text=True
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(how)
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert "Traceback" not in said, said
    return time.monotonic() - started


def check(attack: Attack, place: Place, cbmir) -> None:
    """What is there after a stopped command, and after the same command again."""
    now = place.now()
    assert attack.allowed(place, now), {name: len(points) for name, points in now.items()}
    report = cbmir("doctor", "--store", place.store, "--json")
    for item in json.loads(report.stdout):
        if item["name"] in ("left over", "new", "new__v1", "eight"):
            assert item["state"] == "ok" or "cbmir collections " in item["text"] or "delete" in item["text"], item
    was_done = attack.done(place, now)
    again = cbmir(*attack.arguments(place))
    if again.returncode:
        assert was_done, again.stderr
        assert attack.again, again.stderr
        assert attack.again in again.stderr
    now = place.now()
    assert attack.done(place, now), {name: len(points) for name, points in now.items()}
    assert attack.allowed(place, now)
    assert not [check for check in json.loads(cbmir("doctor", "--store", place.store, "--json").stdout) if
                check["name"] in ("left over", *now) and check["state"] != "ok"]  # fmt: skip


@pytest.mark.parametrize("name", SHORT)
def test_collections__stopped_on_a_directory(origin, before, tmp_path, cbmir, name):
    place = directory(origin, before, tmp_path / "place")
    stopped(SHORT[name].arguments(place), signal.SIGKILL, random.Random(SEED).uniform(0.5, 1.0))
    check(SHORT[name], place, cbmir)


@pytest.mark.soak
@pytest.mark.parametrize("name", LONG)
def test_collections__stopped_on_a_directory_at_thirty_moments(archives, before, tmp_path, cbmir, name):
    """Each at another moment of its life, by each signal in turn."""
    attack, rng = LONG[name], random.Random(SEED)
    place = directory(archives, before, tmp_path / "whole")
    seconds = stopped(attack.arguments(place), signal.SIGKILL, TIMEOUT_S)
    assert attack.done(place, place.now())
    for number in range(30):
        place = directory(archives, before, tmp_path / str(number))
        stopped(attack.arguments(place), SIGNALS[number % len(SIGNALS)], rng.uniform(0.4, 1.0) * seconds)
        check(attack, place, cbmir)
        shutil.rmtree(place.folder)


# a server: killed at the calls that change something


def leads_to_either(place: Place, now: View) -> bool:
    return now["eight"] in (place.before["eight__v1"], place.before["eight"]) and others(
        place, now, "eight", "eight__v1", "eight__v2"
    )


def leads_to(version: str, points: str) -> Callable[[Place, View], bool]:
    return lambda place, now: now["eight"] == place.before[points]


SERVER = {
    "prune": PRUNE,
    "drop": DROP,
    "create": CREATE,
    "next": Attack(
        "collections create eight --next --encoder eight --dim 8",
        lambda place, now: others(place, now, "eight__v3") and not now.get("eight__v3", {}),
        lambda _, now: now.get("eight__v3") == {},
    ),
    "promote": Attack("collections promote eight__v1", leads_to_either, leads_to("eight__v1", "eight__v1")),
    "rollback": Attack(
        "collections rollback eight", leads_to_either, leads_to("eight__v1", "eight__v1"), "is at its oldest version"
    ),
}
CHANGES = ("Create", "Update", "Delete", "Upsert", "ChangeAliases", "CreateFieldIndex", "Set")


@pytest.fixture(scope="module")
def standin(tmp_path_factory):
    with Standin(tmp_path_factory.mktemp("standin") / "server") as made:
        yield made


def server(standin: Standin, origin: Path, versions: bool) -> Place:
    """A server with the collections ``eight``, if need be of two versions, and ``neighbour``, and nothing else."""
    with open_store(standin.url) as store:
        while names := store.names():  # of several versions only one has the alias
            store.drop(names[0])
        counts = {"eight": COUNT, "neighbour": 30}
        for name, count in counts.items():
            with store.create(name, CARD) as collection:
                collection.upsert(batch(60 if versions and name == "eight" else count, CARD))
        if versions:
            own = store.create_version("eight", CARD)
            with store.open(own) as collection:
                collection.upsert(batch(count, CARD))
            store.lead("eight", own)
    place = Place(standin.url, origin, {})
    return Place(standin.url, origin, place.now())


def killed_at(standin: Standin, arguments: list[str], at: int) -> bool:
    """Run a command that is killed when its call arrives that would be the `at`-th to change something; that isn't
    done. False where it has fewer."""
    left, process = [at], []

    def watch(method: str) -> None:
        if method.rpartition("/")[2].startswith(CHANGES):
            left[0] -= 1
            if left[0] == 0:
                process[0].send_signal(signal.SIGKILL)
                raise RefusedError(grpc.StatusCode.ABORTED, "its caller is dead")

    with standin.lock:  # no call is answered before the process is known
        process.append(subprocess.Popen(
            command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(), text=True
        ))  # fmt: skip
        standin.watch = watch
    try:
        _, said = process[0].communicate(timeout=TIMEOUT_S)
    finally:
        standin.watch = lambda method: None
    assert "Traceback" not in said, said
    return process[0].returncode == -signal.SIGKILL


def calls(standin: Standin, origin: Path, attack: Attack, versions: bool, cbmir) -> int:
    """How many calls of a command change something."""
    place, found = server(standin, origin, versions), []
    standin.watch = lambda method: found.append(method.rpartition("/")[2])
    try:
        assert cbmir(*attack.arguments(place)).returncode == 0
    finally:
        standin.watch = lambda method: None
    assert attack.done(place, place.now())
    return sum(name.startswith(CHANGES) for name in found)


@pytest.mark.parametrize(("name", "at"), [("create", 5), ("drop", 1), ("promote", 1)])
def test_collections__killed_at_a_change_to_a_server(standin, origin, cbmir, name, at):
    place = server(standin, origin, name == "promote")
    assert killed_at(standin, SERVER[name].arguments(place), at)
    check(SERVER[name], place, cbmir)


@pytest.mark.soak
@pytest.mark.parametrize("name", SERVER)
def test_collections__killed_at_each_change_to_a_server(standin, origin, cbmir, name):
    attack, versions = SERVER[name], name in ("next", "promote", "rollback")
    for at in range(1, calls(standin, origin, attack, versions, cbmir) + 1):
        place = server(standin, origin, versions)
        assert killed_at(standin, attack.arguments(place), at)
        check(attack, place, cbmir)


def test_drop__is_one_change_to_a_server(standin, origin, cbmir):
    assert calls(standin, origin, DROP, False, cbmir) == 1
