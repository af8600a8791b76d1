"""What an experiment file asks for: a table a command of ``cbmir evaluate``, its keys the command's options.

store = "data/store"            # or --store
out = "results"                 # or --out; relative to this file, like all paths in it
collections = ["a", "b"]        # all of the store, unless given

[all]                           # for every analysis that knows the option
queries = ["split=test|val"]

[retrieval]
measure = ["precision", "map"]
k = [1, 5, 10]

[[classify]]                    # several of one kind have names
name = "vote"
[[classify]]
name = "weighted"
vote = "softmax"

[compare]
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cbmir.errors import ProtocolError
from cbmir.textfile import NOT_READ, read_text

SHARED = "all"
_HEAD = ("store", "out", "collections")
_OURS = {"store": "location", "collection": "name", "out": "out", "json": "as_json"}
"""Options that a run sets itself, and the parameters they are passed as."""


@dataclass(frozen=True, slots=True)
class Step:
    """One analysis.

    Attributes:
        name: Of its results.
        command: What does it.
        arguments: Its options as they would be typed, without store, collection, ``--out`` and ``--json``.
        read: Places among these of the names of files that it reads.
        written: Places of those that it writes.
    """

    name: str
    command: click.Command
    arguments: tuple[str, ...]
    read: tuple[int, ...] = ()
    written: tuple[int, ...] = ()

    @property
    def together(self) -> bool:
        """Whether it takes all collections at once instead of one after the other."""
        return any(isinstance(item, click.Argument) for item in self.command.params)

    def typed(self, folder: Path) -> list[str]:
        """Its options, with the files that it writes in a folder."""
        return [str(folder / word) if place in self.written else word for place, word in enumerate(self.arguments)]


@dataclass(frozen=True, slots=True)
class Plan:
    """An experiment.

    Attributes:
        path: Its file.
        store: Where the collections are; None to be told.
        out: Folder of the results; None to be told.
        collections: Names; empty for all of the store.
        steps: The analyses, in the order of the file.
        needs: What to do first where a collection is missing, for people; empty without a hint.
    """

    path: Path
    store: str | None
    out: Path | None
    collections: tuple[str, ...]
    steps: tuple[Step, ...]
    needs: str = ""


def read_plan(path: Path, commands: Mapping[str, click.Command]) -> Plan:
    """Read an experiment file; every option is checked before anything is measured.

    Args:
        path: TOML.
        commands: What can be asked for, by name.

    Raises:
        ProtocolError: the file can't be read, or names something that doesn't exist.
    """
    try:
        data = tomllib.loads(read_text(path))
    except NOT_READ as error:
        raise ProtocolError(f"can't read the experiment {path}: {error}") from error
    known = (*_HEAD, SHARED, *commands)
    if strange := [key for key in data if key not in known]:
        raise ProtocolError(f"{path} has {strange[0]!r}; there are {', '.join(known)}")
    store, out, names = (data.get(key) for key in _HEAD)
    for key, value, kind in (("store", store, str), ("out", out, str), ("collections", names, list)):
        if value is not None and not isinstance(value, kind):
            raise ProtocolError(f"{path}: {key} is {value!r}, not a {'text' if kind is str else 'list'}")
    steps = tuple(steps_of(path, data, commands))
    if isinstance(store, str) and "://" not in store:
        store = str(path.parent / store)
    return Plan(path, store, path.parent / out if out else None, tuple(map(str, names or ())), steps)


def steps_of(path: Path, data: Mapping[str, Any], commands: Mapping[str, click.Command]) -> Iterator[Step]:
    """The analyses of an experiment.

    Args:
        path: Its file: paths of what is read are relative to it.
        data: By name of a command, a table of its options or a list of such tables; `SHARED` for all of them.
        commands: By name.

    Raises:
        ProtocolError: there is none, two have one name, or an option doesn't exist or doesn't take its value.
    """
    shared = data.get(SHARED, {})
    asked = [(kind, table) for kind in commands for table in _tables(path, kind, data.get(kind))]
    if not asked:
        raise ProtocolError(f"{path} asks for nothing; there are {', '.join(commands)}")
    unused = set(_checked(path, SHARED, shared))
    names: set[str] = set()
    for kind, table in asked:
        command = commands[kind]
        own = {key: value for key, value in table.items() if key != "name"}
        common = {key: value for key, value in shared.items() if _option(command, key) and key not in own}
        unused -= set(common) | set(own)
        name = str(table.get("name", kind))
        if name in names or not name.replace("-", "").replace("_", "").isalnum():
            raise ProtocolError(
                f"{path}: [{kind}] needs a name of its own, of letters, digits, - and _; it has {name!r}"
            )
        names.add(name)
        yield _step(path, name, command, {**common, **own})
    if unused:
        raise ProtocolError(
            f"{path}: no analysis of the file has an option {sorted(unused)[0]!r}, which [{SHARED}] sets"
        )


def _tables(path: Path, kind: str, asked: Any) -> list[Mapping[str, Any]]:
    tables = asked if isinstance(asked, list) else [] if asked is None else [asked]
    return [_checked(path, kind, table) for table in tables]


def _checked(path: Path, kind: str, table: Any) -> Mapping[str, Any]:
    if not isinstance(table, dict):
        raise ProtocolError(f"{path}: {kind} is {table!r}, not a table of options")
    return table


def _option(command: click.Command, key: str) -> click.Option | None:
    """The option that a key stands for."""
    spelled = f"-{key}" if len(key) == 1 else f"--{key.replace('_', '-')}"
    return next((item for item in command.params if isinstance(item, click.Option) and spelled in item.opts), None)


def _step(path: Path, name: str, command: click.Command, table: Mapping[str, Any]) -> Step:
    """A step whose options are checked as the command itself does."""
    kind = command.name or name
    arguments: list[str] = []
    read: list[int] = []
    written: list[int] = []
    for key, value in table.items():
        option = _option(command, key)
        if option is None or option.name in _OURS.values():
            there = (item.opts[-1].lstrip("-") for item in command.params if isinstance(item, click.Option))
            raise ProtocolError(
                f"{path}: [{kind}] has no option {key!r}; there are {', '.join(i for i in there if i not in _OURS)}"
            )
        words = list(_words(path, option, value))
        if isinstance(option.type, click.Path):
            places = read if option.type.exists else written
            places += range(len(arguments) + 1, len(arguments) + len(words), 2)
        arguments += words
    try:
        command.make_context(kind, [*arguments, "--store", "unused", *_filler(command)])
    except click.ClickException as error:
        raise ProtocolError(f"{path}: [{kind}] {error.format_message()}") from error
    return Step(name, command, tuple(arguments), tuple(read), tuple(written))


def _filler(command: click.Command) -> Iterable[str]:
    """What a command needs to be checked and a run gives it later."""
    for item in command.params:
        if isinstance(item, click.Argument):
            yield "unused"
        elif item.required and item.name == "out":
            yield from ("--out", "unused")


def _words(path: Path, option: click.Option, value: Any) -> Iterator[str]:
    if option.is_flag:
        if not isinstance(value, bool):
            raise ProtocolError(f"{path}: {option.opts[-1].lstrip('-')} is true or false, not {value!r}")
        if value:
            yield option.opts[-1]
        return
    for item in value if isinstance(value, list) else [value]:
        yield option.opts[-1]
        read = isinstance(option.type, click.Path) and option.type.exists
        yield str(path.parent / str(item)) if read else str(item)
