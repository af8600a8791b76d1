"""What the items of a source come to, and what in these counts a user should know."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cbmir.units import counted

NAMED = 3
"""Examples that a message gives."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What the items of a source come to.

    Attributes:
        images: Items that can be tried.
        failed: Rows and folders that can't be read, and rows that repeat the image of an earlier one.
        patients: Different ones.
        studies: Different ones.
        without_patient: Images of which the patient isn't known.
        without_study: Images of which the study isn't known.
        labels: Different ones.
        without_label: Images without any.
        first_labels: The first different ones.
        bare_labels: Images whose first label names no modality and region.
        datasets: Their data sets, sorted.
        splits: Images by split.
        shared_patients: Patients with images in more than one split.
        repeated: Rows that repeat the image of an earlier one; they are among `failed`.
        reasons: How often what went wrong, with the first place of each.
        similar_labels: Labels that differ in spaces, ``_`` and ``-`` only, a tuple for each label.
        odd_labels: Labels that begin with no known modality.
        looked_for: Files that were looked for.
        missing: Of these, those that aren't there.
        first_missing: The first of them.
    """

    images: int
    failed: int
    patients: int
    studies: int
    without_patient: int
    without_study: int
    labels: int
    without_label: int
    first_labels: tuple[str, ...]
    bare_labels: int
    datasets: tuple[str, ...] = ()
    splits: Mapping[str, int] = field(default_factory=dict)
    shared_patients: int = 0
    repeated: int = 0
    reasons: tuple[str, ...] = ()
    similar_labels: tuple[tuple[str, ...], ...] = ()
    odd_labels: tuple[str, ...] = ()
    looked_for: int = 0
    missing: int = 0
    first_missing: str = ""


def tally_warnings(tally: Tally) -> list[str]:
    """What counts say that a user should know."""
    warnings = [*_about_rows(tally), *_about_patients(tally)]
    if tally.images and not tally.labels:
        warnings.append("no image has a label: evaluations by label are not possible")
    elif tally.bare_labels:
        warnings.append(
            f"without modality and region in their labels: {counted(tally.bare_labels, 'image')}. If all are of "
            "one kind, give for example --set modality=XR --set anatomic_region=chest"
        )
    if tally.odd_labels:
        warnings.append(
            f"labels begin with no known modality: {_named(tally.odd_labels)}. A label is modality/region/pathology, "
            "such as XR/chest/pneumonia, or the pathology alone; evaluations would take these for others"
        )
    for group in tally.similar_labels[:NAMED]:
        warnings.append(f"{' and '.join(group)} are different labels: if they are one, write one spelling in all rows")
    return warnings


def alike(texts: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Texts that differ in spaces, ``_`` and ``-`` only, those of each kind together."""
    groups: dict[str, list[str]] = {}
    for text in texts:
        groups.setdefault(re.sub(r"[\s_-]+", "", text).casefold(), []).append(text)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def similar_ids(ids: Iterable[str]) -> str:
    """A warning where ids differ in case or in zeros before them only; empty where none do."""
    groups: dict[str, list[str]] = {}
    for id in ids:
        groups.setdefault(id.casefold().lstrip("0"), []).append(id)
    pairs = [group for group in groups.values() if len(group) > 1]
    if not pairs:
        return ""
    more = f", and {len(pairs) - 1:,} more" if len(pairs) > 1 else ""
    return (
        f"patients {' and '.join(pairs[0][:NAMED])}{more} differ only in case or in zeros before the number, and count "
        "as different: if they are one, write one spelling in all rows"
    )


def ordered_reasons(reasons: Mapping[str, tuple[int, str]]) -> tuple[str, ...]:
    """What went wrong, the most frequent first: how often, the reason, and the first place."""
    ordered = sorted(reasons.items(), key=lambda item: -item[1][0])
    shown = [f"{count:,}: {reason} (first: {place})" for reason, (count, place) in ordered[:NAMED]]
    more = sum(count for _, (count, _) in ordered[NAMED:])
    return (*shown, f"{more:,} more for other reasons") if more else tuple(shown)


def _about_rows(tally: Tally) -> list[str]:
    warnings = []
    if tally.repeated:
        warnings.append(
            f"rows that repeat the image of an earlier row: {tally.repeated:,}. They will fail, for an image has one "
            "row. If the table has a row for each finding, write one row for each image, with its labels separated by |"
        )
    if tally.missing:
        all_of = tally.missing == tally.looked_for
        count = "none" if all_of else f"{tally.looked_for - tally.missing:,}"
        remedy = ": give --root FOLDER, or --path-prefix OLD=NEW" if all_of else ""
        warnings.append(
            f"of {counted(tally.looked_for, 'file')} looked for, {count} can be found; "
            f"{tally.first_missing} is missing{remedy}"
        )
    return warnings


def _about_patients(tally: Tally) -> list[str]:
    warnings = []
    if tally.images and not tally.patients:
        warnings.append(
            "no image has a patient_id: evaluations can't leave out images of the query's own patient, "
            "and their results may be far too good. If a column holds patients, give --column NAME=patient_id"
        )
    if tally.patients == 1 and tally.images > 1 and not tally.without_patient:
        warnings.append(
            f"all {tally.images:,} images have the same patient_id: evaluations leave out the query's own patient, "
            "so no image is left to find"
        )
    if tally.shared_patients:
        warnings.append(
            f"patients with images in more than one split: {tally.shared_patients:,}. A probe learns from these "
            "patients, so its results may be far too good; retrieval and classify leave out the query's own patient"
        )
    return warnings


def _named(texts: tuple[str, ...]) -> str:
    more = f", and {len(texts) - NAMED:,} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + more


def splits_of(splits: Counter[str]) -> dict[str, int]:
    """Images by split, the usual ones first."""
    usual = [name for name in ("train", "val", "test") if name in splits]
    return {name: splits[name] for name in (*usual, *sorted(splits.keys() - set(usual)))}
