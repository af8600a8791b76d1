"""Queries of several examples, texts and regions, and answers with groups, variety, thresholds and pages.

Each is compared with a plain computation over all vectors, on a directory and through the stand-in of a server.
"""

import json
import re

import numpy as np
import pytest
from builders import put
from pictures import pixels, write_picture
from PIL import Image
from standin import Standin
from test_encoders_transformers import clip_dir  # noqa: F401  a fixture

from cbmir import connect
from cbmir.encoders import get
from cbmir.errors import CbmirError, FilterError, ImageError, QueryError
from cbmir.media import Asset, Region, prepare
from cbmir.schema import ImageRecord, normalise, point_id
from cbmir.search import ImageQuery, Options, Searcher, StoredQuery, TextQuery, VectorQuery, WeightedQuery
from cbmir.search.cautions import NO_PATIENT, cut_off, negated
from cbmir.search.fusion import Direction, fused
from cbmir.store import open_store

N, DIM = 240, 16
GROUPS = 9


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


RNG = np.random.default_rng(5)
VECTORS = unit(RNG.standard_normal((GROUPS, DIM))[np.arange(N) % GROUPS] + 0.4 * RNG.standard_normal((N, DIM)))
RECORDS = [
    ImageRecord(
        filepath=f"{row:03}.png",
        dataset="d",
        patient_id=f"p{row // 3}" if row % 10 else None,
        study_id=f"s{row // 2}",
        modality=("CT", "MR", "XR")[row % 3],
        labels=(f"CT/chest/{row % 4}",),
        sha256=f"{row // 6:064x}",
        extra={"site": f"h{row % 7}", "dose": row / 7},
    )
    for row in range(N)
]
IDS = [point_id("d", record.filepath) for record in RECORDS]


@pytest.fixture(scope="module", params=["directory", "server"])
def searcher(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("queries")
    if request.param == "directory":
        with open_store(folder) as store, put(store, "made", RECORDS, VECTORS) as collection:
            yield Searcher(collection)
        return
    with Standin(folder) as standin, open_store(standin.url) as store, put(store, "made", RECORDS, VECTORS) as made:
        made.make_index("extra.site", "keyword")  # a strict server excludes values of indexed columns only
        made.make_index("extra.dose", "float")
        yield Searcher(made)


def ranked(direction, rows=range(N)):
    """Rows by falling cosine."""
    cosines = VECTORS @ unit(direction)
    return sorted(rows, key=lambda row: (-round(cosines[row], 9), IDS[row]))


def found(searcher, query, **options):
    (answer,) = searcher.ask(query, Options(exclude_same_patient=False, **options))
    return [IDS.index(hit.id) for hit in answer.hits], answer


def stored(row):
    return StoredQuery(RECORDS[row].filepath)


def test_weighted__examples_to_be_like_and_unlike(searcher):
    query = WeightedQuery(((stored(0), 2.0), (stored(10), 1.0), (stored(4), -3.0), (stored(5), -1.0)))
    rows, answer = found(searcher, query, k=25)
    like = (2 * VECTORS[0] + VECTORS[10]) / 3
    unlike = (3 * VECTORS[4] + VECTORS[5]) / 4
    expected = ranked(2 * like - unlike, [row for row in range(N) if row not in (0, 10, 4, 5)])
    assert rows == expected[:25]
    assert answer.hits[0].score == pytest.approx(VECTORS[rows[0]] @ unit(2 * like - unlike), abs=1e-5)
    nearer = found(searcher, WeightedQuery(((stored(0), 2.0), (stored(10), 1.0))), k=25)[0]
    assert (VECTORS[rows] @ unlike).mean() < (VECTORS[nearer] @ unlike).mean()


def test_weighted__views_of_one_patient_are_averaged(searcher):
    views = [VECTORS[3], VECTORS[20], VECTORS[33]]
    rows, _ = found(searcher, WeightedQuery(tuple((VectorQuery(view), 1.0) for view in views)), k=10)
    assert rows == ranked(sum(views))[:10]


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ((), "says only what hits must be unlike"),
        (((VectorQuery(VECTORS[0]), -1.0),), "says only what hits must be unlike"),
        (((VectorQuery(VECTORS[0]), 1.0), (VectorQuery(VECTORS[1]), 0.0)), "the weight 0.0 of a query"),
        (((VectorQuery(VECTORS[0]), float("inf")),), "the weight inf of a query"),
    ],
)
def test_weighted__what_cannot_be_asked(parts, reason):
    with pytest.raises(QueryError, match=reason):
        WeightedQuery(parts)


@pytest.mark.parametrize("diversity", [0.0, 0.3, 0.7, 1.0])
def test_diversity__as_a_plain_loop(searcher, diversity):
    rows, answer = found(searcher, VectorQuery(VECTORS[7]), k=8, diversity=diversity)
    pool = ranked(VECTORS[7])[:100]
    scores, chosen = VECTORS @ VECTORS[7], []
    while len(chosen) < 8:
        chosen.append(
            max(
                (row for row in pool if row not in chosen),
                key=lambda row: (
                    (1 - diversity) * scores[row]
                    - diversity * max((VECTORS[row] @ VECTORS[other] for other in chosen), default=0.0)
                ),
            )
        )
    assert rows == chosen
    assert [hit.score for hit in answer.hits] == pytest.approx(scores[chosen], abs=1e-5)
    assert [hit.rank for hit in answer.hits] == list(range(1, 9))


@pytest.mark.parametrize("options", [{}, {"diversity": 0.5}, {"group_by": "patient"}, {"group_by": "site"}])
def test_pages__together_are_the_whole_answer(searcher, options):
    query = VectorQuery(VECTORS[7])
    whole, answer = found(searcher, query, k=7 if options.get("group_by") == "site" else 10, **options)
    parts = [found(searcher, query, k=len(whole) // 2 or 1, skip=skip, **options) for skip in (0, len(whole) // 2)]
    if "diversity" not in options:  # what a diverse answer is chosen from depends on k
        assert (parts[0][0] + parts[1][0]) == whole[: 2 * (len(whole) // 2)]
    assert [hit.rank for hit in parts[1][1].hits] == list(range(len(whole) // 2 + 1, 2 * (len(whole) // 2) + 1))
    assert not set(parts[0][0]) & set(parts[1][0])
    assert [hit.rank for hit in answer.hits] == list(range(1, len(whole) + 1))


def test_min_score__cuts_where_cosines_fall_below(searcher):
    cosines = VECTORS @ VECTORS[7]
    rows, _ = found(searcher, VectorQuery(VECTORS[7]), k=200, min_score=0.5)
    assert rows == [row for row in ranked(VECTORS[7]) if cosines[row] >= 0.5]
    assert 0 < len(rows) < 200
    assert found(searcher, VectorQuery(VECTORS[7]), k=5, min_score=1.0, skip=3)[0] == []


@pytest.mark.parametrize(
    ("group_by", "key"),
    [
        ("patient", lambda row: RECORDS[row].patient_id or row),
        ("study", lambda row: RECORDS[row].study_id),
        ("modality", lambda row: RECORDS[row].modality),
        ("site", lambda row: RECORDS[row].extra["site"]),
        ("primary_label", lambda row: RECORDS[row].labels[0]),
    ],
)
@pytest.mark.parametrize("k", [3, 40])
def test_group_by__the_best_hit_of_each(searcher, group_by, key, k):
    rows, _ = found(searcher, VectorQuery(VECTORS[7]), k=k, group_by=group_by)
    best = {}
    for row in ranked(VECTORS[7]):
        best.setdefault(key(row), row)
    assert rows == list(best.values())[:k]


def test_group_by__with_a_filter_and_a_least_score(searcher):
    rows, _ = found(searcher, VectorQuery(VECTORS[7]), k=50, group_by="patient", where="modality=CT", min_score=0.3)
    best = {}
    for row in ranked(VECTORS[7], range(0, N, 3)):
        if VECTORS[row] @ VECTORS[7] >= 0.3:
            best.setdefault(RECORDS[row].patient_id or row, row)
    assert rows == list(best.values())[:50]


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"group_by": "labels"}, FilterError, "isn't one name an image; primary_label is one label each"),
        ({"group_by": "width"}, FilterError, "width, which isn't one name an image"),
        ({"group_by": "dose"}, FilterError, "dose, which holds fractional numbers"),
        ({"group_by": "patinet_id"}, FilterError, "did you mean patient_id"),
        ({"diversity": 0.5, "skip": 95}, QueryError, "more than the 100 nearest images"),
    ],
)
def test_answer__what_cannot_be(searcher, options, error, reason):
    with pytest.raises(error, match=reason):
        found(searcher, VectorQuery(VECTORS[7]), **options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"skip": -1}, "skip is -1"),
        ({"min_score": 1.1}, "the least score is 1.1"),
        ({"diversity": 2}, "diversity is 2"),
        ({"k": 0}, "k is 0"),
    ],
)
def test_options__out_of_range(options, reason):
    with pytest.raises(QueryError, match=reason):
        Options(**options)


def test_fused__as_plain_reciprocal_ranks(searcher):
    one, other, away = unit(RNG.standard_normal((3, DIM)))
    directions = [Direction(one, 2.0), Direction(other, 1.0), Direction(-away, 0.5, seeks=False)]
    answer = fused(searcher.collection, directions, Options(k=12), ())
    pool = sorted({*ranked(one)[:120], *ranked(other)[:120]})
    worth = dict.fromkeys(pool, 0.0)
    for vector, weight in ((one, 2.0), (other, 1.0), (-away, 0.5)):
        for rank, row in enumerate(ranked(vector, pool), 1):
            worth[row] += weight / (60 + rank)
    best = sorted(pool, key=lambda row: (-worth[row], IDS[row]))[:12]
    assert [IDS.index(hit.id) for hit in answer.hits] == best
    assert [hit.score for hit in answer.hits] == pytest.approx([worth[row] * 61 / 3.5 for row in best], abs=1e-9)


def test_same_patient__and_study_are_left_out_unless_asked_for(searcher):
    (answer,) = searcher.ask(StoredQuery("013.png"), Options(k=N))
    copies = [row for row in range(N) if row // 6 == 13 // 6]
    patients = {RECORDS[row].patient_id for row in copies} - {None}
    studies = {RECORDS[row].study_id for row in copies}
    out = {row for row in range(N) if RECORDS[row].patient_id in patients or RECORDS[row].study_id in studies}
    assert {IDS.index(hit.id) for hit in answer.hits} == set(range(N)) - out - set(copies)
    assert answer.cautions == ()
    (everyone,) = searcher.ask(StoredQuery("013.png"), Options(k=N, exclude_same_patient=False))
    assert len(everyone.hits) == N - 1


def test_suspected__copies_where_no_patient_is_known(tmp_path):
    records = [ImageRecord(filepath=f"{row}.png", dataset="d", sha256=f"{row % 5:064x}") for row in range(10)]
    with open_store(tmp_path) as store, put(store, "bare", records, VECTORS[:10]) as collection:
        (answer,) = Searcher(collection).ask(StoredQuery("3.png"), Options(k=9))
        assert [hit.payload["filepath"] for hit in answer.hits if hit.id in answer.suspected] == ["8.png"]  # a copy
        assert len(answer.hits) == 9
        assert answer.cautions == (NO_PATIENT,)
        (near,) = Searcher(collection).ask(VectorQuery(VECTORS[4]), Options(k=3))
        assert near.suspected == frozenset()


def test_labels__counts_of_hits_beside_the_collection(tmp_path, cbmir):
    vectors = VECTORS[:12].copy()
    vectors[3] = unit(vectors[2] + 0.01 * RNG.standard_normal(DIM) / 4)  # a near copy
    records = [
        ImageRecord(
            filepath=f"{row}.png",
            dataset="d",
            patient_id=f"p{row // 5}" if row < 10 else None,
            labels=("CT/chest/mass",) if row % 2 == 0 or row == 3 else ("CT/chest/mass", "CT/chest/nodule"),
        )
        for row in range(12)
    ]
    with connect(tmp_path) as store:
        put(store.core, "made", records, vectors).close()
        hits = store["made"].search("0.png", k=11, exclude_same_patient=False)
        rows = hits.labels().to_dict("records")
        assert [(row["label"], row["hits"], row["of"], row["patients"]) for row in rows] == [
            ("CT/chest/mass", 10, 10, 4),  # p0, p1 and two images without a patient
            ("CT/chest/nodule", 5, 10, 3),
        ]
        assert [(row["stored"], row["stored_of"]) for row in rows] == [(12, 12), (5, 12)]
    done = cbmir("search", "like", "0.png", "--store", tmp_path, "-k", 11, "--include-same-patient", "--labels")
    assert "labels of 10 hits, near copies counted once (left out: 1)" in done.stderr
    assert "5 of 10" in done.stderr
    assert "%" not in done.stderr
    data = cbmir("search", "like", "0.png", "--store", tmp_path, "-k", 11, "--include-same-patient", "--json").stdout
    assert json.loads(data)[0]["labels"][1] == {
        "label": "CT/chest/nodule", "hits": 5, "of": 10, "patients": 3, "stored": 5, "stored_of": 12,
    }  # fmt: skip


# texts


@pytest.fixture(scope="module")
def clip_store(clip_dir, tmp_path_factory):  # noqa: F811
    """30 pictures embedded by a small CLIP, with the encoder."""
    folder = tmp_path_factory.mktemp("texts")
    for row in range(30):
        write_picture(folder / f"images/{row:02}.png", row)
    encoder = _clip(clip_dir)
    with connect(folder / "store") as store:
        store.ingest(folder / "images", encoder=encoder, collection="clip", progress=False)
    return folder, encoder


def _clip(folder):
    from cbmir import load_encoder

    return load_encoder("hf:any/clip", weights=folder, device="cpu", precision="fp32")


def test_text__ranks_by_the_text_towers_vector(clip_store):
    folder, encoder = clip_store
    with connect(folder / "store") as store:
        hits = store["clip"].search(text="a mass in the left lung", k=7, encoder=encoder)
        vectors = encoder.encode(sorted((folder / "images").iterdir()))
        cosines = vectors @ encoder.encode_text("a mass in the left lung")
        best = np.argsort(-cosines)[:7]
        assert [hit.payload["filepath"] for hit in hits] == [f"{row:02}.png" for row in best]
        assert [hit.score for hit in hits] == pytest.approx(cosines[best], abs=1e-5)
        assert hits.answers[0].query == "a mass in the left lung"
        assert hits.answers[0].cautions == ()


def test_text__beside_an_image_by_ranks_or_by_vectors(clip_store):
    folder, encoder = clip_store
    image, text = folder / "images/07.png", "a mass"
    vectors = encoder.encode(sorted((folder / "images").iterdir()))
    cosines = [vectors @ encoder.encode(image), vectors @ encoder.encode_text(text)]
    with connect(folder / "store") as store:
        both = store["clip"].search(image, text=text, k=30, encoder=encoder, exclude_same_patient=False)
        ranks = [np.argsort(np.argsort(-scores)) + 1 for scores in cosines]
        worth = sum(1 / (60 + rank) for rank in ranks)
        order = np.argsort(-worth, kind="stable")
        assert [hit.score for hit in both] == pytest.approx(worth[order] * 61 / 2, abs=1e-6)
        assert both.answers[0].fused
        assert "fused" in repr(both)
        mixed = WeightedQuery(((ImageQuery(image), 1.0), (TextQuery(text), 1.0)), mix="vectors")
        summed = store["clip"].search(mixed, k=5, encoder=encoder, exclude_same_patient=False)
        direction = normalise((encoder.encode(image) + encoder.encode_text(text))[np.newaxis])[0]
        assert [hit.score for hit in summed] == pytest.approx(np.sort(vectors @ direction)[::-1][:5], abs=1e-5)
        with pytest.raises(QueryError, match="no cosine for a least score"):
            store["clip"].search(image, text=text, min_score=0.1, encoder=encoder)
        unlike = store["clip"].search(image, unlike=[folder / "images/08.png"], k=3, encoder=encoder)
        assert not unlike.answers[0].fused


def test_text__what_is_cut_off_and_what_is_denied(clip_store):
    _, encoder = clip_store
    long = " ".join(["no finding in the left lung of this patient and"] * 9)
    said = cut_off(encoder.core, long)
    read = int(re.fullmatch(r"the encoder reads the first (\d+) of 90 words, up to '\w+'", said)[1])
    words = long.split()
    whole = encoder.encode_text(long)
    assert np.allclose(encoder.encode_text(" ".join(words[:read])), whole, atol=1e-5)
    assert not np.allclose(encoder.encode_text(" ".join(words[: read - 1])), whole, atol=1e-5)
    assert cut_off(encoder.core, "a mass") is None
    for text in ("no pneumothorax", "chest WITHOUT effusion", "effusion absent", "ohne Befund"):
        assert "--not-text" in negated(text)
    for text in ("nodule", "normal chest", "notch of the rib", "non-contrast CT", "non-small cell cancer"):
        assert negated(text) is None


def test_command__text_examples_and_box(clip_store, clip_dir, cbmir):  # noqa: F811
    folder, encoder = clip_store
    common = ("--store", folder / "store", "--weights", clip_dir, "--device", "cpu", "--precision", "fp32", "--json")
    done = cbmir("search", "text", "no mass", "lung", *common, "-k", 3)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert [answer["query"] for answer in answers] == ["no mass", "lung"]
    assert "hardly understand 'no'" in done.stderr
    assert "(1 of 2 queries)" in done.stderr
    images = folder / "images"
    query = ("--image", f"2*{images / '03.png'}", "--image", images / "04.png", "--not-stored", "05.png")
    done = cbmir("search", "examples", *query, "--not-text", "lung", *common, "-k", 4)
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    assert answer["score"] == "fused ranks"
    assert not {"03.png", "04.png", "05.png"} & {hit["payload"]["filepath"] for hit in answer["hits"]}
    box = cbmir("search", "image", images / "03.png", "--box", "10,12,16,16", *common, "-k", 30)
    assert box.returncode == 0, box.stderr
    hits = json.loads(box.stdout)[0]["hits"]
    with Image.open(images / "03.png") as picture:
        part = encoder.encode(picture.convert("RGB").crop((9, 11, 28, 30)))
    own = encoder.encode(images / f"{hits[0]['payload']['filepath']}")
    assert hits[0]["score"] == pytest.approx(float(part @ own), abs=1e-4)
    refused = cbmir("search", "image", images / "03.png", "--box", "30,12,16,16", *common)
    assert refused.returncode == 1
    assert "has 40 x 48 pixels, which the region 30,12,16,16 goes beyond" in refused.stderr
    views = cbmir("search", "image", images / "03.png", images / "04.png", "--as-one", *common)
    assert [answer["query"] for answer in json.loads(views.stdout)] == ["several examples"]
    nothing = cbmir("search", "examples", "--not-text", "lung", *common)
    assert nothing.returncode == 1
    assert "give one example or text to be like" in nothing.stderr


def test_text__an_encoder_without_a_text_tower(tmp_path, cbmir):
    write_picture(tmp_path / "images/a.png", 1)
    assert (
        cbmir("ingest", "images", tmp_path / "images", "--encoder", "pixels", "--store", tmp_path / "s").returncode == 0
    )
    done = cbmir("search", "text", "mass", "--store", tmp_path / "s")
    assert done.returncode == 1
    assert "text" in done.stderr
    assert "Traceback" not in done.stderr


# regions


@pytest.mark.parametrize(
    ("region", "size", "square"),
    [
        (Region(10, 20, 20, 20), (100, 100), (8, 18, 32, 42)),
        (Region(0, 0, 10, 10), (100, 100), (0, 0, 12, 12)),  # moved inwards at the edges
        (Region(90, 95, 10, 5), (100, 100), (88, 88, 100, 100)),
        (Region(10, 10, 40, 20), (100, 100), (6, 0, 54, 48)),
        (Region(0, 0, 100, 30), (100, 30), (0, 0, 100, 30)),  # shorter only where the image is
    ],
)
def test_region__the_square_that_is_searched(region, size, square):
    assert region.square(size) == square


def test_region__of_an_image_is_its_crop():
    picture = Image.fromarray(pixels(3, 90, 120)).convert("RGB")
    how = get("pixels").preprocessing
    whole = prepare(Asset.of(picture), how, region=Region(30, 20, 20, 10))
    assert np.array_equal(whole.pixels, prepare(Asset.of(picture.crop((28, 13, 52, 37))), how).pixels)


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "1,2,0,4", "-1,2,3,4", "1.5,2,3,4", ""])
def test_region__what_is_none(text):
    with pytest.raises(ImageError, match="x,y,width,height"):
        Region.read(text)


def test_search__python_refuses_what_does_not_go_together(clip_store):
    folder, encoder = clip_store
    image = folder / "images/01.png"
    with connect(folder / "store") as store:
        collection = store["clip"]
        for call, reason in (
            ({}, "nothing to look for"),
            ({"query": [image, image], "text": "mass"}, "go with one image"),
            ({"query": "01.png", "region": (1, 1, 5, 5)}, "a region is that of an image"),
            ({"query": image, "region": (1, 1, 0, 5)}, "has no pixels"),
        ):
            with pytest.raises(CbmirError, match=reason):
                collection.search(encoder=encoder, **call)
