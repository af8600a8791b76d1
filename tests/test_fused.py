"""Several collections as one: ``a+b`` is searched, evaluated and compared like an encoder of its own."""

import json

import numpy as np
import pytest
from builders import put
from pictures import write_picture
from standin import Standin

from cbmir import connect, evaluate, load_encoder
from cbmir.errors import CollectionError, EncoderError, ProtocolError, StoreError
from cbmir.schema import ImageRecord, point_id
from cbmir.search import Options, Searcher, StoredQuery
from cbmir.store import open_store
from cbmir.store.fused import parts_of

N = 60
RNG = np.random.default_rng(3)
CENTRES = RNG.standard_normal((3, 8))
RECORDS = [
    ImageRecord(
        filepath=f"{row:02}.png",
        dataset="d",
        split="test" if row % 4 == 0 else "train",
        modality="CT" if row % 2 else "MR",
        labels=(f"CT/chest/{'abc'[row % 3]}",),
        patient_id=f"p{row // 2}",
    )
    for row in range(N)
]
IDS = [point_id("d", record.filepath) for record in RECORDS]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


VECTORS = {
    "a": unit(CENTRES[np.arange(N) % 3] + 1.2 * RNG.standard_normal((N, 8))),
    "b": unit(np.abs(RNG.standard_normal((N, 5))) + 0.3 * CENTRES[np.arange(N) % 3][:, :5]),
}


def shares(*weights, rows=N):
    """What each part's cosines count: by weight over the spread of cosines among its images."""
    found = []
    order = np.argsort(IDS[:rows])
    for name, weight in zip(VECTORS, weights, strict=True):
        some = VECTORS[name][:rows][order]
        found.append(weight / (some @ some.T)[np.triu_indices(rows, 1)].std())
    return np.array(found) / sum(found)


def scores(row, *weights):
    one, other = shares(*weights)
    return one * VECTORS["a"] @ VECTORS["a"][row] + other * VECTORS["b"] @ VECTORS["b"][row]


@pytest.fixture(scope="module", params=["directory", "server"])
def store(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fused")
    if request.param == "directory":
        with open_store(folder) as opened:
            for name, vectors in VECTORS.items():
                put(opened, name, RECORDS, vectors).close()
            put(opened, "fewer", RECORDS[:40], VECTORS["b"][:40]).close()
            yield opened
        return
    with Standin(folder) as standin, open_store(standin.url) as opened:
        for name, vectors in VECTORS.items():
            put(opened, name, RECORDS, vectors)
        put(opened, "fewer", RECORDS[:40], VECTORS["b"][:40])
        yield opened


@pytest.mark.parametrize(("name", "weights"), [("a+b", (1, 1)), ("3*a+b", (3, 1)), ("a+0.5*b", (1, 0.5))])
@pytest.mark.parametrize("way", ["auto", "exact", "approximate"])
def test_search__by_the_weighted_mean_of_cosines_over_their_spread(store, name, weights, way):
    with store.open(name) as whole:
        assert len(whole.card.fingerprint) == 16
        (answer,) = Searcher(whole).ask(StoredQuery("07.png"), Options(k=9, where="modality=MR", way=way))
    worth = scores(7, *weights)
    rows = [row for row in range(N) if row // 2 != 3 and row % 2 == 0]
    expected = sorted(rows, key=lambda row: -worth[row])[:9]
    assert [IDS.index(hit.id) for hit in answer.hits] == expected
    assert [hit.score for hit in answer.hits] == pytest.approx(worth[expected], abs=1e-5)
    assert answer.hits[0].payload["modality"] == "MR"


def test_collection__of_the_images_in_common(store, caplog):
    with store.open("a+fewer") as whole:
        assert "images that aren't in all of them, and are left out: 20" in caplog.text
        assert (whole.count(), whole.info().points) == (40, 40)
        assert whole.facet("modality") == {"CT": 20, "MR": 20}
        assert len([point for page in whole.scroll(vectors=True) for point in page]) == 40
        assert np.allclose([np.linalg.norm(point.vector) for page in whole.scroll(vectors=True) for point in page], 1)
    with store.open("fewer+a") as turned:
        assert turned.count() == 40
        assert turned.card.fingerprint != whole.card.fingerprint


def test_collection__can_only_be_read(store):
    with store.open("a+b") as whole:
        for change in (
            lambda: whole.delete(IDS[:1]),
            lambda: whole.set_payloads({IDS[0]: {"split": "val"}}),
            lambda: whole.set_metadata({"x": 1}),
            lambda: whole.finish(),
        ):
            with pytest.raises(StoreError, match=r"a\+b is several collections at once, which can only be read"):
                change()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a+", "can't be read as several collections"),
        ("a+a", "names once each"),
        ("0*a+b", "can't be read"),
        ("a+c", "no collection 'c'"),
    ],
)
def test_open__what_is_no_name(store, name, reason):
    with pytest.raises(CollectionError, match=reason):
        store.open(name)
    with store.open("a"):  # and nothing stays open
        pass


def test_parts_of__names_and_weights():
    assert parts_of("a+2*b+0.25*c-1") == [("a", 1.0), ("b", 2.0), ("c-1", 0.25)]


def test_evaluate__like_an_encoder_of_its_own(store):
    with store.open("a+b") as whole:
        asked = {"k": [1, 5], "measures": ["precision"], "draws": 0}
        result = evaluate.retrieval(whole, search=["exact", "ranks"], **asked)
        found = {
            (row["search"], row["k"]): row["value"]
            for row in result.as_json()["rows"]
            if row["average"] == "micro" and row["group"] == "all"
        }
        queries = [row for row in range(N) if row % 4 == 0]
        gallery = np.array([row for row in range(N) if row % 4])
        for k in (1, 5):
            for search in ("exact", "ranks"):
                values = []
                for row in queries:
                    there = gallery[gallery // 2 != row // 2]
                    if search == "exact":
                        worth = scores(row, 1, 1)[there]
                    else:
                        worth = sum(
                            1 / (61 + np.argsort(np.argsort(-(VECTORS[name][there] @ VECTORS[name][row]))))
                            for name in VECTORS
                        )
                    best = there[sorted(range(len(there)), key=lambda item: (-worth[item], IDS[there[item]]))[:k]]
                    values.append(np.mean(best % 3 == row % 3))
                assert found[search, k] == pytest.approx(np.mean(values)), (search, k)
    with (
        store.open("a") as one,
        pytest.raises(ProtocolError, match="fuses the ranks of several encoders, and a is one"),
    ):
        evaluate.retrieval(one, search=["ranks"], **asked)


def test_compare__with_its_parts(store, cbmir):
    place = str(store.location)
    store.close()
    done = cbmir("evaluate", "compare", "a", "b", "a+b", "--store", place, "--json", "--draws", 200)
    assert done.returncode == 0, done.stderr
    assert {"a", "b", "a+b"} <= set(json.dumps(json.loads(done.stdout)).replace('"', " ").split())


def test_search__by_an_image_and_by_a_text(tmp_path):
    for row in range(12):
        write_picture(tmp_path / f"images/{row:02}.png", row)
    encoders = [load_encoder(name, device="cpu", precision="fp32") for name in ("pixels", "efficientnet-lite0")]
    images = sorted((tmp_path / "images").iterdir())
    with connect(tmp_path / "store") as store:
        for encoder in encoders:
            store.ingest(tmp_path / "images", encoder=encoder, progress=False)
        together = store["pixels+efficientnet-lite0"]
        hits = together.search(images[4], k=12, exclude_same_patient=False)
        vectors = [encoder.encode(images) for encoder in encoders]
        spreads = []
        for rows in vectors:
            spreads.append(1 / (rows.astype(np.float64) @ rows.T)[np.triu_indices(12, 1)].std())
        worth = sum(
            share * (rows @ rows[4]) for share, rows in zip(np.array(spreads) / sum(spreads), vectors, strict=True)
        )
        assert [hit.payload["filepath"] for hit in hits] == [f"{row:02}.png" for row in np.argsort(-worth)]
        assert [hit.score for hit in hits] == pytest.approx(np.sort(worth)[::-1], abs=1e-4)
        with pytest.raises(EncoderError, match="text"):
            together.search(text="a mass")
