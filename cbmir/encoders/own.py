"""Encoders of the user's own: what a function of theirs gives becomes an encoder like any other."""

import hashlib
import inspect
import pickle
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cbmir.encoders.base import Encoder, EncoderSettings, EncoderSpec
from cbmir.encoders.probes import preprocessed, probe_vectors
from cbmir.encoders.weights import GIVEN
from cbmir.errors import CbmirError, EncoderError, ImageError
from cbmir.fingerprint import EncoderCard
from cbmir.media import OwnPreprocessing, Preprocessing, VolumePreprocessing
from cbmir.schema import Vectors, normalise
from cbmir.sourcefile import SourceFile, in_words, split_source
from cbmir.units import counted

if TYPE_CHECKING:
    import torch

_HOW = (Preprocessing, VolumePreprocessing, OwnPreprocessing)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnEncoder:
    """A network with its preprocessing, as a function for ``--encoder FILE.py:FUNCTION`` or an entry point gives it.

    The function takes nothing, or `EncoderSettings`; then it sees to ``--weights``. It may also give an object with the
    attributes and methods of `Encoder`, which then runs as it likes.

    Attributes:
        name: Of the encoder: letters, digits, dot, dash and underscore.
        network: From (n, channels, height, width) normalised images, or (n, x, y, z) volumes, to (n, dim) features.
            cbmir puts it on the device, chooses the precision and scales the features to unit length.
        preprocessing: What comes before it: as data, or a function of one's own.
        dim: Length of the features; it is checked. An encoder of volumes must have it.
        text: From n texts to (n, dim) features in the space of the images.
    """

    name: str
    network: "torch.nn.Module"
    preprocessing: Preprocessing | VolumePreprocessing | OwnPreprocessing
    dim: int | None = None
    text: Callable[[Sequence[str]], NDArray[Any]] | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where the code of an encoder is.

    Attributes:
        place: For messages.
        origin: For the card: where the weights are from, unless they are given.
        file: Of the function; None where that isn't known.
        code: The file, where the user has given one.
    """

    place: str
    origin: str
    file: Path | None
    code: SourceFile | None = None


def from_file(text: str, settings: EncoderSettings) -> Encoder | None:
    """The encoder of ``FILE.py:FUNCTION``, whose file is run; None for a text of another form.

    Raises:
        EncoderError: the file can't be read or run, or gives no encoder.
    """
    found = split_source(text)
    if found is None:
        return None
    path, name = found
    code = SourceFile.read(path)
    asked = f"{path.name}:{name}"
    made = made_by(code.function(name), settings, Source(text, asked, path, code))
    made.card = replace(made.card, asked_as=asked)
    return made


def made_by(function: Callable[..., Any], settings: EncoderSettings, source: Source) -> Encoder:
    """The encoder that a function of the user's own gives.

    Raises:
        EncoderError: the function fails, gives something else, or what it gives doesn't fit together.
    """
    made = _called(function, settings, source)
    try:
        encoder = _built(made, settings, source) if isinstance(made, OwnEncoder) else _checked(made, settings, source)
    except CbmirError:
        raise
    except Exception as error:
        raise EncoderError(f"{source.place}: {in_words(error)}") from error
    check_own_name(encoder.card.name, source.place)
    origin = GIVEN + settings.weights.name if settings.weights else source.origin
    digest = source.code.sha256 if source.code else _file_sha256(source.file)
    encoder.card = replace(encoder.card, origin=origin, code=f"sha256:{digest}" if digest else "")
    return encoder


def check_own_name(name: str | None, place: str) -> None:
    """Refuse a name that an encoder of one's own can't have.

    Args:
        name: Of the encoder.
        place: Who has given it, for messages.

    Raises:
        EncoderError: it is another encoder's, or has signs that a name can't have.
    """
    from cbmir.encoders.registry import specs

    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or name.endswith(".py"):
        raise EncoderError(
            f"{place}: an encoder can't be named {name!r}: use letters, digits, dot, dash and underscore, 100 at most"
        )
    if any(spec.name == name for spec in specs()):
        raise EncoderError(
            f"{place}: {name} is the name of another encoder (`cbmir encoders list`); choose one of your own"
        )


def _called(function: Callable[..., Any], settings: EncoderSettings, source: Source) -> Any:
    try:
        takes_settings = bool(inspect.signature(function).parameters)
    except (TypeError, ValueError) as error:
        raise EncoderError(f"{source.place} is {function!r}, which can't be called") from error
    if settings.weights and not takes_settings:
        raise EncoderError(f"{source.place} takes no settings, so it can't see --weights; give it a parameter for them")
    try:
        return function(settings) if takes_settings else function()
    except CbmirError:
        raise
    except (Exception, SystemExit) as error:
        raise EncoderError(f"{source.place}: {in_words(error)}") from error


def _built(own: OwnEncoder, settings: EncoderSettings, source: Source) -> Encoder:
    import torch

    from cbmir.device import place
    from cbmir.encoders.network import encoder
    from cbmir.encoders.volumes import VolumeEncoder

    if not isinstance(own.network, torch.nn.Module):
        raise EncoderError(f"{source.place}: the network is a {type(own.network).__name__}, not a torch.nn.Module")
    check_own_name(own.name, source.place)
    how = _sealed(own.preprocessing, source)
    network = own.network.eval().float()
    if how.kind == "volume":
        if own.dim is None:
            raise EncoderError(f"{source.place}: an encoder of volumes must say the length of its vectors, dim")
        placement = place(settings.device, settings.precision, settings.torch_compile)
        made: Encoder = VolumeEncoder(own.name, network, how, placement, settings.batch_size, own.dim)
        return made
    spec = EncoderSpec(name=own.name, architecture=source.place, source=source.origin, licence="", trained_on="")
    made = encoder(spec, network, how, settings, (lambda: partial(_text, own)) if own.text else None)
    if own.dim not in (None, made.card.dim):
        raise EncoderError(f"{source.place}: {own.name} gives {made.card.dim} numbers an image, not {own.dim}")
    return made


def _text(own: OwnEncoder, texts: Sequence[str]) -> Vectors:
    try:
        rows = np.asarray(own.text(texts) if own.text else (), np.float32)
    except Exception as error:
        raise EncoderError(f"the text tower of {own.name} failed: {in_words(error)}") from error
    if rows.ndim != 2 or len(rows) != len(texts):
        raise EncoderError(
            f"the text tower of {own.name} gave an array of {rows.shape} for {counted(len(texts), 'text')}"
        )
    return rows


def _sealed(how: Any, source: Source) -> Any:
    """A preprocessing that is proven to go to other processes and to give the same each time.

    Raises:
        EncoderError: it doesn't.
    """
    if not isinstance(how, _HOW):
        kinds = ", ".join(kind.__name__ for kind in _HOW)
        raise EncoderError(f"{source.place}: the preprocessing is a {type(how).__name__}; it can be {kinds}")
    if not isinstance(how, OwnPreprocessing):
        return how
    how = replace(how, code=source.code)
    try:
        there = pickle.loads(pickle.dumps(how))  # noqa: S301  made one call before
    except Exception as error:
        raise EncoderError(
            f"{source.place}: the preprocessing can't go to the processes that read images: write it as a function or "
            f"a class at the top level of the file, not inside another function ({in_words(error)})"
        ) from error
    try:
        one, other = preprocessed(how), preprocessed(there)
    except ImageError as error:
        raise EncoderError(f"{source.place}: on an image for testing, {error}") from error
    if one.tobytes() != other.tobytes():
        raise EncoderError(f"{source.place}: the preprocessing gives other values each time for the same image")
    return replace(how, pixels=hashlib.sha256(one.tobytes()).hexdigest())


def _checked(made: Any, settings: EncoderSettings, source: Source) -> Encoder:
    wanted = ("card", "preprocessing", "batch_size", "running_on", "embed", "embed_text")
    missing = [name for name in wanted if not hasattr(made, name)]
    if missing:
        raise EncoderError(
            f"{source.place} gives a {type(made).__name__}; it must give cbmir.encoders.OwnEncoder, or an object with "
            f"{', '.join(wanted)} (it lacks {', '.join(missing)})"
        )
    if not isinstance(made.card, EncoderCard) or made.card.is_external:
        raise EncoderError(f"{source.place}: its card is {made.card!r}, not an EncoderCard with weights of its own")
    if not isinstance(made.batch_size, int) or made.batch_size < 1:
        raise EncoderError(f"{source.place}: its batch size is {made.batch_size!r}, not 1 or more")
    return CheckedEncoder(made, _sealed(made.preprocessing, source), settings.batch_size)


class CheckedEncoder:
    """An encoder of another's making, asked by one thread at a time, with a check of what it gives.

    Attributes:
        card: Its own, with the preprocessing as it is here.
        preprocessing: Its own.
        batch_size: Its own unless given.
    """

    def __init__(
        self,
        encoder: Any,
        preprocessing: Preprocessing | VolumePreprocessing | OwnPreprocessing,
        batch_size: int | None,
    ) -> None:
        self.preprocessing = preprocessing
        self.batch_size = batch_size or encoder.batch_size
        self._encoder = encoder
        self._one_at_a_time = threading.Lock()
        exact = getattr(encoder, "embed_exact", encoder.embed)
        probes = probe_vectors(preprocessing, lambda pixels: self._rows(exact, pixels), lambda: self.embed_text)
        self.card: EncoderCard = replace(encoder.card, preprocessing=preprocessing.as_json(), probes=probes)

    @property
    def running_on(self) -> str:
        """What the encoder says."""
        return str(self._encoder.running_on)

    def embed(self, pixels: NDArray[Any]) -> Vectors:
        """(n, dim) rows of unit length, see `Encoder`.

        Raises:
            EncoderError: it fails, or gives something else.
        """
        return self._rows(self._encoder.embed, pixels)

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        """(n, dim) rows of unit length, see `Encoder`.

        Raises:
            EncoderError: it has no text tower, fails, or gives something else.
        """
        return self._rows(self._encoder.embed_text, texts)

    def _rows(self, embed: Callable[[Any], Any], inputs: Any) -> Vectors:
        try:
            with self._one_at_a_time:
                rows = np.asarray(embed(inputs), np.float32)
        except CbmirError:
            raise
        except Exception as error:
            raise EncoderError(f"the encoder {self.card.name} failed: {in_words(error)}") from error
        if rows.shape != (len(inputs), self.card.dim):
            wanted = (len(inputs), self.card.dim)
            raise EncoderError(f"the encoder {self.card.name} gave an array of {rows.shape}, not {wanted}")
        return normalise(rows)


def _file_sha256(file: Path | None) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest() if file else ""
    except OSError:
        return ""
