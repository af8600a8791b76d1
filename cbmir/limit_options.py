"""Options for what one image or one table may take, kept in the environment while the command runs."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from cbmir.errors import CbmirError
from cbmir.limits import IMAGE_SECONDS, TABLE_SECONDS, Of, bytes_of, seconds_of, variable

F = TypeVar("F", bound=Callable[..., Any])


def image_limit_options(command: F) -> F:
    """``--image-seconds``, ``--image-bytes`` and ``--image-memory``; for commands that decode images or volumes."""
    return _options(command, "image", IMAGE_SECONDS)


def table_limit_options(command: F) -> F:
    """``--table-seconds``, ``--table-bytes`` and ``--table-memory``; for commands that read tables."""
    return _options(command, "table", TABLE_SECONDS)


def _options(command: F, of: Of, seconds: float) -> F:
    wrapped: Any = command
    for what, metavar, text in (
        ("memory", "SIZE", f"Memory that one {of} may take; 16G, or three quarters of the machine's, unless given."),
        ("bytes", "SIZE", f"What one {of} may unpack to, such as 500M; 8G unless given."),
        ("seconds", "SECONDS", f"Computing time that one {of} may take; {seconds:g} unless given."),
    ):
        wrapped = click.option(
            f"--{of}-{what}", metavar=metavar, expose_value=False, callback=_into_environment(of, what), help=text
        )(wrapped)
    return wrapped  # type: ignore[no-any-return]


def _into_environment(of: Of, what: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def keep(context: click.Context, option: click.Parameter, text: str | None) -> None:
        if text is None:
            return
        try:
            (seconds_of if what == "seconds" else bytes_of)(text)
        except CbmirError as error:
            raise click.BadParameter(str(error), context, option) from error
        name = variable(of, what)
        before = os.environ.get(name)
        os.environ[name] = text
        context.call_on_close(lambda: os.environ.pop(name) if before is None else os.environ.update({name: before}))

    return keep
