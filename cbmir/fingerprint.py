"""What an encoder is, as data, and the fingerprint that keeps vectors of different encoders apart."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cbmir.errors import FingerprintError


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
            NAME``; empty where nobody knows. It is no part of the fingerprint.
    """

    name: str
    dim: int
    weights: str
    preprocessing: Mapping[str, Any]
    origin: str = field(default="", compare=False)

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

        Args:
            other: The encoder that wants to write to or ask `place`.
            place: Named in the message.

        Raises:
            FingerprintError: the fingerprints differ.
        """
        if other.fingerprint != self.fingerprint:
            raise FingerprintError(
                f"{place} holds vectors of {self.name} (fingerprint {self.fingerprint}, weights {self.weights[:19]}), "
                f"not of {other.name} (fingerprint {other.fingerprint}, weights {other.weights[:19]})"
                f"{_difference(self, other)}"
            )


def external_card(name: str, dim: int) -> EncoderCard:
    """The card of vectors that were made elsewhere and came without one."""
    return EncoderCard(name, dim, "external", {})


def _difference(one: EncoderCard, other: EncoderCard) -> str:
    left, right = one.as_json(), other.as_json()
    names = [name for name in left if left[name] != right[name]]
    remedy = ": give --weights FILE|DIR, the weights that it was made with" if names == ["weights"] else ""
    return f"; they differ in {', '.join(names)}{remedy}"
