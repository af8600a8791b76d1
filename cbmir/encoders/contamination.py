"""Whether an encoder was trained on the data that it is measured on: a figure on such data flatters it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from cbmir.encoders import registry
from cbmir.fingerprint import EncoderCard

Verdict = Literal["seen", "not listed", "unknown"]

ALIASES = {
    "nih14": (
        *("nih", "nihcxr", "nihcxr8", "nihcxr14", "nihchestxray", "nihchestxray8", "nihchestxray14"),
        *("nihchestxrays", "chestxray8", "chestxray14", "cxr8", "cxr14"),
    ),
    "chexpert": ("chexpertsmall", "chexpertv10", "chexpertv10small", "chexpertplus"),
    "mimic": ("mimiccxr", "mimiccxrjpg"),
    "radimagenet": (),
    "padchest": ("bimcvpadchest",),
    "rsna": ("rsnapneumonia", "rsnapneumoniadetection", "rsnapneumoniadetectionchallenge"),
    "openi": ("openicxr", "iuxray", "iucxr", "indianauniversity"),
    "brax": (),
    "roco": ("roco2", "rocov2"),
    "pmc": ("pmcoa", "pmc15m", "biomedica", "pubmedcentral"),
    "merlin": ("merlinct", "merlinabdominalct"),
}
"""Data sets that encoders have seen, and other usual spellings of their names: letters and digits only, lower case."""

_NAMES = {spelling: name for name, spellings in ALIASES.items() for spelling in (name, *spellings)}
_PART_OF = {"rsna": "nih14", "roco": "pmc"}
"""Data sets whose images were taken from another: the RSNA challenge's from NIH's, ROCO's from PubMed Central."""


@dataclass(frozen=True, slots=True)
class Contamination:
    """What is known of an encoder and one data set.

    Attributes:
        dataset: As it was asked for.
        verdict: ``seen`` in training; ``not listed``, which proves nothing; or ``unknown``.
        reason: Where that comes from, for people.
    """

    dataset: str
    verdict: Verdict
    reason: str


def contamination(card: EncoderCard, datasets: Iterable[str]) -> list[Contamination]:
    """Compare data sets with those that an encoder is known to have been trained on.

    An encoder is judged by its name: weights of one's own under the name of a published encoder are taken for the
    published ones. Nothing is known of a network asked for by prefix, as ``timm:NAME``.

    Args:
        card: The encoder.
        datasets: Their names in a collection; usual spellings are understood.

    Returns:
        A verdict for each data set, in the same order.
    """
    spec = next((spec for spec in registry.specs() if spec.name == card.name), None)
    if spec is None:
        reason = f"nothing is known of the training of {card.name}"
        return [Contamination(name, "unknown", reason) for name in datasets]
    reason = f"{card.name} was trained on {spec.trained_on}"
    if card.is_external:
        reason += "; its vectors were made elsewhere, and it is judged by its name"
    absent: Verdict = "unknown" if spec.undisclosed else "not listed"
    return [Contamination(name, "seen" if _overlaps(name, spec.seen) else absent, reason) for name in datasets]


def _overlaps(dataset: str, seen: Iterable[str]) -> bool:
    """Whether a data set is one of those seen, or one has images of the other."""
    plain = "".join(sign for sign in dataset.lower() if sign.isalnum())
    name = _NAMES.get(plain, plain)
    return any(name == other or _PART_OF.get(name) == other or _PART_OF.get(other) == name for other in seen)
