"""Copies of a query's file under other names: a hit that says nothing, and that no patient excludes."""

import numpy as np
import pytest

from cbmir.evaluate.analyses.retrieval import evaluate_retrieval
from cbmir.evaluate.protocol import RetrievalProtocol, conditions
from cbmir.filters import parse
from cbmir.fingerprint import external_card
from cbmir.schema import EmbeddedBatch, ImageRecord, normalise
from cbmir.store.edge import EdgeStore

pytestmark = pytest.mark.slow

IMAGES = (  # split, data set, patient, file
    ("test", "d", "a", "1"),
    ("train", "d", "b", "1"),  # another patient's copy
    ("test", "d", "c", "2"),
    ("train", "d", "c", "2"),  # the patient's own copy
    ("test", "d", None, "3"),
    ("train", "e", None, "3"),  # a copy of nobody's, in another data set
    ("test", "d", "f", None),
    ("train", "d", "g", None),  # no hash is known
    ("test", "d", "h", "4"),
    ("train", "d", "h", "4"),  # the patient's own copy, and another's
    ("train", "d", "i", "4"),
)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    records = [
        ImageRecord(
            filepath=f"{number}.png",
            dataset=dataset,
            split=split,
            labels=("XR/chest/mass",),
            patient_id=patient,
            sha256=None if file is None else file * 64,
        )
        for number, (split, dataset, patient, file) in enumerate(IMAGES)
    ]
    vectors = normalise(np.random.default_rng(1).standard_normal((len(records), 8)).astype(np.float32))
    card = external_card("made", 8)
    with EdgeStore(tmp_path_factory.mktemp("copies")) as store, store.create("made", card) as made:
        made.upsert(EmbeddedBatch(tuple(records), vectors, card.fingerprint))
        yield made


@pytest.mark.parametrize(
    ("terms", "copies"),
    [
        ({}, 3),
        ({"exclude": ()}, 4),
        ({"exclude": ("dataset",)}, 1),
        ({"exclude": ("patient", "dataset")}, 1),
        ({"queries": "all", "gallery": "all"}, 7),  # every copy asks
    ],
)
def test_copies__counts_queries_that_may_find_their_own_file(collection, terms, copies):
    where = {name: conditions((value,)) for name, value in terms.items() if name in ("queries", "gallery")}
    report = evaluate_retrieval(collection, RetrievalProtocol(**{**terms, **where, "draws": 0}))
    assert report.setting.queries_with_copies == copies
    assert report.setting.header.as_json()["queries_with_copies"] == copies
    assert any(line.startswith(f"copies      {copies} ") for line in report.setting.header.lines())


def test_copies__none_is_not_mentioned(collection):
    alone = (*RetrievalProtocol().queries, parse("patient_id=c"))
    report = evaluate_retrieval(collection, RetrievalProtocol(queries=alone, exclude=("patient",), draws=0))
    assert report.setting.queries_with_copies == 0
    assert not any(line.startswith("copies") for line in report.setting.header.lines())
