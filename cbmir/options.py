"""What the commands share: options, the filter options as one filter, opening the store, errors as one line."""

import functools
import io
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from cbmir.errors import CbmirError
from cbmir.filters import SHORT, Where, any_of, parse_all
from cbmir.fingerprint import EncoderCard, external_card
from cbmir.permissions import private
from cbmir.store import Collection, Key, Layout, Store, open_store
from cbmir.store.keys import STORE_KEY
from cbmir.store.layout import PROFILES, announcement
from cbmir.terminal import Formatter, in_json, on_one_line, shown, writable

if TYPE_CHECKING:
    from cbmir.encoders.base import EncoderSettings

EXIT_FAILURES = 3
"""The work is finished, and some inputs failed and were counted."""

EXIT_INTERRUPTED = 130
_EXAMPLES = {
    "modality": "CT, MR, XR, US, ...",
    "region": "chest, lung, ...",
    "pathology": "pneumonia, nodule, ...",
    "dataset": "name of a data set",
    "split": "train, val or test",
}
"""Values of the filter options, for their help."""

_store_key: ContextVar[Key | None] = ContextVar("store_key", default=None)

F = TypeVar("F", bound=Callable[..., Any])


def store_option(command: F, cls: type[click.Option] = click.Option) -> F:
    """``--store DIR|URL``, passed as `location`, and how a server is reached, which `open_store` finds by itself."""
    command = transport_options(command)
    return click.option(
        "--store",
        "location",
        cls=cls,
        envvar="CBMIR_STORE",
        show_envvar=True,
        required=True,
        metavar="DIR|URL",
        help="Directory, or URL of a Qdrant server (its key comes from QDRANT_API_KEY); of a cluster: URL,URL,...",
    )(command)


def transport_options(command: F) -> F:
    """``--transport`` and ``--grpc-port``, kept in the environment while the command runs."""
    port = click.option(
        "--grpc-port",
        type=click.IntRange(1, 65535),
        metavar="PORT",
        expose_value=False,
        callback=_into_environment("CBMIR_GRPC_PORT"),
        help="gRPC port of a server; one above the URL's unless given (or CBMIR_GRPC_PORT).",
    )
    transport = click.option(
        "--transport",
        type=click.Choice(["auto", "grpc", "rest"]),
        expose_value=False,
        callback=_into_environment("CBMIR_TRANSPORT"),
        help="To a server; auto unless given (or CBMIR_TRANSPORT): gRPC, but REST where only that can answer.",
    )
    return transport(port(command))


def index_timeout_option(command: F) -> F:
    """``--timeout``, kept in the environment while the command runs; for commands that wait for an index."""
    return click.option(
        "--timeout",
        type=click.IntRange(1, 999_999_999),
        metavar="SECONDS",
        expose_value=False,
        callback=_into_environment("CBMIR_INDEX_TIMEOUT"),
        help="How long to wait for a server's index; a day unless given (or CBMIR_INDEX_TIMEOUT).",
    )(command)


def _into_environment(name: str) -> Callable[[click.Context, click.Parameter, object], None]:
    def keep(context: click.Context, _: click.Parameter, value: object) -> None:
        if value is None:
            return
        before = os.environ.get(name)
        os.environ[name] = str(value)
        context.call_on_close(lambda: os.environ.pop(name) if before is None else os.environ.update({name: before}))

    return keep


def json_option(command: F) -> F:
    """``--json``, passed as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def encoder_options(command: F) -> F:
    """How to run an encoder, passed together as `settings`."""

    @functools.wraps(command)
    def with_settings(*args: Any, weights: Path | None, **options: Any) -> Any:
        from cbmir.encoders.base import EncoderSettings

        how = {name: options.pop(name) for name in ("device", "precision", "batch_size", "torch_compile")}
        how |= {"name": options.pop("own_name", None), "asked": options.pop("asked_encoder", None)}
        return command(*args, settings=EncoderSettings(weights, **how), **options)

    wrapped: Any = with_settings
    for option in (
        click.option("--torch-compile", is_flag=True, help="Compile the network first: for many images on a GPU."),
        click.option("--batch-size", type=click.IntRange(1), help="Images a step; chosen for the device unless given."),
        click.option("--precision", default="auto", show_default=True, help="auto, fp32, bf16 or fp16."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."),
        click.option(
            "--weights",
            type=click.Path(path_type=Path),
            metavar="FILE|DIR",
            help="Weights instead of the encoder's own.",
        ),
    ):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def own_name_option(command: F) -> F:
    """``--name``, for commands with `encoder_options`, which it stands above."""
    text = "Call the encoder so, for weights or settings of your own; the collection remembers both names."
    return click.option("--name", "own_name", metavar="NAME", help=text)(command)


def asked_option(command: F) -> F:
    """``--encoder`` where the collection says which it needs, for commands with `encoder_options`."""
    text = "FILE.py:FUNCTION, where the collection was made by an encoder of your own; the file is run."
    return click.option("--encoder", "asked_encoder", metavar="ENCODER", help=text)(command)


@dataclass(frozen=True)
class CardChoice:
    """Which encoder a collection is for.

    Attributes:
        encoder: Its name; None where none was given.
        dim: Length of vectors that come from files, of an encoder that cbmir doesn't run; else None.
        settings: How to load the encoder.
    """

    encoder: str | None
    dim: int | None
    settings: "EncoderSettings"

    def card(self) -> EncoderCard:
        """The card of the encoder, which is loaded for it, or that of vectors from files.

        Raises:
            EncoderError: there is no such encoder.
        """
        if self.dim is not None:
            return external_card(self.settings.name or str(self.encoder), self.dim)
        from cbmir.encoders import given

        return given(str(self.encoder), self.settings).card


def card_options(text: str, *, required: bool = False) -> Callable[[F], F]:
    """``--encoder`` and ``--dim``, passed together as `choice`.

    Args:
        text: What the encoder is for.
        required: Whether the encoder must be given.
    """

    def with_options(command: F) -> F:
        @functools.wraps(command)
        def with_choice(*args: Any, encoder: str | None, dim: int | None, settings: Any, **options: Any) -> Any:
            return command(*args, choice=CardChoice(encoder, dim, settings), **options)

        wrapped: Any = own_name_option(encoder_options(with_choice))
        dim_help = "Length of vectors that come from files (ingest embeddings); --encoder is then any name."
        wrapped = click.option("--dim", type=click.IntRange(1, 65_536), metavar="N", help=dim_help)(wrapped)
        return click.option("--encoder", required=required, help=text)(wrapped)  # type: ignore[no-any-return]

    return with_options


def layout_options(command: F) -> F:
    """``--profile``, ``--images`` and what only a cluster has, passed together as `layout`; for new collections."""

    @functools.wraps(command)
    def with_layout(*args: Any, **options: Any) -> Any:
        names = ("profile", "images", "shards", "replicas", "write_consistency")
        return command(*args, layout=Layout(**{name: options.pop(name) for name in names}), **options)

    wrapped: Any = with_layout
    for option in (
        click.option("--write-consistency", type=int, help="Replicas that must have a write before it counts as done."),
        click.option("--replicas", type=int, help="Nodes of a cluster that hold each part of a new collection."),
        click.option("--shards", type=int, help="Parts of a new collection on a cluster."),
        click.option("--images", type=click.IntRange(1), help="How many it will hold, where that isn't known."),
        click.option(
            "--profile",
            type=click.Choice(PROFILES),
            default="small",
            show_default=True,
            help="Of a new collection. small: all in memory; ram: 8-bit copies in memory; disk: nothing.",
        ),
    ):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def defer_option(command: F) -> F:
    """``--defer-index``, passed as `defer`."""
    text = "On a server: build the graph at the end, for many images at once. Until then searches compare all images."
    return click.option("--defer-index", "defer", is_flag=True, help=text)(command)


def print_estimate(store: Store, name: str | None, card: EncoderCard, layout: Layout) -> None:
    """Say what a collection will take that doesn't exist yet; None for a version whose name isn't known yet."""
    if name is None or name not in store.names():
        say(announcement(layout, card.dim))


def filter_options(command: F) -> F:
    """The repeatable filter options, passed together as one filter, `where`."""

    @functools.wraps(command)
    def with_filter(*args: Any, **options: Any) -> Any:
        where: Where = parse_all(*options.pop("conditions"))
        for option, field in SHORT.items():
            where += any_of(field, options.pop(option))
        return command(*args, where=where, **options)

    wrapped: Any = with_filter
    wrapped = click.option(
        "--where",
        "conditions",
        multiple=True,
        metavar="CONDITION",
        help="age_years<60, sex=F, view!=lateral, 'labels~XR/chest/*', 'modality=CT|MR'; all given must hold.",
    )(wrapped)
    for option, values in reversed(_EXAMPLES.items()):
        wrapped = click.option(f"--{option}", multiple=True, help=f"Any of: {values}. Repeatable.")(wrapped)
    return wrapped  # type: ignore[no-any-return]


def store_key() -> Key:
    """The key of ``--store``; of the store that an experiment's file names, the one that is set for its host."""
    return _store_key.get() or Key.read(STORE_KEY)


@contextmanager
def keyed(key: Key) -> Iterator[None]:
    """Let a key be that of ``--store`` meanwhile."""
    before = _store_key.set(key)
    try:
        yield
    finally:
        _store_key.reset(before)


@contextmanager
def opened(location: str, key: Key | None = None) -> Iterator[Store]:
    """A store, closed afterwards; the read consistency is in the environment.

    Args:
        location: Directory or URL.
        key: Of a store that isn't that of ``--store``.
    """
    consistency = os.environ.get("CBMIR_READ_CONSISTENCY")
    with open_store(location, key or store_key(), consistency or None) as store:
        yield store


@contextmanager
def opened_collection(location: str, name: str | None) -> Iterator[Collection]:
    """A collection behind ``--store`` and ``--collection``; the only one there is where no name is given."""
    with opened(location) as store, store.open(name or store.only()) as collection:
        yield collection


def print_json(data: Any) -> None:
    """One JSON document on stdout."""
    click.echo(in_json(json.dumps(data, indent=2, ensure_ascii=False)))


def echo(text: object, *, exact: bool = False) -> None:
    """Lines of a result on stdout, without what a terminal would obey.

    Args:
        text: The lines.
        exact: Whether they are for programs, such as CSV: then they stay as they are unless stdout is a terminal.
    """
    to_people = not exact or sys.stdout.isatty()
    click.echo(shown(text) if to_people else writable(str(text)), color=True)  # else click would delete parts of it


def say(text: object) -> None:
    """A line of talk on stderr, without what a terminal would obey."""
    click.echo(shown(text), err=True)


def run(command: click.Command, name: str) -> NoReturn:
    """Run a command as a program: errors of ours as one line, the exit code as documented."""
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # what it says comes back in our own error
    log = logging.StreamHandler()
    log.setFormatter(Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[log])
    warnings.formatwarning = lambda message, *_, **__: f"warning: {shown(' '.join(str(message).split()))}\n"
    with private():
        code = _exit_code(command, name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is said and done: a late Ctrl-C would only show a traceback
    sys.exit(code)


def _exit_code(command: click.Command, name: str) -> int:
    try:
        code = command.main(prog_name=name, standalone_mode=False)
    except click.exceptions.Abort:
        say("interrupted")
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        say(text.getvalue().rstrip("\n"))
        return error.exit_code
    except CbmirError as error:
        say(f"error: {on_one_line(error)}")
        return error.exit_code
    except (RecursionError, OverflowError, MemoryError, ValueError, OSError) as error:
        reason = _in_words(error)
        if reason is None:
            raise
        say(f"error: {on_one_line(reason)}")
        return 1
    return code if isinstance(code, int) else 0


def _in_words(error: Exception) -> str | None:
    """What no command foresaw, but a value, a file or the machine can cause; None for a mistake of the program."""
    if isinstance(error, RecursionError):
        return "a file or a value is nested too deep to be read"
    if isinstance(error, OverflowError):
        return f"a number is too large: {error}"
    if isinstance(error, MemoryError):
        return f"there isn't enough memory: {error}" if str(error) else "there isn't enough memory"
    if isinstance(error, UnicodeError):
        return f"a name or a value is no text in UTF-8: {error}"
    if isinstance(error, OSError):
        place = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        return f"{error.strerror or error}{place}"
    if "embedded null" in str(error):
        return "a path or a value holds a NUL byte, which no file name can"
    return None
