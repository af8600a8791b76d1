"""Names to encoders, over all loaders of this package."""

import difflib
import importlib
import json
import logging
import pkgutil
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

import cbmir.encoders
from cbmir.encoders.base import Encoder, EncoderSettings, EncoderSpec
from cbmir.encoders.names import canonical
from cbmir.encoders.plugins import plugin, plugins
from cbmir.encoders.weights import RECORD, pulled_record
from cbmir.errors import EncoderError, WeightsError
from cbmir.permissions import as_usual
from cbmir.schema import RecordKind

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_NAMED = 5
_log = logging.getLogger(__name__)


class Loader(Protocol):
    """What a module needs to be a loader.

    Attributes:
        SPECS: The encoders it knows by name.
        PREFIX: ``prefix:`` under which it takes any network of its library, or None.
        PREFIX_FORM: What follows the prefix, for people; empty without one.
    """

    SPECS: Sequence[EncoderSpec]
    PREFIX: str | None
    PREFIX_FORM: str

    def load(self, spec: EncoderSpec, settings: EncoderSettings) -> Encoder:
        """Build the encoder."""

    def pull(self, spec: EncoderSpec, to: Path) -> None:
        """Make a directory that `load` takes as weights without internet, text tower included."""


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


@cache
def not_taken(kind: RecordKind, encoder: str) -> str:
    """Why an image or a volume is no input of an encoder, which takes the other kind, and which encoders take it."""
    what, takes = ("an image", "volumes") if kind == "image" else ("a volume", "images")
    names = [spec.name for spec in specs() if spec.kind == kind]
    more = ", ..." if len(names) > _NAMED else ""
    return (
        f"is {what}; {encoder} takes {takes}. To store or search {kind}s, use a collection of an encoder that takes "
        f"them ({', '.join(names[:_NAMED])}{more}; see cbmir encoders list)"
    )


def given(text: str, settings: EncoderSettings | None = None) -> Encoder:
    """Load the encoder that the user has asked for: as `get`, or ``FILE.py:FUNCTION``, whose file is run.

    It is for what the user writes: an option, or an argument in their own program. What stands in a collection, an
    archive or an experiment file goes to `get`.

    Raises:
        EncoderError: no such encoder, it can't run here as asked, or the user's own code fails.
        WeightsError: its weights are missing, damaged, or of another network.
    """
    from cbmir.encoders.own import from_file

    settings = settings or EncoderSettings()
    _check_name(text, settings)
    own = from_file(text, settings)
    return _named(own, text, settings) if own else get(text, settings)


def check_given(text: str, settings: EncoderSettings) -> None:
    """Refuse what `given` can't find, without loading anything; a file of the user's own is read, not run.

    Raises:
        EncoderError: no such encoder, or the file can't be read.
    """
    from cbmir.sourcefile import SourceFile, split_source

    _check_name(text, settings)
    if found := split_source(text):
        SourceFile.read(found[0])
    else:
        find(text, settings.weights)


def get(name: str, settings: EncoderSettings | None = None) -> Encoder:
    """Load an encoder by name; no file is ever run for it.

    Args:
        name: One of `specs` or `plugins`, a prefix of a library and any network of it, as ``timm:NAME``, or what a
            model page calls it, see `canonical`; the encoder has the canonical name.
        settings: Weights, device, precision, batch size, and a name of the user's own.

    Raises:
        EncoderError: no such encoder, or it can't run here as asked.
        WeightsError: its weights are missing, damaged, or of another network.
    """
    settings = settings or EncoderSettings()
    _check_name(name, settings)
    loader, spec = find(name, settings.weights)
    if spec.name != name:
        _log.warning("%s is %s here", name, spec.name)
        name = spec.name
    if settings.weights is None:
        _say_terms(spec)
    elif pulled := pulled_record(settings.weights):
        same_repository = pulled.get("source") == spec.source and not spec.source.startswith("package ")
        if pulled.get("encoder") != name and not same_repository:
            raise WeightsError(f"{settings.weights} holds {pulled.get('encoder')}, not {name}")
    with as_usual():
        return _named(loader.load(spec, settings), spec.name, settings)


def pull(name: str, to: Path) -> None:
    """Download an encoder into a directory that works as its weights without internet, text tower included.

    Raises:
        EncoderError: no such encoder, or it has nothing to download.
        WeightsError: the hub can't be reached or refuses, or the directory can't be written.
    """
    loader, spec = find(name)
    _say_terms(spec)
    try:
        with as_usual():
            to.mkdir(parents=True, exist_ok=True)
            if any(to.iterdir()):
                raise WeightsError(f"{to} is not empty; give a directory of its own")
            loader.pull(spec, to)
            record = {"encoder": spec.name, "source": spec.source, "revision": spec.revision, "licence": spec.licence}
            (to / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise WeightsError(f"can't write {name} to {to}: {error.strerror or error}") from error


def find(name: str, weights: Path | None = None) -> tuple[Loader, EncoderSpec]:
    """The loader of an encoder and what is known of it.

    Args:
        name: One of `specs`, or a prefix of a library and any network of it, or what a model page calls it;
            ``@REVISION`` may follow the latter two.
        weights: A directory whose configuration says what library a repository is for.

    Raises:
        EncoderError: no such encoder.
    """
    for loader in loaders():
        for spec in loader.SPECS:
            if spec.name == name:
                return loader, spec
    if own := plugin(name):
        return own, own.SPECS[0]
    name = canonical(name, weights)
    for loader in loaders():
        if loader.PREFIX and name.startswith(loader.PREFIX):
            architecture, _, revision = name.removeprefix(loader.PREFIX).partition("@")
            card = "see its model card"
            return loader, EncoderSpec(
                name=name,
                architecture=architecture,
                source=architecture,
                revision=revision or "main",
                licence=card,
                trained_on=card,
                undisclosed=True,
            )
    known = ", ".join([*(spec.name for spec in specs()), *(item.entry.name for item in plugins())])
    prefixes = " or ".join(f"{loader.PREFIX}{loader.PREFIX_FORM}" for loader in loaders() if loader.PREFIX)
    near = difflib.get_close_matches(name.lower(), [spec.name for spec in specs()], 3, 0.6)
    meant = f"did you mean {' or '.join(sorted(near))}? " if near else ""
    raise EncoderError(
        f"no encoder {name!r}; {meant}there are {known}, and any {prefixes}, or ORG/REPO of the model hub"
    )


def _check_name(asked: str, settings: EncoderSettings) -> None:
    from cbmir.encoders.own import check_own_name

    if settings.name not in (None, asked):
        check_own_name(settings.name, "--name")


def _named(encoder: Encoder, asked: str, settings: EncoderSettings) -> Encoder:
    """The encoder under the name that the user wants it to have."""
    if settings.name not in (None, encoder.card.name):
        encoder.card = replace(encoder.card, name=settings.name, asked_as=encoder.card.asked_as or asked)
    return encoder


def at_hand(spec: EncoderSpec) -> bool:
    """Whether its own weights are on this machine: none needed, an installed package's, or in the hub's cache."""
    if spec.source in ("none", "untrained"):
        return True
    if spec.source.startswith("package "):
        return _installed(spec.source.removeprefix("package "), getattr(spec, "backbone", ""))
    if "://" in spec.source:
        return False
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{spec.source.replace('/', '--')}" / "snapshots"
    return any(
        item.suffix in _WEIGHTS for item in folder.glob(f"{'*' if spec.revision == 'main' else spec.revision}/*")
    )


def _installed(package: str, extra: str) -> bool:
    """Whether a distribution is there, and those that its extra of some name needs."""
    try:
        needed = [text for text in metadata.requires(package) or () if f'extra == "{extra}"' in text.replace("'", '"')]
        return all(metadata.version(re.split(r"[^\w.-]", text)[0]) for text in needed)
    except metadata.PackageNotFoundError:
        return False


def _say_terms(spec: EncoderSpec) -> None:
    """Before anything is downloaded, what a hospital's lawyer would ask."""
    if spec.non_commercial:
        _log.warning("%s may not be used commercially: its licence is %s", spec.name, spec.licence)
    if spec.gated:
        _log.warning(
            "%s is gated: accept %s at https://huggingface.co/%s and set HF_TOKEN", spec.name, spec.licence, spec.source
        )
