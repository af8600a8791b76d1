"""A copy over a connection on which things go wrong: all of it arrives once, and what happened is told.

The waits between tries and the time of a call are shorter here than they are in use; what is waited for is the same.
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faults import Fault, Faults
from standin import Standin

from cbmir.collections.transfer import transfer
from cbmir.errors import StoreError
from cbmir.fingerprint import external_card
from cbmir.schema import EmbeddedBatch, ImageRecord, normalise
from cbmir.store import Collection, Layout, open_store
from cbmir.store import retry as policy
from cbmir.store.edge import EdgeStore

pytestmark = pytest.mark.slow

IMAGES = 3000
CARD = external_card("sixteen", 16)
KEY = "a-secret-key"
SCALE = 0.1
"""Of the waits between tries, which are half a second to sixteen in use."""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    rng = np.random.default_rng(5)
    records = tuple(
        ImageRecord(
            filepath=f"{number:05}.png",
            dataset="synthetic",
            split=("train", "val", "test")[number % 3],
            modality=("CT", "MR", "XR")[number % 3],
            labels=(f"CT/chest/finding_{number % 7}",),
            age_years=float(number % 90),
            extra={"number": number, "site": {"name": "A"}},
        )
        for number in range(IMAGES)
    )
    vectors = normalise(rng.standard_normal((IMAGES, CARD.dim), dtype=np.float32))
    with EdgeStore(tmp_path_factory.mktemp("original")).create("a", CARD) as collection:
        collection.upsert(EmbeddedBatch(records, vectors, CARD.fingerprint))
        yield collection


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Standin]:
    with Standin(tmp_path / "server", KEY) as made:
        yield made


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits between tries, but those that a server asks for, and a second for a call."""
    wait_s = policy.retry_after_s

    def shorter(error: Exception, attempt: int) -> float | None:
        asked = wait_s(error, attempt)
        return asked if asked is None or isinstance(error, policy.ResourceExhaustedResponse) else asked * SCALE

    monkeypatch.setattr(policy, "retry_after_s", shorter)
    for name, seconds in {"TIMEOUT_S": 1, "PING_S": 0.3, "PONG_S": 0.6}.items():
        monkeypatch.setattr(f"cbmir.store.connection.{name}", seconds)


def contents(collection: Collection) -> tuple[list[str], list[object], np.ndarray]:
    points = [point for page in collection.scroll(vectors=True) for point in page]
    return [point.id for point in points], [point.payload for point in points], np.stack([p.vector for p in points])


def same(original: Collection, standin: Standin, name: str = "a") -> None:
    """Read the copy without anything between."""
    with open_store(standin.url, KEY) as store, store.open(name) as copy:
        ids, payloads, vectors = contents(copy)
        assert copy.count() == len(ids) == len(set(ids)) == IMAGES
    expected = contents(original)
    assert ids == expected[0]
    assert payloads == expected[1]
    np.testing.assert_allclose(vectors, expected[2], atol=1e-6)


def pushed(original: Collection, url: str) -> int:
    """What ``cbmir collections push`` does; the images that were written."""
    with open_store(url, KEY) as store, store.open_or_create("a", CARD) as copy:
        return transfer(original, copy).written


PLANS = {
    "refused": ([Fault("refuse", after=2, seconds=0.5)], "no Qdrant server answers"),
    "reset at once": ([Fault("reset", after=2, times=2)], "no Qdrant server answers"),
    "reset in the middle": ([Fault("reset", after=1, times=2, nbytes=20_000)], "no Qdrant server answers"),
    "cut after the write": ([Fault("cut", after=1, times=3)], "no Qdrant server answers"),
    "late": ([Fault("delay", after=2, times=2, seconds=0.2)], None),
    "too late": ([Fault("delay", after=2, seconds=1.5)], "no Qdrant server answers"),
    "mute": ([Fault("mute", after=2)], "no Qdrant server answers"),
    "busy": ([Fault("busy", after=2, times=2, seconds=1)], "as planned: busy; trying again in 1 s"),
    "unavailable": ([Fault("unavailable", after=1, times=3)], "as planned: unavailable; trying again in"),
    "aborted": ([Fault("aborted", after=1, times=3)], "answered ABORTED: as planned: aborted; trying again in"),
    "reads too": ([Fault("cut", "Get", after=3, times=2), Fault("busy", "Get", after=8)], "trying again in"),
    "all at once": (
        [
            Fault("cut", after=1),
            Fault("aborted", after=2),
            Fault("reset", after=3, nbytes=5000),
            Fault("busy", after=4),
            Fault("refuse", after=5, seconds=0.2),
        ],
        "trying again in",
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_transfer__arrives_whole_and_once(original, standin, caplog, monkeypatch, name):
    plan, told = PLANS[name]
    silent = name in ("too late", "mute")
    if not silent:  # on a busy machine any call may take longer than a second
        monkeypatch.setattr("cbmir.store.connection.TIMEOUT_S", 120)
        monkeypatch.setattr("cbmir.store.connection.PONG_S", 120)
    with Faults(standin.url, plan) as faults:
        assert pushed(original, faults.url) == IMAGES
    assert len(faults.hits) == sum(fault.times for fault in plan)
    same(original, standin)
    said = [record.message for record in caplog.records if record.name == policy.__name__]
    assert all(text.count(f"{faults.url} (a)") == 1 or (silent and faults.url in text) for text in said)
    assert KEY not in caplog.text
    assert any(told in text for text in said) if told else not said


@pytest.mark.parametrize("kind", ["refuse", "mute"])
def test_transfer__goes_on_by_another_node(original, standin, caplog, kind):
    fallen = [Fault(kind, after=3, times=None, seconds=3600)]
    with Faults(standin.url, fallen) as one, Faults(standin.url) as two:
        assert pushed(original, f"{one.url},{two.url}") == IMAGES
        assert one.hits
    same(original, standin)
    assert "no Qdrant server answers" in caplog.text


@pytest.mark.server
def test_transfer__goes_on_by_another_node_of_a_real_cluster(original):
    """One node falls silent in the middle of the copy, for this client."""
    nodes, key = os.environ.get("QDRANT_CLUSTER_URLS", "").split(","), os.environ.get("QDRANT_API_KEY")
    if len(nodes) < 2 or not nodes[0].startswith("http://"):
        pytest.skip("QDRANT_CLUSTER_URLS names no cluster: http URLs of its nodes, parted by commas")
    name = f"test-{uuid.uuid4().hex[:12]}"
    with open_store(nodes[1], key) as store:
        try:
            with Faults(nodes[0], [Fault("refuse", after=3, seconds=3600)]) as one:
                layout = Layout(shards=len(nodes), replicas=2)
                with open_store(f"{one.url},{nodes[1]}", key) as both, both.create(name, CARD, layout) as copy:
                    assert transfer(original, copy).written == IMAGES
                assert one.hits
            with store.open(name) as copy:
                assert contents(copy)[0] == contents(original)[0]
        finally:
            if name in store.names():
                store.drop(name)


SETTING_UP = {"List": 1, "ListAliases": 0, "Create": 0, "CreateFieldIndex": 0, "UpdateAliases": 0, "Get": 0}
"""Methods, and how many of their calls pass before: whoever doesn't answer the first greeting is told of at once."""


@pytest.mark.parametrize("kind", ["cut", "unavailable"])
def test_create__over_faults(original, standin, kind):
    with Faults(standin.url, [Fault(kind, method, after) for method, after in SETTING_UP.items()]) as faults:
        assert pushed(original, faults.url) == IMAGES
        assert {fault.method for fault in faults.hits} == set(SETTING_UP)
    assert standin.names() == ["a__v1"]
    assert standin.aliases == {"a": "a__v1"}
    same(original, standin)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("refuse", after=4, seconds=3600),
        Fault("reset", after=4, times=None),
        Fault("mute", after=4, times=None),
        Fault("cut", after=4, times=None),
        Fault("busy", after=4, times=None),
        Fault("unavailable", after=4, times=None),
    ],
    ids=lambda fault: fault.kind,
)
def test_transfer__what_never_ends_is_one_error_and_can_be_taken_up(original, standin, monkeypatch, fault):
    monkeypatch.setattr(policy, "RETRIES", 4)
    with Faults(standin.url, [fault]) as faults:
        with pytest.raises(StoreError) as caught:
            pushed(original, faults.url)
        text = str(caught.value)
        assert f"{faults.url} (a)" in text
        assert "\n" not in text
        assert KEY not in text
        faults.heal()
        assert 0 < pushed(original, faults.url) < IMAGES
    same(original, standin)
