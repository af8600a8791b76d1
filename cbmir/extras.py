"""Packages that not everybody needs, which an extra of cbmir installs."""

from importlib.util import find_spec

from cbmir.errors import CbmirError


def require(module: str, extra: str, doing: str) -> None:
    """Refuse work for which a package is missing, before any of it is done.

    Args:
        module: What would be imported.
        extra: Of cbmir, which installs it.
        doing: The work, in words.

    Raises:
        CbmirError: it isn't installed; the message has the command that installs it.
    """
    if not is_installed(module):
        raise CbmirError(f"{doing} needs {module}, which is not installed: {install(extra)}")


def is_installed(module: str) -> bool:
    """Whether a module can be imported."""
    return find_spec(module) is not None


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'cbmir[{extra}]'"
