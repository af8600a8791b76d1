"""``python -m examples.demo``: the main job on real images: assemble, ingest, search with filters, evaluate, report.

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

from cbmir.units import counted

ENCODERS = ("pixels", "efficientnet-lite0-untrained", "efficientnet-lite0")
_BEST = ENCODERS[-1]
PROTOCOLS = {
    "test-against-train": (),
    "all-against-all": ("--queries", "all", "--gallery", "all"),
}
"""The default protocol, and every image against all images of other sources."""


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("data/demo"), show_default=True)
def demo(out: Path) -> None:
    """Assemble the sample set, ingest it with three encoders, search, evaluate, compare and write a report."""
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
            *("--modality", modality, "--sheet", str(sheet)),
        )
    for title, protocol in PROTOCOLS.items():
        results = [_evaluate(store, encoder, protocol, out / f"{title}-{encoder}.csv") for encoder in ENCODERS]
        click.echo(_comparison(results))
    everything = PROTOCOLS["all-against-all"]
    report = ("--out", str(out / "report"))
    _cbmir("evaluate", "report", *ENCODERS, "--store", str(store), *everything, *report)


def _queries(table: Path) -> dict[str, str]:
    """A query image of each modality: the middle one of its test split, or of all where it has none."""
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    queries = {}
    for modality in sorted({row["modality"] for row in rows}):
        mine = [row for row in rows if row["modality"] == modality]
        tested = [row for row in mine if row["split"] == "test"] or mine
        queries[modality] = tested[len(tested) // 2]["filepath"]
    return queries


def _evaluate(store: Path, encoder: str, protocol: tuple[str, ...], rows: Path) -> dict[str, Any]:
    command = ("evaluate", "retrieval", "--store", str(store), "--collection", encoder, *protocol)
    result: dict[str, Any] = json.loads(_cbmir(*command, "--out", str(rows), "--json", quiet=True))
    return result


def _comparison(results: list[dict[str, Any]]) -> str:
    protocol = results[0]["protocol"]
    queries, gallery = protocol["queries"], protocol["gallery"]
    lines = [
        f"\nprecision at k by {protocol['label']} (modality x anatomy), exact search, same source left out",
        f"{counted(queries['images'], 'query')} ({queries['filter']}) "
        f"against {gallery['images']:,} ({gallery['filter']})",
        f"{'encoder':30} {'fingerprint':16}   P@1   P@5  P@10  macro P@1",
    ]
    for result in results:
        value = {
            (row["average"], row["k"]): row["value"]
            for row in result["rows"]
            if (row["measure"], row["group"], row["search"]) == ("precision", "all", "exact")
        }
        micro = "".join(f"{value['micro', k]:6.3f}" for k in (1, 5, 10))
        encoder = result["encoder"]
        lines.append(f"{encoder['name']:30} {encoder['fingerprint']:16}{micro}     {value['macro', 1]:6.3f}")
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
