"""Who may read what the program writes: only its user, but for weights and thumbnails."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

PRIVATE = 0o077
"""The rights that files with patient data don't have: those of the group and of others."""

_given: ContextVar[int | None] = ContextVar("the user's own mask", default=None)


@contextmanager
def private() -> Iterator[None]:
    """Files made meanwhile, by children too, can be read by this user only; folders likewise."""
    before = os.umask(PRIVATE)
    token = _given.set(before)
    try:
        yield
    finally:
        _given.reset(token)
        os.umask(before)


@contextmanager
def as_usual() -> Iterator[None]:
    """Inside `private`: files made meanwhile have the rights of this user's other files, as weights that many share."""
    given = _given.get()
    before = None if given is None else os.umask(given)
    try:
        yield
    finally:
        if before is not None:
            os.umask(before)
