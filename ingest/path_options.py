"""Options about the paths that sources write."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from cbmir.paths import PathPrefixes

F = TypeVar("F", bound=Callable[..., Any])


def path_prefix_option(command: F) -> F:
    """``--path-prefix OLD=NEW``, all of them passed together as `prefixes`."""

    @functools.wraps(command)
    def with_prefixes(*args: Any, path_prefix: tuple[str, ...], **options: Any) -> Any:
        return command(*args, prefixes=PathPrefixes(map(_pair, path_prefix)), **options)

    return click.option(
        "--path-prefix",
        multiple=True,
        metavar="OLD=NEW",
        help="Beginning of paths that is replaced, such as 'C:\\data=/mnt/data' or s3://bucket=images. Repeatable.",
    )(with_prefixes)  # type: ignore[return-value]


def no_links_option(command: F) -> F:
    """``--no-links``, passed as `links`: whether symbolic links are followed."""
    return click.option(
        "--no-links",
        "links",
        flag_value=False,
        default=True,
        type=bool,
        help="Pass over symbolic links, and count them.",
    )(command)


def _pair(text: str) -> tuple[str, str]:
    old, sign, new = text.partition("=")
    if not sign or not old:
        raise click.BadParameter(f"{text!r}: write OLD=NEW, such as C:\\data=/mnt/data", param_hint="--path-prefix")
    return old, new
