"""Rules of relevance against a plain loop over pairs of label sets."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from cbmir.evaluate.ranking import relevance, rules

LABELS = [
    "XR",
    "XR/chest",
    "XR/chest/nodule",
    "XR/chest/mass",
    "XR/hand/fracture",
    "CT/chest/nodule",
    "CT/chest/x/y",
    "",
]
RELATIONS = {
    ("XR/chest/nodule", "XR/chest/mass"): 2.0,
    ("XR/chest/nodule", "CT/chest/nodule"): 0.5,
    ("XR", "absent"): 9.0,
}
BOTH_WAYS = RELATIONS | {(right, left): grade for (left, right), grade in RELATIONS.items()}

Plain = Callable[[set[str], set[str]], float]


def _common(left: str, right: str) -> int:
    pairs = zip(left.split("/")[:3], right.split("/")[:3], strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


PLAIN: dict[str, tuple[rules.Rule, Plain]] = {
    "any": (rules.any_shared, lambda one, other: float(bool(one & other))),
    "exact": (rules.exact, lambda one, other: float(one == other)),
    "jaccard": (rules.jaccard, lambda one, other: len(one & other) / len(one | other)),
    "hierarchy": (rules.hierarchy, lambda one, other: max(_common(a, b) for a in one for b in other)),
    "relations": (
        rules.Relations(3.0, BOTH_WAYS),
        lambda one, other: max(3.0 if a == b else BOTH_WAYS.get((a, b), 0.0) for a in one for b in other),
    ),
    "relations that rank a pair above the same": (
        rules.Relations(1.0, BOTH_WAYS),
        lambda one, other: max(1.0 if a == b else BOTH_WAYS.get((a, b), 0.0) for a in one for b in other),
    ),
}


@pytest.fixture
def sets() -> list[tuple[str, ...]]:
    rng = np.random.default_rng(3)
    drawn = [tuple(rng.choice(LABELS, rng.integers(1, 6)).tolist()) for _ in range(120)]
    return [(), *drawn, (*LABELS, *LABELS)]


@pytest.mark.parametrize("name", PLAIN)
def test_rule__is_that_of_a_plain_loop(name, sets):
    rule, plain = PLAIN[name]
    rows = np.array([0, 5, 7, 7, 121])
    expected = [[plain(set(sets[row]), set(other)) if sets[row] and other else 0.0 for other in sets] for row in rows]
    np.testing.assert_array_equal(rule(rules.LabelSets(sets), rows), expected)


@pytest.mark.parametrize("pairs", [1, 500, 1 << 22])
@pytest.mark.parametrize("name", PLAIN)
def test_table__is_the_same_in_blocks(monkeypatch, name, sets, pairs):
    monkeypatch.setattr(relevance, "PAIRS", pairs)
    rule, plain = PLAIN[name]
    asked = np.array([1, 2, 3, 50, 121], np.int32)
    levels, table = relevance._table(sets, asked, rule)
    expected = np.zeros((len(sets), len(sets)), np.float32)
    for row in asked:
        expected[row] = [plain(set(sets[row]), set(other)) if other else 0.0 for other in sets]
    np.testing.assert_array_equal(levels[table], expected)
    np.testing.assert_array_equal(levels, np.unique([0.0, *expected.ravel()]).astype(np.float32))


@pytest.mark.parametrize("sets", [[()], [(), ("a",)]])
def test_rule__of_next_to_nothing(sets):
    for rule, _ in PLAIN.values():
        assert rule(rules.LabelSets(sets), np.array([0])).tolist() == [[0.0] * len(sets)]
