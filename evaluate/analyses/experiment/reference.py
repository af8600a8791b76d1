"""The ``config.json`` of the paper's programs as an experiment.

https://github.com/MIC-DKFZ/foundation-models-for-cbmir: their script writes one a network, with the files of its
embeddings, the tables of the data sets, k, and the settings of the linear probe.
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.experiment.plan import Plan, steps_of
from cbmir.textfile import NOT_READ, read_text

_MAX_K = 100_000
_NEEDED = ("experiments_dir", "h5_paths", "csv_paths")


def read_reference(path: Path) -> Plan:
    """Read a ``config.json``: the paper's figures of one collection, named like the folder of the experiment.

    Queries are the validation and test images, the gallery the training images; nothing but the query is excluded.
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
    probe = {"epochs": "epochs", "patience": "patience", "lr": "learning_rate", "batch_size": "batch_size"}
    return {
        "all": {"queries": ["split=test|val"], "gallery": ["split=train"], "include_same_patient": True},
        "retrieval": {
            "measure": ["precision_capped"],
            "k": list(range(1, depth + 1)),
            "search": "exact",
            "export": "knn.csv",
        },
        "classify": {"queries": ["split=test"], "max_k": depth, "protocol": "paper"},
        "probe": {
            "queries": ["split=test"],
            **{ours: config[theirs] for theirs, ours in probe.items() if theirs in config},
        },
    }
