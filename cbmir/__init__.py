"""Find similar medical images.

For example:

    import cbmir

    encoder = cbmir.load_encoder("biomedclip")
    store = cbmir.connect("data/store")
    store.ingest("images/", encoder=encoder)
    hits = store["biomedclip"].search("query.png", where="modality=CT and age_years<60", k=5)
    cbmir.evaluate.retrieval(store["biomedclip"], queries="split=test", k=[1, 5])
"""

import os

__version__ = "0.1.0"

os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
"""NumPy's idle threads sleep at once; else they spin for .1 s of CPU when it is imported, a fifth of a search."""

TYPE_CHECKING = False  # `typing` would be imported before the module path is safe
if TYPE_CHECKING:
    from cbmir import errors, evaluate
    from cbmir.api import connect, load_encoder

__all__ = ["connect", "errors", "evaluate", "load_encoder"]


def __getattr__(name: str) -> object:
    """Import a name of the package when it is asked for: nothing heavy is loaded before it is needed."""
    import importlib

    if name in ("connect", "load_encoder"):
        return getattr(importlib.import_module("cbmir.api"), name)
    if name in ("errors", "evaluate"):
        return importlib.import_module(f"cbmir.{name}")
    raise AttributeError(f"module 'cbmir' has no attribute {name!r}; there are {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
