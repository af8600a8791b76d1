"""What an experiment file asks for: a table for each analysis, its keys the options of the command.

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

import json
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbmir.errors import CbmirError, ProtocolError
from cbmir.evaluate.analysis import Analysis
from cbmir.evaluate.configuration import Configuration
from cbmir.evaluate.options import Narrowed
from cbmir.evaluate.registry import ANALYSES
from cbmir.filters import SHORT
from cbmir.textfile import NOT_READ, read_text

SHARED = "all"
_HEAD = ("store", "out", "collections")


@dataclass(frozen=True, slots=True)
class Step:
    """One analysis.

    Attributes:
        name: Of its results.
        analysis: What does it.
        configuration: What it is asked for. Files that it writes are named relative to the folder of its result.
    """

    name: str
    analysis: Analysis[Any]
    configuration: Configuration

    @property
    def together(self) -> bool:
        """Whether it takes all collections at once instead of one after the other."""
        return self.analysis.takes != "one"

    def written(self, folder: Path) -> dict[str, Path]:
        """The files that it writes besides its result, by field.

        Args:
            folder: Of its result.
        """
        return {field: folder / path for field, path in self.configuration.files("written")}


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


def read_plan(path: Path) -> Plan:
    """Read an experiment file; every option is checked before anything is measured.

    Raises:
        ProtocolError: the file can't be read, or names something that doesn't exist.
    """
    try:
        data = tomllib.loads(read_text(path))
    except NOT_READ as error:
        raise ProtocolError(f"can't read the experiment {path}: {error}") from error
    known = (*_HEAD, SHARED, *ANALYSES)
    if strange := [key for key in data if key not in known]:
        raise ProtocolError(f"{path} has {strange[0]!r}; there are {', '.join(known)}")
    store, out, names = (data.get(key) for key in _HEAD)
    for key, value, kind in (("store", store, str), ("out", out, str), ("collections", names, list)):
        if value is not None and not isinstance(value, kind):
            raise ProtocolError(f"{path}: {key} is {value!r}, not a {'text' if kind is str else 'list'}")
    steps = tuple(steps_of(path, data))
    if isinstance(store, str) and "://" not in store:
        store = str(path.parent / store)
    return Plan(path, store, path.parent / out if out else None, tuple(map(str, names or ())), steps)


def steps_of(path: Path, data: Mapping[str, Any]) -> Iterator[Step]:
    """The analyses of an experiment.

    Args:
        path: Its file: paths of what is read are relative to it.
        data: By name of an analysis, a table of its options or a list of such tables; `SHARED` for all of them.

    Raises:
        ProtocolError: there is none, two have one name, or an option doesn't exist or doesn't take its value.
    """
    shared = _spelled(_checked(path, SHARED, data.get(SHARED, {})))
    asked = [(ANALYSES[kind], table) for kind in ANALYSES for table in _tables(path, kind, data.get(kind))]
    if not asked:
        raise ProtocolError(f"{path} asks for nothing; there are {', '.join(ANALYSES)}")
    unused = set(shared)
    names: set[str] = set()
    for analysis, table in asked:
        own = _spelled({key: value for key, value in table.items() if key != "name"})
        known = _known(analysis)
        common = {key: value for key, value in shared.items() if key in known and key not in own}
        unused -= set(common) | set(own)
        name = str(table.get("name", analysis.name))
        if name in names or not name.replace("-", "").replace("_", "").isalnum():
            raise ProtocolError(
                f"{path}: [{analysis.name}] needs a name of its own, of letters, digits, - and _; it has {name!r}"
            )
        names.add(name)
        yield Step(name, analysis, _configured(path, analysis, {**common, **own}))
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


def _spelled(table: Mapping[str, Any]) -> dict[str, Any]:
    """Keys as they are typed on the command line: ``max_k`` is ``max-k`` there."""
    return {key.replace("_", "-"): value for key, value in table.items()}


def _known(analysis: Analysis[Any]) -> dict[str, str]:
    """The fields of an analysis by the keys of a file."""
    known = {spec.name: spec.field for spec in analysis.configuration.options()}
    if issubclass(analysis.configuration, Narrowed):
        known |= {"where": "where", **{name: name for name in SHORT}}
    return known


def _configured(path: Path, analysis: Analysis[Any], table: Mapping[str, Any]) -> Configuration:
    known = _known(analysis)
    read = {spec.name for spec in analysis.configuration.options() if spec.file == "read"}
    for key, value in table.items():
        if key not in known:
            raise ProtocolError(f"{path}: [{analysis.name}] has no option {key!r}; there are {', '.join(known)}")
        if isinstance(value, dict):
            raise ProtocolError(f"{path}: [{analysis.name}] {key} is a table, not a value")
    values = {known[key]: path.parent / str(value) if key in read else value for key, value in table.items()}
    try:
        configuration: Configuration = analysis.configuration(**values)
    except CbmirError as error:
        raise ProtocolError(f"{path}: [{analysis.name}] {error}") from error
    return configuration


_MAX_K = 100_000
_NEEDED = ("experiments_dir", "h5_paths", "csv_paths")


def read_reference(path: Path) -> Plan:
    """Read a ``config.json``: the paper's figures of one collection, named like the folder of the experiment.

    Queries are the test images, the gallery the training images; nothing but the query is excluded. The validation
    images choose k and stop the probe; their neighbours are in ``knn.csv`` too, but no figure counts them.
    Their index and tables aren't needed: the collection holds what ``h5_paths`` and ``csv_paths`` do. Keys about how
    their programs run (``index_path``, ``num_workers``, ``device``, ...) have no part here.

    Args:
        path: The file.

    Raises:
        ProtocolError: it can't be read, or isn't theirs.
    """
    try:
        config = json.loads(read_text(path))
        missing = [key for key in _NEEDED if key not in config]
    except NOT_READ as error:
        raise ProtocolError(f"can't read the experiment {path}: {error}") from error
    if missing:
        raise ProtocolError(f"{path} is no config.json of the paper's programs: it has no {missing[0]}")
    name = Path(str(config["experiments_dir"])).name
    needs = ["cbmir", "ingest", "embeddings", *map(str, config["h5_paths"])]
    for table in config["csv_paths"]:
        needs += ["--table", str(table)]
    needs += ["--encoder", name, "--store", "STORE"]
    steps = tuple(steps_of(path, _sections(path, config)))
    return Plan(path, None, None, (name,), steps, shlex.join(needs))


def _sections(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    depth = config.get("k", 100)
    if not isinstance(depth, int) or depth > _MAX_K:
        raise ProtocolError(f"{path}: k is {depth!r}, not a number up to {_MAX_K:,}")
    columns = config.get("label_columns", [])
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise ProtocolError(f"{path}: label_columns is {columns!r}, not a list of names")
    probe = {"epochs": "epochs", "patience": "patience", "lr": "learning_rate", "batch_size": "batch_size"}
    return {
        "all": {"queries": ["split=test"], "gallery": ["split=train"], "include_same_patient": True},
        "retrieval": {
            "measure": ["precision_capped"],
            "k": list(range(1, depth + 1)),
            "search": "exact",
            "export": "knn.csv",
            "export_queries": ["split=test|val"],
        },
        "classify": {"max_k": depth, "protocol": "paper", "label_columns": columns},
        "probe": {
            "protocol": "paper",
            **{ours: config[theirs] for theirs, ours in probe.items() if theirs in config},
        },
    }
