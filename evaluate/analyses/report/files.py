"""A report on its way out: the page, and beside it charts and figures as files."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cbmir
from cbmir.errors import CbmirError
from cbmir.evaluate.analyses.report.cases import CaseRow
from cbmir.evaluate.analyses.report.embedding_map import MapRow
from cbmir.evaluate.analyses.report.findings import Measured
from cbmir.evaluate.analyses.report.page import render
from cbmir.evaluate.analyses.report.report import Report
from cbmir.evaluate.analyses.retrieval_report import RetrievalReport
from cbmir.evaluate.results import Asked, write_rows, write_whole

PAGE = "report.html"


def write_report(report: Report, out: Path) -> list[Path]:
    """Write the page, its charts as ``png/*.png`` and its figures as ``csv/*.csv``; other files of the folder stay.

    Returns:
        The files, the page first.

    Raises:
        CbmirError: a file can't be written.
    """
    files = [*_write_csv(report, out / "csv")]
    for drawing in report.drawings():
        files.append(out / "png" / f"{drawing.name}.png")
        write_whole(files[-1], drawing.png)
    page = render(report, sorted(path.relative_to(out).as_posix() for path in files))
    write_whole(out / PAGE, page.encode())
    return [out / PAGE, *files]


def _write_csv(report: Report, folder: Path) -> Iterator[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CbmirError(f"can't make the folder {folder}: {error.strerror}") from error
    if report.comparison:
        yield (path := folder / "comparison.csv")
        replace(report.comparison, asked=report.asked).write_csv(path)
    for finding in report.findings:
        terms = {"collection": finding.collection, "encoder": finding.card.name}
        terms |= {"fingerprint": finding.card.fingerprint, "version": cbmir.__version__}
        if finding.measured:
            yield from _write_figures(finding.measured, folder, finding.collection, terms, report.asked)
        if finding.drawn:
            yield (path := folder / f"map_{finding.collection}.csv")
            write_rows(
                path,
                MapRow.of(finding.drawn),
                {**terms, "map": finding.drawn.method, "seed": finding.drawn.seed},
                report.asked,
            )


def _write_figures(
    measured: Measured, folder: Path, name: str, terms: dict[str, str], asked: Asked | None
) -> Iterator[Path]:
    retrieval, votes = measured.retrieval, measured.votes
    curve = RetrievalReport(retrieval.setting, retrieval.encoder, measured.curve)
    for kind, report in (("retrieval", retrieval), ("curve", curve), ("vote", votes)):
        yield (path := folder / f"{kind}_{name}.csv")
        replace(report, asked=asked).write_csv(path)
    if votes.confusion is not None:
        yield (path := folder / f"confusion_{name}.csv")
        votes.write_confusion(path)
    if rows := CaseRow.of(measured.cases):
        yield (path := folder / f"cases_{name}.csv")
        setting = retrieval.setting
        there = {"queries": setting.queries.filter, "gallery": setting.gallery.filter, **setting.header.columns()}
        write_rows(path, rows, {**terms, **there}, asked)
