"""What an encoder is, as data, and the fingerprint that keeps vectors of different encoders apart."""

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cbmir.errors import EncoderError, FingerprintError
from cbmir.probevectors import SAME_COSINE, ProbeVectors

_PROVEN = "pixels"
"""Key of a preprocessing by a function: a hash of what it makes of the probes, whose vectors say more."""
_CLOSE = 1e-6
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncoderCard:
    """Which network, which weights and which preprocessing made the vectors of a collection.

    Attributes:
        name: Name the encoder is asked for by.
        dim: Length of its vectors.
        weights: ``sha256:...`` of the weights that were loaded, ``none`` for encoders without any, or ``external`` for
            vectors that were made elsewhere.
        preprocessing: What happens to a picture before the network, as data.
        origin: Where the weights came from, in words: ``package NAME``, ``ORG/REPO@REVISION`` of the model hub, ``file
            NAME``; empty where nobody knows. Like all that follows, it is no part of the fingerprint.
        asked_as: What it was asked for by, where that isn't its name: ``timm:NAME``, or ``FILE.py:FUNCTION`` of the
            user's own code, which is for messages only and is never run because a card names it.
        code: ``sha256:...`` of the file of the user's own code, or of a package's; empty for cbmir's own encoders.
        probes: What the encoder makes of the probes; None where nobody knows.
    """

    name: str
    dim: int
    weights: str
    preprocessing: Mapping[str, Any]
    origin: str = field(default="", compare=False)
    asked_as: str = field(default="", compare=False)
    code: str = field(default="", compare=False)
    probes: ProbeVectors | None = field(default=None, compare=False, repr=False)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits; equal if and only if name, dim, weights and preprocessing are."""
        text = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        """The card as it is stored in a collection's metadata."""
        return {
            "name": self.name,
            "dim": self.dim,
            "weights": self.weights,
            "preprocessing": dict(self.preprocessing),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "EncoderCard":
        """The inverse of `as_json`.

        Raises:
            KeyError: a field is missing.
        """
        return cls(str(data["name"]), int(data["dim"]), str(data["weights"]), dict(data["preprocessing"]))

    def notes(self) -> dict[str, Any]:
        """What a collection keeps of the encoder beside `as_json`; probes that weren't measured yet are measured."""
        data: dict[str, Any] = {"weights_from": self.origin}
        data |= {name: value for name, value in (("asked_as", self.asked_as), ("code", self.code)) if value}
        try:
            return {**data, "probes": self.probes.as_json()} if self.probes else data
        except EncoderError as error:
            _log.warning("%s is stored without vectors of the probes: %s", self.name, error)
            return data

    def noted(self, notes: Mapping[str, Any]) -> "EncoderCard":
        """The card with what a collection's metadata keeps beside it; what can't be read is left out."""
        origin, asked_as, code = (str(notes.get(name) or "") for name in ("weights_from", "asked_as", "code"))
        probes = ProbeVectors.from_json(notes.get("probes"), self.dim)
        return replace(self, origin=origin, asked_as=asked_as, code=code, probes=probes)

    @property
    def is_external(self) -> bool:
        """Whether the vectors were made elsewhere, so that pictures can't be embedded the same way here."""
        return self.weights == "external"

    @property
    def window_hu(self) -> tuple[float, float] | None:
        """Black and white of the volumes that the encoder takes; None for an encoder of images."""
        window = self.preprocessing.get("window_hu")
        return (float(window[0]), float(window[1])) if window else None

    def require(self, other: "EncoderCard", place: str) -> None:
        """Refuse another encoder.

        The same fingerprint is enough, unless code of the user's own has changed. Otherwise name, length and
        preprocessing must be the same, and the vectors of the probes: then only a library has changed, and a line says
        so.

        Args:
            other: The encoder that wants to write to or ask `place`.
            place: Named in the message.

        Raises:
            FingerprintError: it is another encoder.
        """
        same = other.fingerprint == self.fingerprint
        if same and (not (self.code and other.code) or self.code == other.code):
            return
        comparison = ""
        if self.probes and other.probes and (self.name, self.dim) == (other.name, other.dim):
            cosines = self.probes.lowest_cosines(other.probes)
            comparison = ", ".join(f"{value:.7f} of {name}" for name, value in cosines.items())
            comparison = f"; lowest cosine of the probe vectors: {comparison} ({SAME_COSINE} or more is the same)"
            if self.differences(other) <= {"weights"} and min(cosines.values()) >= SAME_COSINE:
                self._accept(other, place, comparison)
                return
        elif same:
            return  # nobody can tell
        elif not self.probes and not self.is_external and self.name == other.name:
            comparison = "; it has no probe vectors, by which cbmir could tell that only a library has changed"
        what = (
            "fingerprint {0.fingerprint}, weights {1}, code {2}" if same else "fingerprint {0.fingerprint}, weights {1}"
        )
        mine, theirs = (what.format(card, card.weights[:19], card.code[:19]) for card in (self, other))
        raise FingerprintError(
            f"{place} holds vectors of {self.name} ({mine}), not of {other.name} ({theirs})"
            f"{_difference(self, other)}{comparison}"
        )

    def differences(self, other: "EncoderCard") -> set[str]:
        """Which of name, dim, weights and preprocessing differ; numbers of the last by more than their rounding."""
        left, right = self.as_json(), other.as_json()
        names = {name for name in left if left[name] != right[name]}
        if _alike(_declared(self.preprocessing), _declared(other.preprocessing)):
            names.discard("preprocessing")
        return names

    def _accept(self, other: "EncoderCard", place: str, comparison: str) -> None:
        told = other.probes.told if other.probes else set()
        if self.fingerprint in told:
            return
        told.add(self.fingerprint)
        pairs = {
            "weights": (self.weights, other.weights),
            "code": (self.code, other.code),
            "fingerprint": (self.fingerprint, other.fingerprint),
        }
        what, (mine, here) = next((name, pair) for name, pair in pairs.items() if pair[0] != pair[1])
        _log.warning(
            "%s: %s counts as the same encoder, though the %s differ (%s there, %s here)%s",
            *(place, self.name, what, mine[:19] or "unknown", here[:19] or "unknown", comparison),
        )


def external_card(name: str, dim: int) -> EncoderCard:
    """The card of vectors that were made elsewhere and came without one."""
    return EncoderCard(name, dim, "external", {})


def _difference(one: EncoderCard, other: EncoderCard) -> str:
    differing = one.differences(other)
    names = [name for name in one.as_json() if name in differing]
    if not names:
        return "; they differ in their code"
    remedy = ": give --weights FILE|DIR, the weights that it was made with" if names == ["weights"] else ""
    return f"; they differ in {', '.join(names)}{remedy}"


def _declared(preprocessing: Mapping[str, Any]) -> Any:
    return {name: value for name, value in preprocessing.items() if name != _PROVEN}


def _alike(one: Any, other: Any) -> bool:
    """Whether two pieces of JSON are equal, numbers but for their rounding."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    if numbers and not isinstance(one, bool) and not isinstance(other, bool):
        return math.isclose(one, other, rel_tol=_CLOSE)
    return bool(one == other)
