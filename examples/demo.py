"""``python -m examples.demo``: the main job on real images: assemble, ingest, search with filters, evaluate, compare.

Every step calls the commands a user would type, and prints them.
"""

import csv
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

ENCODERS = ("pixels", "efficientnet-lite0-untrained", "efficientnet-lite0")
_BEST = ENCODERS[-1]


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("data/demo"), show_default=True)
def demo(out: Path) -> None:
    """Assemble the sample set, ingest it with three encoders, search, evaluate and compare."""
    samples, store = out / "samples", out / "store"
    table = samples / "table.csv"
    _run("-m", "examples.samples", "--out", str(samples))
    for encoder in ENCODERS:
        _cbmir("ingest", "images", str(table), "--encoder", encoder, "--store", str(store))
    _cbmir("collections", "list", "--store", str(store))
    for modality, query in _queries(table).items():
        sheet = out / f"similar-{modality}.png"
        _cbmir(
            *("search", "image", str(samples / query), "--store", str(store), "--collection", _BEST, "-k", "6"),
            *("--modality", modality, "--exclude-same-patient", "--sheet", str(sheet), "--root", str(samples)),
        )
    results = {encoder: _evaluate(store, encoder, out) for encoder in ENCODERS}
    click.echo(_comparison(results))


def _queries(table: Path) -> dict[str, str]:
    """A query image of each modality: one of the test split, or the first there is."""
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows.sort(key=lambda row: (row["split"] != "test", row["filepath"]))
    return {row["modality"]: row["filepath"] for row in reversed(rows)}


def _evaluate(store: Path, encoder: str, out: Path) -> dict[str, Any]:
    command = ("evaluate", "retrieval", "--store", str(store), "--collection", encoder)
    text = _cbmir(*command, "--out", str(out / f"retrieval-{encoder}.csv"), "--json", quiet=True)
    result: dict[str, Any] = json.loads(text)
    return result


def _comparison(results: dict[str, dict[str, Any]]) -> str:
    protocol = results[_BEST]["protocol"]
    lines = [
        "",
        f"Retrieval by {protocol['relevance']}: {protocol['queries']['count']:,} queries ({protocol['queries']['where']}) "
        f"against {protocol['gallery']['count']:,} images ({protocol['gallery']['where']}), exact, same source left out",
        f"{'encoder':32} {'fingerprint':16}  micro P@1  P@5  P@10   macro P@1",
    ]
    for encoder, result in results.items():
        value = {
            (row["average"], row["k"]): row["value"]
            for row in result["rows"]
            if (row["measure"], row["group"], row["search"]) == ("precision", "all", "exact")
        }
        lines.append(
            f"{encoder:32} {result['encoder']['fingerprint']:16}  {value['micro', 1]:9.3f} {value['micro', 5]:5.3f} "
            f"{value['micro', 10]:5.3f} {value['macro', 1]:11.3f}"
        )
    return "\n".join(lines)


def _cbmir(*arguments: str, quiet: bool = False) -> str:
    return _run("-m", "cbmir", *arguments, quiet=quiet)


def _run(*arguments: str, quiet: bool = False) -> str:
    """Run a command, show it and what it prints; a failure ends the demo with its exit code."""
    shown = arguments[1:] if arguments[1] == "cbmir" else ("python", *arguments)
    click.echo(f"\n$ {shlex.join(shown)}", err=True)
    done = subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if not quiet:
        click.echo(done.stdout, nl=False)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


if __name__ == "__main__":
    demo()
