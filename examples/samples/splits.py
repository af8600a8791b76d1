"""Which source goes to which split."""

from collections.abc import Mapping
from itertools import cycle
from typing import Literal

from examples.samples.errors import SplitError

Split = Literal["train", "val", "test"]
Counts = Mapping[str, Mapping[str, int]]


def assign_splits(counts: Counts) -> dict[str, Split]:
    """Put each source wholly into one split, by a rule that looks at counts and names only.

    1. A source that is the only one of some class goes to train.
    2. Then class by class, the class with the fewest sources first: if train has none of it, its largest free source
       goes to train; if test has none of it, its largest free source goes to test.
    3. What is left goes to train, test and val in turn, the largest first.

    Equal counts are ordered by name, so that the result depends on nothing else.

    Args:
        counts: source -> class -> how many images.

    Returns:
        source -> split, sorted by source.

    Raises:
        SplitError: A class with two or more sources ends without one in train or without one in test.
    """
    holders: dict[str, list[str]] = {}
    by_size = sorted(counts, key=lambda source: (-sum(counts[source].values()), source))
    for source in by_size:
        for label in counts[source]:
            holders.setdefault(label, []).append(source)
    chosen: dict[str, Split] = {sources[0]: "train" for sources in holders.values() if len(sources) == 1}
    shared = sorted(
        (label for label in holders if len(holders[label]) > 1), key=lambda label: (len(holders[label]), label)
    )
    for label in shared:
        ranked = sorted(holders[label], key=lambda source: (-counts[source][label], source))
        _ensure(chosen, ranked, "train", label)
        _ensure(chosen, ranked, "test", label)
    turns: cycle[Split] = cycle(("train", "test", "val"))
    for source in by_size:
        if source not in chosen:
            chosen[source] = next(turns)
    return dict(sorted(chosen.items()))


def _ensure(chosen: dict[str, Split], ranked: list[str], split: Split, label: str) -> None:
    if any(chosen.get(source) == split for source in ranked):
        return
    free = next((source for source in ranked if source not in chosen), None)
    if free is None:
        raise SplitError(f"no source of {label} is left for {split}: each is held elsewhere by another class")
    chosen[free] = split
