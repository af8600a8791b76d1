"""Encoders of installed packages: entry points of the group ``cbmir.encoders``.

A name leads to a function of the package, as `cbmir.encoders.own.OwnEncoder` describes. Nothing of a package is
imported before its encoder is asked for by name.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from cbmir.encoders.base import Encoder, EncoderSettings, EncoderSpec
from cbmir.errors import EncoderError
from cbmir.sourcefile import in_words

GROUP = "cbmir.encoders"


@dataclass(slots=True)
class Plugin:
    """An encoder of an installed package, as a loader.

    Attributes:
        entry: Its entry point.
        SPECS: The encoder.
        PREFIX: None.
        PREFIX_FORM: Empty.
    """

    entry: metadata.EntryPoint
    SPECS: Sequence[EncoderSpec]
    PREFIX: str | None = None
    PREFIX_FORM: str = ""

    @property
    def place(self) -> str:
        """The package with its version, and the function."""
        return f"{package(self.entry)}, {self.entry.value}"

    def load(self, spec: EncoderSpec, settings: EncoderSettings) -> Encoder:
        """Import the package and make the encoder.

        Raises:
            EncoderError: its code fails, or gives no encoder.
        """
        from cbmir.encoders.own import Source, made_by

        try:
            function: Callable[..., Any] = self.entry.load()
        except (Exception, SystemExit) as error:
            raise EncoderError(f"the encoder {spec.name} of {self.place} can't be loaded: {in_words(error)}") from error
        file = getattr(sys.modules.get(getattr(function, "__module__", "")), "__file__", None)
        made = made_by(function, settings, Source(self.place, spec.source, Path(file) if file else None))
        if made.card.name != spec.name:
            raise EncoderError(
                f"{self.place}: the entry point is {spec.name}, the encoder {made.card.name}: give one name"
            )
        return made

    def pull(self, spec: EncoderSpec, to: Path) -> None:
        """There is nothing to download.

        Raises:
            EncoderError: always.
        """
        raise EncoderError(f"{spec.name} is an encoder of {self.place}: its package brings the weights, or its maker")


def plugins() -> list[Plugin]:
    """The encoders of installed packages, sorted by name; nothing is imported."""
    found = sorted(metadata.entry_points(group=GROUP), key=lambda entry: (entry.name, package(entry)))
    return [Plugin(entry, (_spec(entry),)) for entry in found]


def plugin(name: str) -> Plugin | None:
    """The encoder of an installed package of some name.

    Raises:
        EncoderError: several packages have one of that name.
    """
    found = [item for item in plugins() if item.entry.name == name]
    if len(found) > 1:
        raise EncoderError(f"{len(found)} packages have an encoder {name}: {'; '.join(item.place for item in found)}")
    return found[0] if found else None


def package(entry: metadata.EntryPoint) -> str:
    """Name and version of the package that has an entry point."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"


def _spec(entry: metadata.EntryPoint) -> EncoderSpec:
    return EncoderSpec(
        name=entry.name,
        architecture=entry.value,
        source=f"package {entry.dist.name}" if entry.dist else "package",
        licence="see its package",
        trained_on="see its package",
        undisclosed=True,
    )
