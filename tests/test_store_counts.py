"""What filters ask of a collection: counted once for a batch of queries, and anew after a write."""

from collections import Counter
from dataclasses import replace

import pytest

from cbmir.errors import FilterError
from cbmir.filters import parse_all, resolve
from cbmir.search import Options, Searcher
from cbmir.store.counts import Counts
from cbmir.store.edge_points import EdgeCollection


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How often the engine was asked for what, from now on."""
    found: Counter = Counter()

    def counting(verb: str) -> None:
        real = getattr(EdgeCollection, verb)

        def counted(self, *arguments, **options):
            found[(verb, *map(str, arguments[:1]))] += 1
            return real(self, *arguments, **options)

        monkeypatch.setattr(EdgeCollection, verb, counted)

    for verb in ("count", "_facet", "_own_index", "scroll", "metadata"):
        counting(verb)
    return found


@pytest.fixture
def own(filled, make_batch):
    """The collection `filled` with an own column ``scanner``."""
    batch = make_batch(30)
    records = tuple(replace(item, extra={"scanner": f"S{row % 3}"}) for row, item in enumerate(batch.records))
    filled.upsert(replace(batch, records=records))
    return filled


FILTERS = (
    "dataset=synthetic",
    "modality=ct|mr",
    "labels~CT/chest/*",
    "primary_label!=CT/chest/finding_1",
    "patient_id!=nobody|synthetic",
    "scanner=S1",
    "scanner~s*",
)


@pytest.mark.parametrize("text", [text for text in FILTERS if "nobody" not in text])
def test_search__a_batch_of_queries_counts_each_value_once(own, make_batch, asked, text):
    with Searcher(own) as searcher:
        asked.clear()  # what it reads when it is opened
        for vector in make_batch(20, seed=1).vectors:
            assert searcher.vectors(vector[None], Options(k=3, where=text))[0].hits
    assert asked
    assert set(asked.values()) == {1}, asked


@pytest.mark.parametrize("text", ["dataset=other", "dataset~oth*", "modality=US", "view=a|b"])
def test_resolve__what_another_process_has_stored_is_not_refused(filled, make_batch, text):
    """A count of a moment ago is no reason to say that a value isn't there."""
    batch = make_batch(1, first=90)
    record = replace(batch.records[0], dataset="other", modality="US", view="a|b")
    with pytest.raises(FilterError, match="no "):
        resolve(parse_all(text), filled)
    filled._write(replace(batch, records=(record,)))  # behind the back of this handle's counts
    assert filled.count(resolve(parse_all(text), filled)) == 1


@pytest.mark.parametrize("text", ["dataset=other", "dataset~oth*", "modality=US", "scanner=S9", "scanner~*9"])
def test_resolve__sees_what_the_same_handle_has_written(own, make_batch, text):
    """Stored, changed and removed: each is seen by the next query."""
    batch = make_batch(1, first=90)
    record = replace(batch.records[0], dataset="other", modality="US", extra={"scanner": "S9"})
    with pytest.raises(FilterError):
        resolve(parse_all(text), own)
    own.upsert(replace(batch, records=(record,)))
    assert own.count(resolve(parse_all(text), own)) == 1
    assert own.counted(()) == 31
    own.delete([record.id])
    with pytest.raises(FilterError):
        resolve(parse_all(text), own)
    assert own.counted(()) == 30


def test_resolve__a_glob_takes_values_written_between(own, make_batch):
    (before,) = resolve(parse_all("labels~CT/*"), own)
    batch = make_batch(1, first=91)
    own.upsert(replace(batch, records=(replace(batch.records[0], labels=("CT/chest/new",)),)))
    (after,) = resolve(parse_all("labels~CT/*"), own)
    assert set(after.values) - set(before.values) == {"CT/chest/new"}


def test_facet__lists_no_value_that_is_gone(own):
    """The engine goes on to list it, with a count of 0."""
    (point, *_), *_ = own.scroll()
    own.set_payloads({point.id: {"dataset": "other"}})
    assert own.facet("dataset") == {"synthetic": 29, "other": 1}
    own.delete([point.id])
    assert own.facet("dataset") == own.facet("dataset", limit=5) == {"synthetic": 29}


def test_set_payloads__changes_what_is_counted(own):
    assert own.holds("split", "val")
    (point, *_), *_ = own.scroll()
    own.set_payloads({point.id: {"view": "lateral"}})
    assert own.holds("view", "lateral")
    own.set_payloads({point.id: {"view": "frontal"}})
    assert not own.holds("view", "lateral")


def test_set_metadata__changes_spellings(own):
    assert own.spellings() == {}
    own.set_metadata({"modalities": {"echo": "US"}})
    assert own.spellings() == {"echo": "US"}


def test_make_index__changes_what_own_index_says(own):
    assert own.own_index("extra.scanner") is None
    own.make_index("extra.scanner", "keyword")
    assert own.own_index("extra.scanner") == "keyword"


def test_counts__are_kept_for_a_minute(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("cbmir.store.counts.time.monotonic", lambda: now[0])
    counts, values = Counts(), iter(range(9))
    assert [counts.lately("a", lambda: next(values)) for _ in range(3)] == [0, 0, 0]
    now[0] = 61.0
    assert counts.lately("a", lambda: next(values)) == 1
    counts.forget()
    assert counts.lately("a", lambda: next(values)) == 2


def test_counts__what_was_counted_during_a_write_is_not_kept():
    counts = Counts()

    def written_meanwhile() -> int:
        counts.forget()
        return 1

    assert counts.lately("a", written_meanwhile) == 1
    assert counts.lately("a", lambda: 2) == 2
