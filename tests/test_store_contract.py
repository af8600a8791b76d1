"""One suite over every store.

A directory, the client's own engine, a stand-in of a server over real gRPC, and real ones: a server where QDRANT_URL
names one, a cluster where QDRANT_CLUSTER_URLS names its nodes.
"""

import dataclasses
import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import QdrantClient
from standin import Standin
from standin_rest_calls import RestCalls

from cbmir.errors import CollectionError, FilterError, FingerprintError, RecordError, StoreError
from cbmir.filters import Condition, Where, parse, resolve
from cbmir.fingerprint import external_card
from cbmir.schema import INDEXED_FIELDS, EmbeddedBatch, ImageRecord, normalise
from cbmir.store import Collection, Store, open_store
from cbmir.store.edge import EdgeStore
from cbmir.store.server import ServerStore

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")]

CARD = external_card("four", 4)
NOWHERE = str(uuid.UUID(int=0))
X, Y = np.eye(4, dtype=np.float32)[:2]

IMAGES = {
    "a": ImageRecord(
        filepath="a", dataset="one", split="train", modality="CT", anatomic_region="chest",
        labels=("CT/chest/nodule", "CT/chest/mass"), patient_id="p1", width=512, height=512,
        age_years=34.5, sex="F", view="axial", study_date="2020-01-05", extra={"kernel": "B30f"},
    ),
    "b": ImageRecord(
        filepath="b", dataset="one", split="train", modality="CT", anatomic_region="chest",
        labels=("CT/chest/normal",), patient_id="p1", width=512, height=400,
        age_years=34.5, sex="F", view="coronal", study_date="2020-06-30T12:30:00",
    ),
    "c": ImageRecord(
        filepath="c", dataset="one", split="val", modality="XR", anatomic_region="chest",
        labels=("XR/chest/nodule",), patient_id="p2", width=1024, height=1024,
        age_years=70.0, sex="M", view="pa", study_date="2021-03-01",
    ),
    "d": ImageRecord(
        filepath="d", dataset="two", split="test", modality="XR", anatomic_region="hand",
        labels=("XR/hand/fracture",), patient_id="p3", width=800, height=600, age_years=8.0, view="lateral",
    ),
    "e": ImageRecord(filepath="e", dataset="two", modality="MR", labels=("MR/brain",), study_date="1999-12-31"),
    "f": ImageRecord(filepath="f", dataset="two"),
}  # fmt: skip
DEGREES = {"a": 10.0, "b": 20.0, "c": 40.0, "d": 80.0, "e": 120.0, "f": 170.0}
"""Angle between each image's vector and X."""


def _batch(records: list[ImageRecord], vectors: np.ndarray, fingerprint: str = CARD.fingerprint) -> EmbeddedBatch:
    return EmbeddedBatch(tuple(records), vectors.astype(np.float32), fingerprint)


def _at(degrees: list[float]) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return (np.cos(radians)[:, None] * X + np.sin(radians)[:, None] * Y).astype(np.float32)


def _keys(ids: list[str]) -> str:
    names = {record.id: key for key, record in IMAGES.items()}
    return "".join(names[id] for id in ids)


@pytest.fixture(
    scope="module",
    params=[
        "edge",
        "memory",
        "standin",
        "rest",
        pytest.param("server", marks=pytest.mark.server),
        pytest.param("cluster", marks=pytest.mark.server),
    ],
)
def engine(request: pytest.FixtureRequest) -> str:
    """What is behind `store`."""
    return str(request.param)


@pytest.fixture(scope="module")
def store(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with _opened(engine, tmp_path_factory.mktemp("contract")) as made:
        yield made


@contextmanager
def _opened(engine: str, folder: Path) -> Iterator[Store]:
    with ExitStack() as stack:
        if engine == "edge":
            made: Store = EdgeStore(folder)
        elif engine == "memory":
            made = ServerStore.over(QdrantClient(":memory:"), "memory")
        elif engine == "standin":
            made = open_store(stack.enter_context(Standin(folder, "a-key")).url, "a-key")
        elif engine == "rest":
            standin = stack.enter_context(Standin(folder, "a-key", rest_handler=RestCalls))
            made = open_store(standin.url, "a-key", transport="rest")
        else:
            variable = {"server": "QDRANT_URL", "cluster": "QDRANT_CLUSTER_URLS"}[engine]
            url = os.environ.get(variable, "").split(",")[0].strip()
            if not url:
                pytest.skip(f"{variable} names no server")
            made = open_store(url, os.environ.get("QDRANT_API_KEY"))
        yield stack.enter_context(made)


@contextmanager
def _name(store: Store) -> Iterator[str]:
    made = f"test-{uuid.uuid4().hex[:12]}"
    yield made
    for left in store.names():
        if left.startswith(made):
            store.drop(left)


@pytest.fixture
def name(store: Store) -> Iterator[str]:
    """A name nobody else uses; what starts with it is dropped afterwards."""
    with _name(store) as made:
        yield made


@pytest.fixture
def empty(store: Store, name: str) -> Iterator[Collection]:
    with store.create(name, CARD) as collection:
        yield collection


@pytest.fixture(scope="module")
def bare(store: Store) -> Iterator[Collection]:
    """An empty collection, for tests that store nothing."""
    with _name(store) as name, store.create(name, CARD) as collection:
        yield collection
        assert collection.count() == 0


@pytest.fixture(scope="module")
def six(store: Store) -> Iterator[Collection]:
    """The six images, at known angles from X, for tests that only read."""
    with _name(store) as name, store.create(name, CARD) as collection:
        collection.upsert(_batch(list(IMAGES.values()), _at(list(DEGREES.values()))))
        yield collection


@pytest.fixture
def own_six(empty: Collection) -> Collection:
    """The six images, for tests that change them."""
    empty.upsert(_batch(list(IMAGES.values()), _at(list(DEGREES.values()))))
    return empty


# create, open, drop


def test_create__makes_the_payload_indexes_before_any_point(engine, bare):
    if engine == "memory":
        pytest.skip("the client's own engine has no payload indexes")
    assert bare.count() == 0
    assert bare.info().fields == {field.name for field in INDEXED_FIELDS}


def test_create__twice_is_refused(store, bare):
    with pytest.raises(CollectionError, match="exists already"):
        store.create(bare.name, CARD)


@pytest.mark.parametrize("bad", ["", "a/b", "../a", ".hidden", "two words", "a\0b", "ü", "x" * 121, "-a"])
def test_create__bad_names_are_refused(store, bad):
    with pytest.raises(CollectionError, match="can't be named"):
        store.create(bad, CARD)
    assert bad not in store.names()


def test_open__missing_names_those_there_are(store, bare):
    with pytest.raises(CollectionError, match=bare.name):
        store.open("nothing-of-this-name")


def test_open_or_create__same_encoder_opens(store, name):
    store.open_or_create(name, CARD).close()
    with store.open_or_create(name, CARD) as again:
        assert again.card == CARD


def test_open_or_create__another_fingerprint_is_refused_with_both(store, name):
    store.create(name, CARD).close()
    other = dataclasses.replace(CARD, weights="sha256:" + "0" * 64)
    with pytest.raises(FingerprintError) as caught:
        store.open_or_create(name, other)
    assert CARD.fingerprint in str(caught.value)
    assert other.fingerprint in str(caught.value)
    assert "they differ in weights" in str(caught.value)
    store.open(name).close()  # and nobody holds it


def test_reopen__points_and_card_survive(store, name):
    how = {"size": 224, "mean": [0.485, 0.456, 0.406], "interpolation": "bicubic", "crop": None}
    card = dataclasses.replace(CARD, weights="sha256:abc", preprocessing=how)
    with store.create(name, card) as collection:
        collection.upsert(_batch(list(IMAGES.values()), _at(list(DEGREES.values())), card.fingerprint))
        before = collection.query(X, 6)
    with store.open(name) as collection:
        assert collection.card == card
        assert collection.card.fingerprint == card.fingerprint
        assert collection.query(X, 6) == before


def test_names__sorted(store, name):
    for suffix in ("b", "a"):
        store.create(f"{name}.{suffix}", CARD).close()
    assert [item for item in store.names() if item.startswith(name)] == [f"{name}.{s}" for s in "ab"]


def test_drop__is_gone_and_can_be_made_anew(store, name):
    with store.create(name, CARD) as collection:
        collection.upsert(_batch([IMAGES["a"]], X[None]))
    store.drop(name)
    assert name not in store.names()
    with pytest.raises(CollectionError):
        store.drop(name)
    with store.create(name, CARD) as collection:
        assert collection.count() == 0


# upsert


def test_upsert__replaces_by_id(own_six):
    changed = dataclasses.replace(IMAGES["a"], modality="MR", sex=None)
    own_six.upsert(_batch([changed], Y[None]))
    assert own_six.count() == 6
    (point,) = own_six.get([changed.id], vectors=True)
    assert point.payload["modality"] == "MR"
    assert "sex" not in point.payload
    assert np.allclose(point.vector, Y, atol=1e-6)


def test_upsert__another_fingerprint_stores_nothing(bare):
    with pytest.raises(FingerprintError, match=CARD.fingerprint):
        bare.upsert(_batch([IMAGES["a"]], X[None], "0123456789abcdef"))
    assert bare.count() == 0


def test_upsert__another_length_stores_nothing(bare):
    with pytest.raises(RecordError, match=r"takes \(n, 4\) vectors, got \(1, 5\)"):
        bare.upsert(_batch([IMAGES["a"]], np.eye(5)[:1]))
    assert bare.count() == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 2.0])
def test_upsert__a_bad_vector_stores_nothing_of_the_batch(bare, value):
    vectors = np.eye(4)
    vectors[2, 2] = value
    with pytest.raises(RecordError, match="the vector of c is not finite or not of unit length"):
        bare.upsert(_batch(list(IMAGES.values())[:4], vectors))
    assert bare.count() == 0


def test_upsert__an_empty_batch_is_no_error(bare):
    bare.upsert(_batch([], np.zeros((0, 4))))
    assert bare.count() == 0


def test_upsert__keeps_every_field(six):
    (point,) = six.get([IMAGES["a"].id])
    assert point.payload == IMAGES["a"].payload()
    assert point.payload["pathology"] == ["nodule", "mass"]
    assert point.payload["primary_label"] == "CT/chest/nodule"


# query

FILTERS = {
    "modality=CT": "ab",
    "modality=ct": "ab",
    "modality=CT|MR": "abe",
    "modality!=CT": "cdef",
    "modality!=CT|XR": "ef",
    "labels=CT/chest/mass": "a",
    "pathology=nodule": "ac",
    "pathology!=nodule": "bdef",
    "primary_label=XR/hand/fracture": "d",
    "sex=F": "ab",
    "sex!=F": "cdef",
    "labels~CT/chest/*": "ab",
    "labels~*/nodule": "ac",
    "labels~*NODULE|*mass": "ac",
    "view~[pl]a*": "cd",
    "modality~?R": "cde",
    "width=512": "ab",
    "width=512|800": "abd",
    "width!=512": "cdef",
    "width<800": "ab",
    "width<=800": "abd",
    "width>800": "c",
    "width>=800": "cd",
    "age_years=34.5": "ab",
    "age_years=8|70": "cd",
    "age_years!=34.5": "cdef",
    "age_years!=8|70": "abef",
    "age_years<34.5": "d",
    "age_years<=34.5": "abd",
    "age_years>34.5": "c",
    "age_years>=8": "abcd",
    "study_date<2020-01-05": "e",
    "study_date<=2020-01-05": "ae",
    "study_date>2020-06-30": "bc",
    "study_date>=2020-06-30T13:00:00": "c",
    "study_date>=2020-06-30T12:00:00+02:00": "bc",
    "study_date=20200105": "a",
    "study_date!=2020-01-05": "bcdef",
}


def test_query__every_filter(six):
    wheres = {text: resolve((parse(text),), six) for text in FILTERS}
    for exact in (False, True):
        met = {text: six.query(X, 10, where, way="exact" if exact else "auto") for text, where in wheres.items()}
        assert {text: _keys([hit.id for hit in hits]) for text, hits in met.items()} == FILTERS
    assert {text: six.count(where) for text, where in wheres.items()} == {t: len(m) for t, m in FILTERS.items()}


@pytest.mark.parametrize(
    ("texts", "met"),
    [
        (["modality=CT", "sex=F", "view!=axial"], "b"),
        (["age_years>10", "age_years<40"], "ab"),
        (["dataset=two", "modality!=MR"], "df"),
        (["modality!=CT", "modality!=XR"], "ef"),
        (["pathology=nodule", "age_years>=34.5", "split=train|val", "labels~XR/*"], "c"),
        (["age_years=8|70", "width<900"], "d"),
        (["age_years!=8|34.5", "study_date>2020-01-01"], "c"),
        (["modality=CT", "modality=XR"], ""),
    ],
)
def test_query__conditions_must_all_hold(six, texts, met):
    where = resolve(tuple(parse(text) for text in texts), six)
    assert _keys([hit.id for hit in six.query(X, 10, where)]) == met
    assert six.count(where) == len(met)


def test_query__by_id_and_without(six):
    a, b = IMAGES["a"].id, IMAGES["b"].id
    without: Where = (Condition("id", "!=", (a,)),)
    assert _keys([hit.id for hit in six.query(X, 10, without)]) == "bcdef"
    assert _keys([hit.id for hit in six.query(X, 10, (Condition("id", "=", (b, a)),))]) == "ab"
    both = (*without, parse("modality=CT"))
    assert _keys([hit.id for hit in six.query(X, 10, both)]) == "b"
    assert six.count((Condition("id", "!=", (a, b)),)) == 4


def test_query__ranks_by_cosine(six):
    hits = six.query(X, 6)
    assert _keys([hit.id for hit in hits]) == "abcdef"
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6]
    assert np.allclose([hit.score for hit in hits], np.cos(np.deg2rad(list(DEGREES.values()))), atol=1e-6)


def test_query__the_length_of_the_query_makes_no_difference(six):
    assert [hit.id for hit in six.query(7 * X, 6)] == [hit.id for hit in six.query(X, 6)]
    assert np.allclose([hit.score for hit in six.query(7 * X, 6)], [hit.score for hit in six.query(X, 6)], atol=1e-6)


def test_query__more_hits_than_points(six):
    assert len(six.query(X, 1000)) == 6
    assert len(six.query(X, 1000, way="exact")) == 6


def test_query__an_empty_collection_has_no_hits(bare):
    assert bare.query(X, 3) == []
    assert bare.query_batch(np.stack([X, Y]), 3, way="exact") == [[], []]


def test_query__equal_scores_by_id(empty):
    records = [ImageRecord(filepath=str(i), dataset="ties") for i in range(20)]
    empty.upsert(_batch(records, np.tile(X, (20, 1))))
    hits = empty.query(X, 20)
    assert [hit.id for hit in hits] == sorted(record.id for record in records)
    assert [hit.rank for hit in hits] == list(range(1, 21))


def test_query__fields(six):
    assert dict(six.query(X, 1, fields=False)[0].payload) == {}
    assert dict(six.query(X, 1, fields=["modality", "sex"])[0].payload) == {"modality": "CT", "sex": "F"}
    assert dict(six.query(X, 1)[0].payload) == IMAGES["a"].payload()


def test_query__an_unresolved_pattern_is_refused(six):
    with pytest.raises(FilterError, match="not resolved"):
        six.query(X, 3, (parse("labels~CT/*"),))


@pytest.mark.parametrize(
    ("vector", "k", "reason"),
    [
        (np.full(4, np.nan, np.float32), 3, "not finite"),
        (np.ones(5, np.float32), 3, "takes"),
        (X, 0, "1 hit or more"),
    ],
)
def test_query__bad_queries_are_refused(six, vector, k, reason):
    with pytest.raises(RecordError, match=reason):
        six.query(vector, k)


def test_query_batch__one_filter_each(six):
    wheres = [(parse("modality=CT"),), (), (parse("sex!=F"), parse("width>0")), (parse("modality=CT"),)]
    queries = np.stack([X, -X, X, -X])
    found = six.query_batch(queries, 2, wheres)
    assert [_keys([hit.id for hit in hits]) for hits in found] == ["ab", "fe", "cd", "ba"]
    assert six.query_batch(queries, 2, wheres, way="exact") == found


def test_query_batch__one_filter_for_all(six):
    found = six.query_batch(np.stack([X, -X]), 3, (parse("modality=XR"),))
    assert [_keys([hit.id for hit in hits]) for hits in found] == ["cd", "dc"]


def test_query_batch__another_number_of_filters_is_refused(six):
    with pytest.raises(RecordError, match="1 filters met 2 queries"):
        six.query_batch(np.stack([X, Y]), 3, [()])


def test_query_batch__takes_a_beam_width(six):
    queries = np.stack([X, -X])
    assert six.query_batch(queries, 3, way="approximate", ef=1) == six.query_batch(queries, 3)
    assert six.query(X, 3, way="approximate", ef=512) == six.query(X, 3)
    with pytest.raises(RecordError, match="ef is 0"):
        six.query_batch(queries, 3, way="approximate", ef=0)


def test_query_batch__no_queries(six):
    assert six.query_batch(np.zeros((0, 4), np.float32), 3) == []


# get, scroll, count, facet


def test_get__unknown_ids_are_left_out(six):
    ids = [IMAGES["d"].id, NOWHERE, IMAGES["b"].id]
    assert _keys([point.id for point in six.get(ids)]) == "db"
    assert six.get([NOWHERE]) == []
    assert six.get([]) == []


def test_get__fields_and_vectors(six):
    (point,) = six.get([IMAGES["c"].id], fields=["view", "labels"])
    assert point.payload == {"view": "pa", "labels": ["XR/chest/nodule"]}
    assert point.vector is None
    (point,) = six.get([IMAGES["c"].id], fields=False, vectors=True)
    assert dict(point.payload) == {}
    assert point.vector is not None
    assert point.vector.dtype == np.float32
    assert np.allclose(point.vector, _at([40.0])[0], atol=1e-6)


def test_scroll__complete_by_rising_id_in_pages(empty):
    n = 250
    vectors = normalise(np.random.default_rng(1).standard_normal((n, 4)).astype(np.float32))
    records = [ImageRecord(filepath=str(i), dataset="scroll", modality="CT" if i % 5 else "MR") for i in range(n)]
    empty.upsert(_batch(records, vectors))
    pages = list(empty.scroll(batch=64, vectors=True))
    assert [len(page) for page in pages] == [64, 64, 64, 58]
    points = [point for page in pages for point in page]
    assert [point.id for point in points] == sorted(record.id for record in records)
    expected = {record.id: vector for record, vector in zip(records, vectors, strict=True)}
    assert np.allclose([point.vector for point in points], [expected[point.id] for point in points], atol=1e-6)
    some = [point.id for page in empty.scroll((parse("modality=MR"),), batch=7) for point in page]
    assert some == sorted(record.id for record in records if record.modality == "MR")


def test_scroll__empty_and_fields(empty):
    assert list(empty.scroll()) == []
    empty.upsert(_batch([IMAGES["a"]], X[None]))
    ((point,),) = empty.scroll(fields=["sex"])
    assert point.payload == {"sex": "F"}
    assert point.vector is None


def test_count__all_and_some(six):
    assert six.count() == 6
    assert six.count((parse("modality=CT"),)) == 2
    assert six.count((parse("modality=PT"),)) == 0


def test_facet__most_frequent_first_equal_counts_by_value(six):
    assert list(six.facet("modality").items()) == [("CT", 2), ("XR", 2), ("MR", 1)]
    assert list(six.facet("dataset").items()) == [("one", 3), ("two", 3)]
    assert six.facet("pathology") == {"nodule": 2, "fracture": 1, "mass": 1, "normal": 1}


def test_facet__filter_and_limit(six):
    assert six.facet("modality", (parse("split=train"),)) == {"CT": 2}
    assert six.facet("modality", limit=1) in ({"CT": 2}, {"XR": 2})
    assert six.facet("series_id") == {}


# delete, set_payloads, info, finish


def test_delete__unknown_ids_are_no_error(own_six):
    own_six.delete([IMAGES["a"].id, NOWHERE])
    own_six.delete([])
    assert own_six.count() == 5
    assert _keys([hit.id for hit in own_six.query(X, 10)]) == "bcdef"
    assert own_six.facet("modality")["CT"] == 1


def test_set_payloads__the_other_fields_stay(own_six):
    own_six.set_payloads({IMAGES["d"].id: {"sex": "M", "view": "ap"}})
    (point,) = own_six.get([IMAGES["d"].id], vectors=True)
    assert point.payload == IMAGES["d"].payload() | {"sex": "M", "view": "ap"}
    assert np.allclose(point.vector, _at([80.0])[0], atol=1e-6)
    assert own_six.count((parse("sex=M"),)) == 2
    assert own_six.count((parse("view=lateral"),)) == 0


def test_set_payloads__an_unknown_id_is_refused(engine, six):
    if engine in ("server", "cluster"):
        pytest.skip("a server takes it as done")
    with pytest.raises(StoreError):
        six.set_payloads({NOWHERE: {"sex": "F"}})


def test_info__counts(six):
    info = six.info()
    assert info.points == 6
    assert info.indexed in (0, 6)
    assert info.status in ("green", "yellow", "grey")
    assert info.engine


def test_finish__small_collections_stay_searchable(own_six):
    said: list[str] = []
    own_six.finish(said.append)
    assert own_six.info().status == "green"
    assert _keys([hit.id for hit in own_six.query(X, 6)]) == "abcdef"
    own_six.flush()


# two engines, one workload


def _random_images(rng: np.random.Generator, n: int) -> EmbeddedBatch:
    def maybe(value: object) -> object:
        return None if rng.random() < 0.2 else value

    fields = [
        {
            "filepath": str(rng.integers(400)),
            "dataset": "random",
            "split": maybe(str(rng.choice(["train", "val", "test"]))),
            "modality": maybe(str(rng.choice(["CT", "MR", "XR"]))),
            "labels": tuple(f"CT/chest/{x}" for x in rng.choice(list("abcde"), rng.integers(3), replace=False)),
            "age_years": maybe(float(rng.integers(90))),
            "width": maybe(int(rng.integers(100, 120))),
            "study_date": maybe(f"20{rng.integers(10, 25)}-0{rng.integers(1, 10)}-15"),
        }
        for _ in range(n)
    ]
    latest = {record["filepath"]: ImageRecord(**record) for record in fields}
    vectors = normalise(rng.standard_normal((len(latest), 4)).astype(np.float32))
    return _batch(list(latest.values()), vectors)


RANDOM_FILTERS = (
    "modality=CT",
    "modality!=CT|MR",
    "labels=CT/chest/a|CT/chest/b",
    "pathology!=c",
    "age_years<40",
    "age_years!=12",
    "width>=110",
    "study_date>2015-06-01",
)


@pytest.mark.parametrize("other", ["memory", "standin"])
def test_edge_and_another_engine__same_answers_to_a_random_workload(tmp_path, other):
    rng = np.random.default_rng(20240607)
    with (
        EdgeStore(tmp_path / "edge").create("a", CARD) as edge,
        _opened(other, tmp_path / "other") as store,
        store.create("a", CARD) as second,
    ):
        for _ in range(6):
            batch = _random_images(rng, int(rng.integers(40, 120)))
            gone = [str(id) for id in rng.choice([record.id for record in batch.records], 2)]
            changed = batch.records[0]
            payload = {"modality": str(rng.choice(["CT", "US"])), "age_years": float(rng.integers(90))}
            for collection in (edge, second):
                collection.upsert(batch)
                collection.set_payloads({changed.id: payload})
                collection.delete(gone)
            _same(edge, second, rng)
        assert edge.count() > 200


def _same(edge: Collection, second: Collection, rng: np.random.Generator) -> None:
    texts = [rng.choice(RANDOM_FILTERS, rng.integers(3), replace=False) for _ in range(5)]
    wheres: list[Where] = [tuple(parse(str(text)) for text in some) for some in texts]
    queries = normalise(rng.standard_normal((5, 4)).astype(np.float32))
    for way in ("exact", "auto", "approximate"):
        answers = zip(
            edge.query_batch(queries, 15, wheres, way=way),
            second.query_batch(queries, 15, wheres, way=way),
            strict=True,
        )
        for ours, theirs in answers:
            assert [hit.score for hit in ours] == pytest.approx([hit.score for hit in theirs], abs=1e-5)
            assert [hit.id for hit in ours] == [hit.id for hit in theirs]
            assert [hit.payload for hit in ours] == [hit.payload for hit in theirs]
    for where in wheres:
        assert edge.count(where) == second.count(where)
        assert edge.facet("modality", where) == second.facet("modality", where)
        assert edge.facet("pathology", where) == second.facet("pathology", where)
        ours, theirs = (
            [(point.id, point.payload) for page in collection.scroll(where, batch=50) for point in page]
            for collection in (edge, second)
        )
        assert ours == theirs


def test_remember__folders_are_kept_by_data_set_the_last_first(store, name):
    with store.create(name, CARD) as made:
        assert made.roots == {}
        for folder, datasets in (("/data/one", ["a", "b"]), ("/mnt/one", ["a"]), ("/data/one", ["b"])):
            made.remember(Path(folder), datasets)
        expected = {"a": ["/mnt/one", "/data/one"], "b": ["/data/one"]}
        assert made.roots == expected
    with store.open(name) as again:
        assert (again.roots, again.card) == (expected, CARD)
        again.remember(Path("/data/one"), ["a"])
        assert again.roots["a"] == ["/data/one", "/mnt/one"]
