"""A Python file that the user has named, run as a module of its own: here, and again in worker processes.

Only what the user gives on the command line or in their own program comes here. A path that is found in a collection,
an archive or an experiment file doesn't.
"""

import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from cbmir.errors import EncoderError, one_line

_FORM = re.compile(r"(?s)(.+\.py):([A-Za-z_]\w*)")
_MAX_BYTES = 10_000_000


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file as it was read once; what runs later in other processes is the same, though the file may change.

    Attributes:
        path: Where it was, for messages of Python.
        source: Its bytes.
    """

    path: Path
    source: bytes

    @classmethod
    def read(cls, path: Path) -> Self:
        """The file.

        Raises:
            EncoderError: it can't be read.
        """
        try:
            if not path.is_file():
                raise EncoderError(f"no file {path}")
            if path.stat().st_size > _MAX_BYTES:
                raise EncoderError(f"{path} is too large for a Python file")
            return cls(path.absolute(), path.read_bytes())
        except OSError as error:
            raise EncoderError(f"can't read {path}: {error.strerror or error}") from error

    @property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the bytes."""
        return hashlib.sha256(self.source).hexdigest()

    def module(self) -> ModuleType:
        """The module, run once a process. No ``.pyc`` is read or written, and the module path stays as it is.

        Raises:
            EncoderError: running it failed.
        """
        name = f"cbmir_file_{self.sha256[:16]}"
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, self.path)
        if spec is None:
            raise EncoderError(f"{self.path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickle look their module up
        try:
            exec(compile(self.source, str(self.path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102  the user's own
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise EncoderError(f"can't run {self.path}: {in_words(error)}") from error
        return module

    def function(self, name: str) -> Callable[..., Any]:
        """What the file has under a name.

        Raises:
            EncoderError: running it failed, or it has nothing of that name that can be called.
        """
        module = self.module()
        found = getattr(module, name, None)
        if callable(found):
            return found  # type: ignore[no-any-return]  # the user's
        own = (item for item, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__)
        there = ", ".join(sorted(item for item in own if not item.startswith("_"))) or "none"
        raise EncoderError(f"{self.path} has no function {name!r}; there are {there}")


def split_source(text: str) -> tuple[Path, str] | None:
    """The file and the name of ``FILE.py:FUNCTION``; None for a text of another form.

    Raises:
        EncoderError: a file without a function.
    """
    if text.endswith(".py") and Path(text).is_file():
        raise EncoderError(f"name the function of {text} that makes the encoder: {text}:FUNCTION")
    found = _FORM.fullmatch(text)
    return (Path(found[1]), found[2]) if found else None


def in_words(error: BaseException) -> str:
    """What code of the user's own raised, in one line with its place."""
    text = one_line(str(error))
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"
