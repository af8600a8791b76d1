"""The Python reference: a page for each package, with every name that the package exports."""

import importlib
from dataclasses import dataclass

FOLDER = "reference"


@dataclass(frozen=True)
class ReferencePage:
    """A page of the reference.

    Attributes:
        name: Of its file.
        title: What a reader looks for.
        package: Its names are those of `__all__`, or `names`.
        names: What to show of the package; empty for all that it exports.
        modules: Modules and classes that are shown whole after that.
    """

    name: str
    title: str
    package: str
    names: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        """Path of the page in the docs folder."""
        return f"{FOLDER}/{self.name}.md"

    @property
    def shown(self) -> tuple[str, ...]:
        """Full names of what the page describes, in alphabetical order."""
        names = self.names or getattr(importlib.import_module(self.package), "__all__", ())
        return tuple(f"{self.package}.{name}" for name in sorted(names, key=str.lower))


PAGES = (
    ReferencePage("cbmir", "cbmir", "cbmir.api", ("connect", "load_encoder", "Store", "Collection", "Encoder")),
    ReferencePage("search", "cbmir.search", "cbmir.search", modules=("cbmir.search.ranker",)),
    ReferencePage("evaluate", "cbmir.evaluate", "cbmir.evaluate", modules=("cbmir.evaluate.functions.Shared",)),
    ReferencePage("ingest", "cbmir.ingest", "cbmir.ingest"),
    ReferencePage("encoders", "cbmir.encoders", "cbmir.encoders"),
    ReferencePage("media", "cbmir.media", "cbmir.media"),
    ReferencePage("store", "cbmir.store", "cbmir.store", modules=("cbmir.schema",)),
    ReferencePage("errors", "cbmir.errors", "cbmir.errors", modules=("cbmir.errors",)),
)


def text_of(page: ReferencePage) -> str:
    """The page as Markdown with a `:::` block for each name, which mkdocstrings fills from the docstrings."""
    whole = [f"::: {module}\n    options:\n      heading_level: 2" for module in page.modules]
    if page.package in page.modules:
        return "\n\n".join([f"# {page.title}", *whole]) + "\n"
    options = ("members: false", "show_root_heading: false", "show_root_toc_entry: false")
    head = "\n      ".join([f"::: {page.package}\n    options:", *options])
    return "\n\n".join([f"# {page.title}", head, *(f"::: {name}" for name in page.shown), *whole]) + "\n"
