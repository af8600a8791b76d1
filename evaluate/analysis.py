"""The analyses: each is a name, a configuration, and a function from collections to a result.

The command line, experiment files and the Python API all go through `ANALYSES`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from cbmir.evaluate.configuration import Configuration
from cbmir.evaluate.results import Result
from cbmir.store import Collection, Store

C = TypeVar("C", bound=Configuration)

Takes = Literal["one", "several", "store"]
"""What an analysis is of: one open collection, two or more, or a store and names of its collections."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Collections of a store by name, opened one after the other.

    Attributes:
        store: Holds them.
        names: Of the collections; none for all of the store, where an analysis can do that.
    """

    store: Store
    names: tuple[str, ...]

    def __iter__(self) -> Iterator[Collection]:
        """Each collection, open until the next is asked for."""
        for name in self.names:
            with self.store.open(name) as collection:
                yield collection


@dataclass(frozen=True, slots=True)
class Analysis(Generic[C]):
    """One analysis.

    Attributes:
        name: As it is asked for.
        configuration: What can be asked.
        takes: What it is of.
        function: Does it.
        folder: Whether its result is written into a folder instead of one CSV file.
        decodes: Whether it decodes images, so that their limits are options of its command.
    """

    name: str
    configuration: type[C]
    takes: Takes
    function: Callable[[Any, Any], Result]
    folder: bool = False
    decodes: bool = False

    def run(self, collections: "Collection | Iterable[Collection] | Chosen", configuration: C) -> Result:
        """Do it.

        Args:
            collections: One open collection; or several; or, where it takes a store, the chosen ones of it.
            configuration: What is asked.

        Returns:
            The result, which holds the configuration.

        Raises:
            ProtocolError: it can't be done as asked.
            FilterError: a filter names what doesn't exist.
            CbmirError: a file can't be written.
        """
        return self.function(collections, configuration).of(self.name, configuration)


F = TypeVar("F", bound=Callable[[Any, Any], Result])
ANALYSES: dict[str, Analysis[Any]] = {}
"""Those that were made by `analysis` so far; `cbmir.evaluate.registry` has all of ours."""


def analysis(
    name: str, configuration: type[Configuration], takes: Takes = "one", *, folder: bool = False, decodes: bool = False
) -> Callable[[F], F]:
    """Make a function an analysis: ``@analysis("name", Configuration)``. Its docstring is the help of the command.

    Args:
        name: As it is asked for.
        configuration: What can be asked.
        takes: See `Takes`.
        folder: See `Analysis`.
        decodes: See `Analysis`.
    """

    def add(function: F) -> F:
        ANALYSES[name] = Analysis(name, configuration, takes, function, folder, decodes)
        return function

    return add
