"""The page: texts and tables of a report through one template, in which everything that comes from data is escaped."""

import math
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from cbmir.encoders.contamination import contamination
from cbmir.evaluate.analyses.classification.assessment import ACCURACY, EXACT_MATCH
from cbmir.evaluate.analyses.classification.report import validation
from cbmir.evaluate.analyses.report.cases import HITS
from cbmir.evaluate.analyses.report.figures import LEVEL, SYMBOLS, over, shown, wording_of_exclusion
from cbmir.evaluate.analyses.report.report import Report
from cbmir.evaluate.analyses.report.terms import CURVE_K
from cbmir.evaluate.analyses.retrieval_report import RetrievalReport
from cbmir.evaluate.header import NO_LABEL, PatientCounts
from cbmir.evaluate.intervals import FEW
from cbmir.evaluate.protocol import NAMED, wording
from cbmir.evaluate.setting import METHOD_WORDS, Setting, Side
from cbmir.units import counted

_RULES = {
    "any": "Images are right answers to each other if they share a value of {}.",
    "exact": "Images are right answers to each other if they have the same values of {}.",
    "jaccard": "Images are right answers to each other if they share half or more of the values of {} (Jaccard).",
}
_UNLABELLED = {
    "exclude": "images without {} are no queries, and never a right answer",
    "include": f"images without {{}} are the class '{NO_LABEL}', right answers to each other only",
}
_SWAPPED = {
    PatientCounts(1, 0).over: "all queries of a patient are swapped together",
    PatientCounts(0, 1).over: "each query is swapped on its own, as none has a patient id",
    PatientCounts(1, 1).over: "all queries of a patient are swapped together, and one without a patient id on its own",
}
_NONE = "–"


def render(report: Report, names: Sequence[str]) -> str:
    """The page as HTML, with charts and pictures inside.

    Args:
        report: What it shows.
        names: Of the files that lie beside it, relative to it.
    """
    folder = files("cbmir.evaluate.analyses.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "figure": _figure,
        "interval": _interval,
        "signed": _signed,
        "chance": _chance,
        "count": "{:,}".format,
        "heading": _heading,
        "zip": zip,
        "particulars": _particulars,
        "within": lambda retrieval: shown(retrieval.rows, report.terms),
        "without": lambda retrieval: shown(retrieval.together, report.terms),
        "validation": validation,
        "squeeze": lambda text: " ".join(text.split()),
    }
    template = environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        report=report,
        css=Markup((folder / "page.css").read_text(encoding="utf-8")),  # noqa: S704  it comes with this package
        measured=[row for row in report.standings if row.cells],
        protocol=list(_protocol(report)),
        sureness=_sureness(report),
        best=_best(report),
        comparison=_comparison(report),
        exclusion=wording_of_exclusion(report.terms.protocol.exclude),
        rule=_rule(report),
        contamination=list(_contamination(report)),
        files=names,
    )


def _protocol(report: Report) -> Iterator[tuple[str, str]]:
    protocol = report.terms.protocol
    yield "queries", wording(protocol.queries)
    yield "gallery", wording(protocol.gallery)
    yield "label", protocol.label
    yield "unlabelled", _UNLABELLED[protocol.unlabelled].format(protocol.label)
    yield "relevance", _RULES[protocol.relevance].format(protocol.label)
    yield "never found", wording_of_exclusion(protocol.exclude)
    yield "search", "a scan of all vectors by cosine; equal ones by id"
    k = ", ".join(map(str, report.terms.cutoffs))
    zero = "0 in precision" if report.terms.measure == "precision" else "left out of precision"
    yield (
        "measures",
        f"{report.terms.measure} at k = {k}; mAP, mean average precision over min(k, R) for R right answers",
    )
    yield "no right answer", f"a query without one in the gallery is {zero} and left out of mAP"
    yield (
        "micro, macro",
        f"the mean over queries; the mean over classes of the class means (a query counts in each value of "
        f"{protocol.label} that it has)",
    )
    yield "intervals", f"95%, {_sureness(report)}"
    place = report.terms.root or "the folders that ingest read"
    yield "pictures", f"{report.pictures:,} shown, {report.missing:,} that could not be read, below {place}"


def _particulars(setting: Setting, retrieval: RetrievalReport) -> Iterator[tuple[str, str]]:
    """What a collection met on these terms."""
    barred = setting.exclusion
    yield "queries", _side(setting.queries)
    yield "gallery", _side(setting.gallery)
    yield from setting.header.pairs(everything=True)
    yield (
        "excluded",
        (
            f"{counted(barred.images_excluded, 'gallery image')} for {counted(barred.queries_affected, 'query')}; "
            f"{counted(barred.queries_without_patient, 'query')} without patient_id, "
            "whose patient's images can't be told"
        ),
    )
    for warning in (setting.warning, setting.intervals.warning):
        if warning:
            yield "warning", warning
    coverage = next(row.coverage for row in retrieval.rows if row.group == "all")
    yield "coverage", f"{coverage:.1%} of the queries have a right answer in the gallery"
    missing = setting.classes_without_gallery
    text = f"{setting.classes:,} among the queries"
    if missing:
        text += f"; {len(missing):,} of them without a gallery image that a query may find: {_few(missing)}"
    yield "classes", text


def _side(side: Side) -> str:
    datasets = ", ".join(f"{name} {count:,}" for name, count in list(side.datasets.items())[:NAMED])
    more = f" and {counted(len(side.datasets) - NAMED, 'more data set')}" if len(side.datasets) > NAMED else ""
    return f"{counted(side.images, 'image')} ({datasets}{more})"


def _sureness(report: Report) -> str:
    protocol = report.terms.protocol
    if not protocol.draws:
        return "none were asked for (0 draws)"
    drawn = sorted((item.retrieval.setting.intervals for item in report.measured), key=lambda item: item.clusters)
    how = METHOD_WORDS[protocol.interval]
    text = f"bootstrap over {over(report.measured)} ({how}), {counted(protocol.draws, 'draw')}, seed {protocol.seed}"
    if drawn:
        text += f", {' to '.join(dict.fromkeys((drawn[0].units, drawn[-1].units)))}"
        text += f" (fewer than {FEW}: don't rely on them)" if drawn[0].clusters < FEW else ""
    return f"{text}; gallery, encoder and k are held fixed"


def _best(report: Report) -> str:
    if report.comparison is None:
        return "No figure is marked as best, as there is no comparison."
    return (
        "▲ marks a figure that is better than that of every other collection, each by the paired test below with "
        f"p (Holm) < {LEVEL}."
    )


def _comparison(report: Report) -> str:
    made = report.comparison
    if made is None:
        return ""
    drawn = made.setting.intervals
    how = (
        f"{counted(drawn.draws, 'draw')}, seed {drawn.seed}; p-values corrected by Holm for "
        f"{counted(made.tests, 'test')}"
        + (f", which takes {made.draws_needed:,} draws to reach {LEVEL}" if made.draws_needed else "")
        if drawn.draws
        else "no test was asked for (0 draws)"
    )
    return (
        f"{counted(made.queries, 'query')} that all collections have: {made.shared.words}. "
        f"Paired randomisation test in which {_SWAPPED[made.shared.over]}: {how}."
    )


def _rule(report: Report) -> str:
    people = over(report.measured)
    once = {"patients": "one query a patient, ", "images": ""}.get(people, "one query a patient whose id is known, ")
    return (
        f"The {report.terms.pictures} highest and the {report.terms.pictures} lowest average precisions at {CURVE_K}, "
        f"of queries with a right answer in the gallery; equal ones by id, {once}none in both lists. "
        f"Beside each its first {HITS} hits."
    )


def _contamination(report: Report) -> Iterator[tuple[str, str]]:
    """Each encoder and the data sets of its queries and gallery."""
    for finding in report.findings:
        if finding.measured:
            setting = finding.measured.retrieval.setting
            datasets = {**setting.queries.datasets, **setting.gallery.datasets}
            found = contamination(finding.card, datasets)
            marks = ", ".join(f"{item.dataset} {item.verdict}" for item in found) or "no data set is named"
            reasons = "; ".join(dict.fromkeys(item.reason for item in found))
            yield finding.collection, f"{marks} ({reasons})" if reasons else marks
        else:
            yield finding.collection, "not measured"


def _heading(row: Any) -> str:
    """A figure's name over a column."""
    if row.measure in (ACCURACY, EXACT_MATCH):
        return SYMBOLS[row.measure]
    return f"{SYMBOLS[row.measure]}@{row.k} {row.average}"


def _figure(value: float) -> str:
    return _NONE if math.isnan(value) else f"{value:.3f}"


def _signed(value: float) -> str:
    return _NONE if math.isnan(value) else f"{value:+.3f}"


def _chance(value: float) -> str:
    return _NONE if math.isnan(value) else f"{value:.4f}"


def _interval(row: Any) -> str:
    return "no interval" if math.isnan(row.low) else f"{row.low:.3f} to {row.high:.3f}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
