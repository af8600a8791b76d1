"""Where Python looks for modules: never in the working directory, where a user's images may have a ``numpy.py`` beside.

Libraries are kept from looking there, too: matplotlib takes its settings from a ``matplotlibrc`` in the working
directory, and a library that comes with torch loads a ``libcuda.so.1`` there as code.

Nothing but built-in modules is imported above the functions, since this runs before the path is safe.
"""

import os
import site
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from importlib.machinery import ModuleSpec
    from types import ModuleType

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120  pathlib is not loaded yet
"""The folder that holds this package."""

LOOK_AROUND = ("matplotlib", "torch")
"""Packages that look into the working directory while they are imported."""


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
    if not any(isinstance(finder, _Elsewhere) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Elsewhere())


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


class _Elsewhere:
    """Lets the packages in `LOOK_AROUND` be imported from ``/``, whatever the working directory is."""

    def find_spec(self, name: str, path: "Sequence[str] | None" = None, target: object = None) -> "ModuleSpec | None":
        if name not in LOOK_AROUND:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        loader = spec.loader
        execute = loader.exec_module

        def from_elsewhere(module: "ModuleType") -> None:
            with _at_the_root():
                execute(module)

        loader.exec_module = from_elsewhere  # type: ignore[method-assign]  # the loader is of this import alone
        return spec


def _at_the_root() -> "AbstractContextManager[None]":
    from contextlib import contextmanager

    @contextmanager
    def there() -> "Iterator[None]":
        here = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))  # also where it was removed, or can't be listed
        try:
            os.chdir("/")
            yield
        finally:
            os.fchdir(here)
            os.close(here)

    return there()


def _working_directory() -> str | None:
    try:
        return os.path.realpath(os.getcwd())  # noqa: PTH109
    except OSError:  # it was removed
        return None
