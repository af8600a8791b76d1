"""Names to encoders, over all loaders of this package."""

import importlib
import pkgutil
from collections.abc import Sequence
from types import ModuleType
from typing import Protocol, cast

import cbmir.encoders
from cbmir.encoders.base import Encoder, EncoderSettings, EncoderSpec
from cbmir.errors import EncoderError


class Loader(Protocol):
    """What a module needs to be a loader.

    Attributes:
        SPECS: The encoders it knows by name.
        PREFIX: ``prefix:`` under which it takes any network of its library, or None.
    """

    SPECS: Sequence[EncoderSpec]
    PREFIX: str | None

    def load(self, spec: EncoderSpec, settings: EncoderSettings) -> Encoder:
        """Build the encoder."""


def loaders() -> list[Loader]:
    """The loader modules, sorted by name; none of them imports its library before `load`."""
    found: list[ModuleType] = []
    for item in sorted(pkgutil.iter_modules(cbmir.encoders.__path__), key=lambda item: item.name):
        module = importlib.import_module(f"cbmir.encoders.{item.name}")
        if hasattr(module, "SPECS"):
            found.append(module)
    return [cast("Loader", module) for module in found]


def specs() -> list[EncoderSpec]:
    """The encoders known by name, sorted."""
    return sorted((spec for loader in loaders() for spec in loader.SPECS), key=lambda spec: spec.name)


def get(name: str, settings: EncoderSettings | None = None) -> Encoder:
    """Load an encoder.

    Args:
        name: One of `specs`, or ``timm:NAME`` or ``open_clip:ARCH/TAG`` for any network of those libraries.
        settings: Weights, device, precision and batch size.

    Raises:
        EncoderError: no such encoder, or it can't run here as asked.
        WeightsError: its weights are missing, damaged, or of another network.
    """
    settings = settings or EncoderSettings()
    for loader in loaders():
        for spec in loader.SPECS:
            if spec.name == name:
                return loader.load(spec, settings)
        if loader.PREFIX and name.startswith(loader.PREFIX):
            architecture = name.removeprefix(loader.PREFIX)
            return loader.load(
                EncoderSpec(name, architecture, "hub", "see the model card", "see the model card"), settings
            )
    known = ", ".join(spec.name for spec in specs())
    prefixes = " or ".join(f"{loader.PREFIX}NAME" for loader in loaders() if loader.PREFIX)
    raise EncoderError(f"no encoder {name!r}; there are {known}, and any {prefixes}")
