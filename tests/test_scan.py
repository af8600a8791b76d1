"""The exact scan against float64, with copies, near copies and bars."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cbmir.evaluate.ranking.scan
from cbmir.evaluate.ranking.keys import MISSING, cosines_of, keys_of, places_of
from cbmir.evaluate.ranking.scan import ExclusionMask, Scan
from cbmir.schema import normalise

NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.int64))


def shown(queries, gallery, depth, chunk, barred=None, half=False):
    """(n, depth) keys by a scan in chunks."""
    scan = Scan(queries, depth, half=half)
    for start in range(0, len(gallery), chunk):
        part = slice(start, min(start + chunk, len(gallery)))

        def bar(block, part=part):
            mask = None if barred is None else barred[block, part]
            return ExclusionMask(NOTHING, mask)

        scan.add(np.arange(part.start, part.stop), gallery[part], [bar], last=part.stop == len(gallery))
    return scan.keys[0]


def plain(queries, gallery, depth, barred=None):
    """The same by sorting all float64 products."""
    cosines = queries.astype(np.float64) @ gallery.T.astype(np.float64)
    keys = keys_of(cosines, np.arange(len(gallery))[np.newaxis])
    if barred is not None:
        keys[barred] = MISSING
    keys = np.sort(keys, axis=1)[:, ::-1][:, :depth]
    return np.pad(keys, ((0, 0), (0, depth - keys.shape[1])), constant_values=MISSING)


def same_order(one, other):
    np.testing.assert_array_equal(places_of(one), places_of(other))
    np.testing.assert_allclose(cosines_of(one), cosines_of(other), atol=2e-6, equal_nan=True)


@given(
    seed=st.integers(0, 10_000),
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 600)),
    depth=st.integers(1, 40),
    chunk=st.integers(1, 700),
    copies=st.floats(0, 1),
    apart=st.sampled_from([0.0, 1.0, 30.0]),
    half=st.booleans(),
)
def test_scan__is_a_sort_of_all_products(seed, sizes, depth, chunk, copies, apart, half):
    rng = np.random.default_rng(seed)
    queries, gallery = (normalise(apart + rng.standard_normal((count, 24)).astype(np.float32)) for count in sizes)
    again = rng.random(sizes[1]) < copies
    gallery[again] = gallery[rng.integers(0, max(1, sizes[1] // 10), again.sum())]  # many ties
    barred = rng.random(sizes) < 0.2
    same_order(shown(queries, gallery, depth, chunk, barred, half), plain(queries, gallery, depth, barred))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("chunk", [5000, 700])
def test_scan__near_copies_that_float32_cannot_tell(chunk, half):
    rng = np.random.default_rng(1)
    queries = normalise(rng.standard_normal((30, 64)).astype(np.float32))
    gallery = np.repeat(queries[:5], 1000, axis=0) + rng.standard_normal((5000, 64)).astype(np.float32) * 1e-6
    gallery = normalise(gallery[rng.permutation(5000)])
    products = queries @ gallery.T
    assert (np.argsort(-products, axis=1, kind="stable")[:, :50] != places_of(plain(queries, gallery, 50))).any()
    same_order(shown(queries, gallery, 50, chunk, half=half), plain(queries, gallery, 50))


def test_scan__several_terms_each_bar_more():
    rng = np.random.default_rng(2)
    queries, gallery = (normalise(rng.standard_normal((count, 16)).astype(np.float32)) for count in (9, 300))
    first = rng.random((9, 300)) < 0.1
    second = first | (rng.random((9, 300)) < 0.3)
    scan = Scan(queries, 10, terms=2)
    for start in (0, 150):
        part = slice(start, start + 150)
        bars = [
            lambda block, part=part: ExclusionMask(np.nonzero(first[block, part])),
            lambda block, part=part: ExclusionMask(NOTHING, second[block, part]),
        ]
        scan.add(np.arange(part.start, part.stop), gallery[part], bars)
    same_order(scan.keys[0], plain(queries, gallery, 10, first))
    same_order(scan.keys[1], plain(queries, gallery, 10, second))


@pytest.mark.parametrize("half", [False, True])
def test_scan__blocks_of_queries(monkeypatch, half):
    monkeypatch.setattr(cbmir.evaluate.ranking.scan, "_SCORES", 64)
    rng = np.random.default_rng(3)
    queries, gallery = (normalise(rng.standard_normal((count, 16)).astype(np.float32)) for count in (200, 90))
    same_order(shown(queries, gallery, 7, 40, half=half), plain(queries, gallery, 7))


def test_scan__goes_on_in_float32_where_bfloat16_tells_too_little():
    """The second block of queries lies amid the gallery, the first and the last one don't."""
    rng = np.random.default_rng(5)
    gallery = normalise(10 + rng.standard_normal((2000, 64)).astype(np.float32))
    queries = normalise(rng.standard_normal((192, 64)).astype(np.float32))
    queries[64:128] = gallery[:64]
    scan = Scan(queries, 3, half=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cbmir.evaluate.ranking.scan, "_SCORES", 64)
        patch.setattr(cbmir.evaluate.ranking.scan, "_CROWD", 2)
        scan.add(np.arange(1000), gallery[:1000], [lambda block: ExclusionMask(NOTHING)])
        assert not scan._half
        scan.add(np.arange(1000, 2000), gallery[1000:], [lambda block: ExclusionMask(NOTHING)], last=True)
    same_order(scan.keys[0], plain(queries, gallery, 3))


@pytest.mark.gpu
def test_scan__on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rng = np.random.default_rng(4)
    queries, gallery = (normalise(rng.standard_normal((count, 64)).astype(np.float32)) for count in (200, 9000))
    scan = Scan(queries, 20, device="cuda")
    scan.add(np.arange(9000), gallery, [lambda block: ExclusionMask(NOTHING)], last=True)
    same_order(scan.keys[0], plain(queries, gallery, 20))
