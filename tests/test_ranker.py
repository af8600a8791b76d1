"""Rankers: the contract over all of them, one of ten lines through every analysis, and how often anything is asked."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from pictures import write_picture

import cbmir.evaluate.ranking.reading
import cbmir.evaluate.ranking.relevance
from cbmir.errors import CbmirError, CollectionError, EncoderError, ProtocolError, QueryError
from cbmir.evaluate import (
    AuditTerms,
    RetrievalProtocol,
    SweepTerms,
    audit_collection,
    conditions,
    evaluate_classification,
    evaluate_retrieval,
    evaluate_sweep,
)
from cbmir.evaluate.analyses.comparison import compare_collections
from cbmir.evaluate.analyses.report.report import make_report
from cbmir.evaluate.analyses.report.terms import ReportTerms
from cbmir.evaluate.analyses.sweep import Size
from cbmir.evaluate.cli import command_of
from cbmir.evaluate.protocol import searches
from cbmir.evaluate.ranking.exact import ExactScan
from cbmir.evaluate.ranking.exclusion import Exclusion
from cbmir.evaluate.ranking.session import Session, read_trial
from cbmir.evaluate.ranking.trial import StoredGallery
from cbmir.evaluate.registry import ANALYSES
from cbmir.fingerprint import external_card
from cbmir.schema import EmbeddedBatch, ImageRecord, normalise
from cbmir.search import (
    ImageQuery,
    Options,
    Searcher,
    StoredQuery,
    TextQuery,
    VectorQuery,
    WeightedQuery,
)
from cbmir.search.query import weighted
from cbmir.search.ranker import NONE, allowed, best, ranker, ranker_named
from cbmir.store import open_store
from cbmir.store.edge import EdgeCollection
from cbmir.store.fused import FusedCollection

IMAGES, DIM, CLASSES = 600, 16, 4
SPLITS = ("test", "val", "train", "train", "train")
PROTOCOL = RetrievalProtocol(k=(1, 10), measures=("precision",), searches=("exact",), draws=0)


@ranker("random")
class RandomRanker:
    ranks_parts = True

    def __init__(self, collection, device):
        """It needs neither."""

    def rank(self, queries, gallery, exclusions, depth):
        scores = np.random.default_rng(0).random((len(queries), len(gallery)))
        open_to = [allowed(exclusion, len(queries), len(gallery)) for exclusion in exclusions]
        return [best(np.where(mask, scores, -np.inf), depth) for mask in open_to]


def put(store, name, seed):
    """Images of four classes of one in four, with patients, two data sets, and vectors that tell the classes."""
    rng = np.random.default_rng(seed)
    records = tuple(
        ImageRecord(
            filepath=f"{number:03}.png",
            dataset=("one", "two")[number % 3 == 0],
            split=SPLITS[number % len(SPLITS)],
            modality=("CT", "MR")[number % 2],
            view=("a", "b")[number % 7 == 0],
            labels=(f"CT/chest/finding_{number // 5 % CLASSES}",),
            patient_id=f"p{number // 2 % 70}" if number % 4 else None,
        )
        for number in range(IMAGES)
    )
    centres = 2 * rng.standard_normal((CLASSES, DIM))
    vectors = centres[np.arange(IMAGES) // 5 % CLASSES] + rng.standard_normal((IMAGES, DIM))
    card = external_card(name, DIM)
    collection = store.create(name, card)
    collection.upsert(EmbeddedBatch(records, normalise(vectors.astype(np.float32)), card.fingerprint))
    return collection


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with open_store(tmp_path_factory.mktemp("rankers") / "store") as opened:
        for seed, name in enumerate(("one", "two")):
            put(opened, name, seed).close()
        yield opened


@pytest.fixture
def collection(store):
    with store.open("one") as opened:
        yield opened


@pytest.fixture
def calls(monkeypatch):
    """How often the real thing is asked, by name."""
    counts = dict.fromkeys(("scrolls", "vectors", "ids", "scans", "tables", "queries"), 0)

    def spy(owner, name, count):
        real = getattr(owner, name)

        def wrapped(*arguments, **options):
            count(*arguments, **options)
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, wrapped)

    def add(name, by=1):
        counts[name] += by

    def scrolled(_, where=(), *, fields=True, vectors=False, batch=0):
        add("scrolls" if fields else "vectors" if vectors else "ids")

    spy(EdgeCollection, "scroll", scrolled)
    spy(ExactScan, "rank", lambda *_: add("scans"))
    spy(cbmir.evaluate.ranking.relevance, "_table", lambda *_: add("tables"))
    spy(EdgeCollection, "search", lambda _, vectors, *__, **___: add("queries", len(vectors)))
    return counts


def share(rows, measure="precision"):
    """The value of the figure over all queries at the last cutoff."""
    return [row.value for row in rows if (row.measure, row.average, row.group) == (measure, "micro", "all")][-1]


@pytest.mark.parametrize("search", searches())
@pytest.mark.parametrize("exclude", [(), ("patient",), ("patient", "dataset")])
def test_rank__contract(collection, search, exclude):
    protocol = replace(PROTOCOL, queries=conditions(["split=test|train"]), exclude=exclude)
    cls = ranker_named(search)
    if search == "ranks":
        collection = FusedCollection("both", (collection, collection), (1.0, 1.0))
    trial = read_trial(collection, protocol)
    free, exclusion = (Exclusion(trial, fields) for fields in ((), protocol.excluded_fields))
    terms = [free, exclusion]
    if cls.ranks_parts:
        kept = np.arange(len(trial.gallery)) % 40 == 0
        terms += [exclusion.within(kept), exclusion]
    depth, count = 300, len(trial.gallery)
    rankings = cls(collection, "cpu").rank(trial.query_vectors, StoredGallery(collection, trial), terms, depth)
    assert len(rankings) == len(terms)
    for term, ranking in zip(terms, rankings, strict=True):
        assert ranking.positions.shape == ranking.scores.shape == (len(trial.queries), depth)
        may = allowed(term, len(trial.queries), count)
        there = ranking.positions != NONE
        assert np.array_equal(there.sum(axis=1), np.minimum(may.sum(axis=1), depth))  # all that there is to find
        assert np.array_equal(there, ~np.isnan(ranking.scores))
        assert not (there[:, 1:] & ~there[:, :-1]).any()  # missing ones come last
        rows = np.nonzero(there)[0]
        assert may[rows, ranking.positions[there]].all()
        assert len(np.unique(rows * count + ranking.positions[there])) == len(rows)
        falls = ranking.scores[:, 1:] <= ranking.scores[:, :-1] + 1e-6
        assert (falls | ~there[:, 1:]).all()


def test_ranker__two_of_one_name():
    with pytest.raises(CbmirError, match=r"two rankers have the name 'random': RandomRanker and .*Other"):

        @ranker("random")
        class Other(RandomRanker):
            pass


def test_best__hand_worked():
    scores = np.array([[0.1, 0.5, 0.5, -np.inf], [-np.inf, -np.inf, -np.inf, 0.2]])
    ranking = best(scores, 3)
    assert ranking.positions.tolist() == [[1, 2, 0], [3, NONE, NONE]]
    np.testing.assert_allclose(ranking.scores, [[0.5, 0.5, 0.1], [0.2, np.nan, np.nan]], rtol=1e-6)
    assert best(scores, 6).positions.shape == (2, 6)


RANDOM = replace(PROTOCOL, searches=("random",))
CHANCE = 1 / CLASSES
ERROR = 4 * (CHANCE * (1 - CHANCE) / 1200) ** 0.5  # 120 queries of 10 places


def test_random__retrieval(collection):
    report = evaluate_retrieval(collection, RANDOM)
    assert share(report.rows) == pytest.approx(CHANCE, abs=ERROR)
    assert {row.search for row in report.rows} == {"random"}
    assert report.setting.ef is None  # no graph was asked
    assert share(evaluate_retrieval(collection, PROTOCOL).rows) > 0.7


def test_random__classification(collection):
    report = evaluate_classification(collection, RANDOM)
    assert share(report.rows, "accuracy") == pytest.approx(CHANCE, abs=0.2)  # of 120 queries
    assert share(evaluate_classification(collection, PROTOCOL).rows, "accuracy") > 0.8


def test_random__comparison(store):
    with store.open("one") as one, store.open("two") as two:
        report = compare_collections([one, two], replace(RANDOM, k=(10,), draws=200))
    for row in report.rows:
        assert row.first_value == pytest.approx(CHANCE, abs=ERROR)
        assert row.difference == 0  # the same random scores


def test_random__sweep(collection):
    report = evaluate_sweep(collection, RANDOM, SweepTerms(sizes=(Size(90), Size(360)), galleries=3))
    for row in report.rows:
        if (row.measure, row.average, row.group, row.k) == ("precision", "micro", "all", 10):
            assert row.value == pytest.approx(CHANCE, abs=ERROR)
            assert row.coverage == 1


def test_random__audit(collection):
    (found,) = audit_collection(collection, AuditTerms(confounders=("view",), search="random", draws=0)).confounding
    assert found.index == pytest.approx(found.chance, abs=0.05)
    (exact,) = audit_collection(collection, AuditTerms(confounders=("view",), draws=0)).confounding
    assert exact.index > found.index + 0.2


def test_random__report(store):
    report = make_report(store, ["one"], ReportTerms(protocol=replace(RANDOM, k=(1, 10)), pictures=0))
    (measured,) = report.measured
    assert share(measured.retrieval.rows) == pytest.approx(CHANCE, abs=ERROR)
    assert {row.search for row in measured.curve} == {"random"}


@pytest.mark.parametrize("name", ["retrieval", "classify", "compare"])
def test_random__command(store, name):
    command = command_of(ANALYSES[name])  # made anew, as the ranker came later
    given = ["one", "two"] if name == "compare" else ["--collection", "one"]
    arguments = [*given, "--store", store.location, "--draws", "0", "--json", "--search"]
    done = CliRunner().invoke(command, [*arguments, "random"])
    assert done.exit_code == 0, done.output
    assert "random" in json.loads(done.stdout)["protocol"]["search"]
    done = CliRunner().invoke(command, [*arguments, "hnsw"])
    assert done.exit_code == 2
    assert "'random'" in done.stderr


def test_evaluate_sweep__refuses_a_search_that_cannot_rank_parts(collection):
    with pytest.raises(ProtocolError, match=r"search approximate can't be asked for a part of .*; use exact, random"):
        evaluate_sweep(collection, replace(PROTOCOL, searches=("approximate",)))


@pytest.mark.parametrize("held", [True, False])
def test_make_report__reads_once_and_scans_once(store, calls, monkeypatch, held):
    if not held:
        monkeypatch.setattr(cbmir.evaluate.ranking.reading, "HELD_BYTES", 0)
    report = make_report(store, ["one"], ReportTerms(protocol=replace(PROTOCOL, k=(1, 5)), pictures=0))
    assert report.measured
    assert report.findings[0].drawn is not None
    assert calls == {"scrolls": 1, "vectors": int(not held), "ids": 0, "scans": 1, "tables": 1, "queries": 0}


def test_make_report__asks_the_store_once_a_query_and_exclusion(store, calls):
    terms = ReportTerms(protocol=replace(PROTOCOL, searches=("approximate",)), pictures=0)
    assert make_report(store, ["one"], terms).measured
    asked = 2 * IMAGES // len(SPLITS)  # test and validation images
    assert calls["queries"] == 2 * asked  # without images of the patient, and with them
    assert (calls["scrolls"], calls["scans"], calls["tables"]) == (1, 0, 1)


def test_evaluate_sweep__scans_once(collection, calls):
    evaluate_sweep(collection, PROTOCOL, SweepTerms(galleries=3))
    assert calls == {"scrolls": 1, "vectors": 0, "ids": 0, "scans": 1, "tables": 1, "queries": 0}


@pytest.mark.parametrize("analysis", [evaluate_retrieval, evaluate_classification])
def test_analyses__read_and_scan_once(collection, calls, analysis):
    analysis(collection, PROTOCOL)
    assert calls == {"scrolls": 1, "vectors": 0, "ids": 0, "scans": 1, "tables": 1, "queries": 0}


def test_session__nothing_is_asked_twice(collection, calls):
    session = Session(collection)
    protocol = replace(PROTOCOL, searches=("approximate", "qdrant"), exclude=())
    first = evaluate_retrieval(session, protocol)
    again = evaluate_retrieval(session, replace(protocol, k=(3,), searches=("qdrant",)))
    asked = IMAGES // len(SPLITS)
    assert calls["queries"] == asked  # one search under two names, and a shallower one
    more = evaluate_retrieval(session, replace(protocol, queries=conditions(["split=test|val"])))
    assert calls["queries"] == 2 * asked  # only those that are new
    assert [row.value for row in first.rows if row.search == "qdrant"] == [
        row.value for row in first.rows if row.search == "approximate"
    ]
    assert share(again.rows) == share(evaluate_retrieval(collection, replace(protocol, k=(3,))).rows)
    expected = evaluate_retrieval(collection, replace(protocol, queries=conditions(["split=test|val"])))
    np.testing.assert_equal([row.value for row in more.rows], [row.value for row in expected.rows])


FILTERS = [
    (["split=test"], ["split=train"], 1),
    (["split=test", "modality=CT"], ["split=train", "modality=CT"], 1),
    (["split=test", "view=b"], ["split=train"], 2),  # one filter for both would read images that nobody needs
    (["split=test"], ["all"], 1),
    (["split=test"], ["split!=test"], 2),
    (["split=test"], ["split=test|train"], 1),
]


@pytest.mark.parametrize(("queries", "gallery", "scrolls"), FILTERS)
def test_read_table__is_what_the_store_finds(collection, calls, queries, gallery, scrolls):
    protocol = replace(PROTOCOL, queries=conditions(queries), gallery=conditions(gallery))
    trial = read_trial(collection, protocol)
    assert calls["scrolls"] <= scrolls
    for where, images in ((trial.queries_where, trial.queries), (trial.gallery_where, trial.gallery)):
        points = [point for page in collection.scroll(where, vectors=True) for point in page]
        assert [id.ljust(16, b"\0").hex() for id in images.ids.tolist()] == [p.id.replace("-", "") for p in points]
        words = list(trial.vocabularies["primary_label"])
        assert [words[code] for code in images.codes["primary_label"]] == [
            (p.payload["primary_label"],) for p in points
        ]
        vectors = trial.query_vectors if images is trial.queries else trial.gallery_vectors[:]
        np.testing.assert_array_equal(vectors, [point.vector for point in points])


def test_weighted__hand_worked():
    one, other = np.eye(2, dtype=np.float32)[:, np.newaxis]
    np.testing.assert_allclose(weighted(np.stack([one, other]), (3, 4)), [[0.6, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(weighted(np.stack([one, other]), (30, 40)), [[0.6, 0.8]], rtol=1e-6)
    with pytest.raises(QueryError, match="cancel each other"):
        weighted(np.stack([one, -one]), (1, 1))


def test_ask__a_weighted_set_ranks_by_the_weighted_cosines(collection):
    names = [point.id for page in collection.scroll() for point in page][:2]
    stored = {point.id: point.vector for page in collection.scroll(vectors=True) for point in page}
    text = np.random.default_rng(3).standard_normal(DIM).astype(np.float32)
    query = WeightedQuery(((StoredQuery(names[0]), 1.0), (StoredQuery(names[1]), 2.0), (VectorQuery(text), 0.5)))
    (answer,) = Searcher(collection).ask(query, Options(k=20, way="exact"))
    parts = [stored[names[0]], stored[names[1]], text / np.linalg.norm(text)]
    sums = {
        id: sum(w * float(vector @ part) for w, part in zip((1, 2, 0.5), parts, strict=True))
        for id, vector in stored.items()
    }
    for name in names:
        del sums[name]  # a query never finds itself
    assert [hit.id for hit in answer.hits] == sorted(sums, key=lambda id: -sums[id])[:20]


def test_ask__one_query_of_each_kind_is_as_before(collection):
    searcher = Searcher(collection)
    point = next(point for page in collection.scroll(vectors=True) for point in page)
    assert searcher.ask(StoredQuery(point.id))[0].hits == searcher.like(point.id).hits
    assert searcher.ask(VectorQuery(point.vector))[0].hits == searcher.ask(point.vector)[0].hits
    alone = searcher.ask(WeightedQuery(((StoredQuery(point.id), 7.0),)))[0]
    assert [hit.id for hit in alone.hits] == [hit.id for hit in searcher.like(point.id).hits]
    with pytest.raises(CollectionError, match="has the shape"):
        searcher.ask(VectorQuery(point.vector[:3]))


def test_ask__images_and_texts(tmp_path):
    from cbmir.encoders import get

    encoder = get("pixels")
    card, rng = encoder.card, np.random.default_rng(0)
    file = write_picture(tmp_path / "query.png", 1)
    with open_store(tmp_path / "store") as store, store.create("pixels", card) as collection:
        records = tuple(ImageRecord(filepath=f"{n}.png", dataset="d") for n in range(9))
        vectors = normalise(rng.standard_normal((9, card.dim)).astype(np.float32))
        collection.upsert(EmbeddedBatch(records, vectors, card.fingerprint))
        searcher = Searcher(collection, encoder=encoder)
        asked = searcher.ask(ImageQuery(file))[0].hits
        assert [(hit.id, hit.score) for hit in asked] == [(hit.id, hit.score) for hit in searcher.image(file)]
        with pytest.raises(EncoderError, match="text"):
            searcher.ask(TextQuery("pneumonia"))
        with pytest.raises(QueryError, match="is empty"):
            searcher.ask(TextQuery(" "))
