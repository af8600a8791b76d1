"""Where Python looks for modules: never in the working directory, where a user's images may have a ``numpy.py`` beside.

Nothing but built-in modules is imported above the functions, since this runs before the path is safe.
"""

import os
import site
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120  pathlib is not loaded yet
"""The folder that holds this package."""


def trusted() -> list[str]:
    """The module path of this process without the working directory.

    The working directory stays only where it is the folder of cbmir itself or one of installed packages.
    """
    ours = {os.path.realpath(path) for path in (HOME, *site.getsitepackages(), site.getusersitepackages())}
    here = _working_directory()
    return [
        entry
        for entry in sys.path
        if os.path.isabs(entry) and ((place := os.path.realpath(entry)) != here or place in ours)  # noqa: PTH117
    ]


def leave_out_working_directory() -> None:
    """Clean the module path of this program and of all children it will have; called before other imports."""
    sys.path[:] = trusted()
    os.environ["PYTHONSAFEPATH"] = "1"
    if given := os.environ.get("PYTHONPATH"):
        os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry in given.split(os.pathsep) if entry in sys.path)


def as_here() -> "AbstractContextManager[None]":
    """A context in which started Python processes find the modules that this one finds, and no others.

    It is for what starts children inside the standard library, and works in other people's programs too.
    """
    from contextlib import contextmanager

    @contextmanager
    def changed() -> "Iterator[None]":
        before = {name: os.environ.get(name) for name in ("PYTHONSAFEPATH", "PYTHONPATH")}
        os.environ.update(environment())
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    return changed()


def environment() -> dict[str, str]:
    """The variables of a Python process that is to find the modules that this one finds, and no others.

    Another program's own folder is among them, also where that is the working directory; `cbmir` has left that out.
    """
    path = [entry for entry in sys.path if os.path.isabs(entry) and os.pathsep not in entry]  # noqa: PTH117
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(path if HOME in path else [*path, HOME])}


def _working_directory() -> str | None:
    try:
        return os.path.realpath(os.getcwd())  # noqa: PTH109
    except OSError:  # it was removed
        return None
