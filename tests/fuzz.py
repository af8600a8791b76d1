"""Feed damaged files to what reads them: ``python tests/fuzz.py KIND,KIND INPUTS COMMANDS SEED FOLDER``.

Prints JSON, a line a kind: how many were read or refused, what was neither, the slowest, and the memory.
`tests/test_fuzz.py` runs it.
"""

import contextlib
import faulthandler
import io
import json
import os
import random
import resource
import shutil
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import fuzz_kinds
from fuzz_kinds import KINDS, Kind, good_neighbours

from cbmir.__main__ import main
from cbmir.errors import CbmirError

HANG_S = 120


def fuzz(name: str, inputs: int, commands: int, seed: int, folder: Path) -> dict[str, object]:
    """All inputs of a kind.

    Args:
        name: Of the kind.
        inputs: For the entry function.
        commands: Inputs for the command.
        seed: Of the mutations.
        folder: For files; the input in hand is ``case.*`` there.
    """
    kind = KINDS[name]
    seeds = kind.seeds(folder)
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    slowest = (0.0, -1)
    path = folder / f"case{kind.suffix}"
    for data in seeds:  # good ones are read, and take their memory before it is measured
        path.write_bytes(data)
        if name != "archive":  # of which the engine refuses what was cut
            kind.read(path)
    before = _resident()
    for number in range(inputs):
        rng = random.Random(f"{name} {seed} {number}")
        path.write_bytes(kind.change(rng.choice(seeds), rng, seeds))
        (folder / "case").write_text(str(number))
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        started = time.process_time()
        try:
            kind.read(path)
            outcomes["read"] += 1
        except CbmirError as error:
            outcomes["refused"] += 1
            if "\n" in str(error) or not str(error):
                faults.append(f"{number}: not one line: {str(error)!r}")
        except BaseException:
            outcomes["traceback"] += 1
            faults.append(f"{number}: {traceback.format_exc()}")
        slowest = max(slowest, (time.process_time() - started, number))
    faulthandler.cancel_dump_traceback_later()
    grown = _resident() - before
    ran = _in_folder(kind, commands, seed, folder) if kind.in_folder else _one_each(name, kind, commands, seed, folder)
    return {
        "kind": name, "seed": seed, "outcomes": outcomes, "commands": ran, "faults": faults,
        "slowest_s": round(slowest[0], 3), "slowest": slowest[1], "grown_mb": grown // 1000,
    }  # fmt: skip


def _one_each(name: str, kind: Kind, commands: int, seed: int, folder: Path) -> dict[str, int]:
    """The command once for each input, in this process; its exit codes, and whatever else it ended with."""
    seeds, ends = kind.seeds(folder), Counter[str]()
    table = folder / "table.csv"
    table.write_text("filepath,dataset\n" + "".join(f"a/{number}.png,made\n" for number in range(12)))
    with fuzz_kinds._store(folder):
        pass
    for number in range(commands):
        rng = random.Random(f"{name} command {seed} {number}")
        path = folder / f"command{kind.suffix}"
        path.write_bytes(kind.change(rng.choice(seeds[:2] if name == "manifest" else seeds), rng, seeds))
        places = {"FILE": path, "STORE": folder / "store", "NEW": folder / "new", "TABLE": table, "OUT": folder / "out"}
        places |= {"EXPORT": folder / "export", "BACKUP": folder / "made"}
        if name == "manifest":
            (folder / "export/collection.json").write_bytes(path.read_bytes())
        if name == "archive":
            with contextlib.suppress(CbmirError):
                kind.read(path)  # makes the folder of the backup
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        ends[_end_of([str(places.get(word, word)) for word in kind.words], folder)] += 1
        shutil.rmtree(folder / "new", ignore_errors=True)
    faulthandler.cancel_dump_traceback_later()
    return dict(ends)


def _in_folder(kind: Kind, commands: int, seed: int, folder: Path) -> dict[str, int]:
    """One ingest of a folder with all inputs and good neighbours, which must be stored."""
    seeds = kind.seeds(folder)
    images = folder / "images"
    images.mkdir()
    for number in range(commands):
        rng = random.Random(f"command {seed} {number}")
        (images / f"{number}{kind.suffix}").write_bytes(kind.change(rng.choice(seeds), rng, seeds))
    good = good_neighbours(images, kind)
    words = [str({"FILE": images, "STORE": folder / "new"}.get(word, word)) for word in kind.words]
    if kind.suffix == ".nii.gz":
        from test_encoders_astra import SMALL, small_weights

        from cbmir.encoders import astra

        astra.SPECS = (*astra.SPECS, SMALL)
        words[words.index("pixels")] = "astra-small"
        words += ["--weights", str(small_weights(folder / "weights.pt")), "--device", "cpu"]
    out = io.StringIO()
    end = _end_of([*words, "--json", "--workers", "1"], folder, out)
    report = json.loads(out.getvalue() or "{}")
    found = {"good": good, **{key: report.get(key, -1) for key in ("read", "stored", "failed", "skipped")}}
    found["good failed"] = sum(str(item.get("filepath")).startswith("good") for item in _failures(folder))
    return {end: 1, **found}


def _failures(folder: Path) -> list[dict[str, str]]:
    import csv

    (found,) = [*folder.glob("failures-*.csv")] or [None]
    if found is None:
        return []
    with found.open(newline="") as file:
        return list(csv.DictReader(file))


def _end_of(words: list[str], folder: Path, out: io.StringIO | None = None) -> str:
    """What a command ended with: its exit code, or the error that it didn't catch."""
    sys.argv = ["cbmir", *words]
    os.chdir(folder)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(out or io.StringIO()), contextlib.redirect_stderr(said):
            main()
    except SystemExit as end:
        return f"traceback {said.getvalue()[-3000:]}" if "Traceback" in said.getvalue() else f"exit {end.code}"
    except BaseException:
        return f"traceback {traceback.format_exc()}"
    return "no exit"


def _resident() -> int:
    """The most memory so far, in kB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    kinds_, inputs_, commands_, seed_, folder_ = sys.argv[1:]
    for kind_ in kinds_.split(","):
        place_ = Path(folder_).resolve() / kind_
        place_.mkdir()
        print(json.dumps(fuzz(kind_, int(inputs_), int(commands_), int(seed_), place_)), flush=True)
