"""The options that several analyses have in common, as classes that their configurations derive from."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    Field,
    FilePath,
    model_validator,
)

from cbmir.evaluate.configuration import (
    Conditions,
    Configuration,
    Cutoffs,
    Exclusions,
    Measures,
    OneOf,
    Option,
    Search,
    Texts,
    as_listed,
    as_where,
)
from cbmir.evaluate.intervals import METHODS
from cbmir.evaluate.protocol import (
    GROUPS,
    LABELS,
    PATIENTS_BY,
    RULES,
    UNLABELLED,
    RetrievalProtocol,
    conditions,
)
from cbmir.evaluate.significance import DRAWS
from cbmir.filters import SHORT, any_of


class Narrowed(Configuration):
    """A configuration that takes the filter options ``--modality``, ``--region``, ... and ``--where``."""

    where: Conditions = ()

    @model_validator(mode="before")
    @classmethod
    def _short(cls, values: Any) -> Any:
        """``modality="CT"`` and the like as conditions."""
        if not isinstance(values, Mapping) or not any(name in values for name in SHORT):
            return values
        where = as_where(values.get("where", ()))
        for name, field in SHORT.items():
            where += any_of(field, map(str, as_listed(values.get(name, ()))))
        return {name: value for name, value in values.items() if name not in SHORT} | {"where": where}


class Judged(Narrowed):
    """What analyses by label have in common."""

    label: Annotated[
        str,
        OneOf("label field", lambda: LABELS),
        Option("Field whose values decide which images are relevant to each other."),
    ] = LABELS[0]
    unlabelled: Annotated[
        str,
        OneOf("way with images without a label", lambda: UNLABELLED),
        Option(
            "Images without a label. exclude: they are not used as queries and are never relevant. include: they form "
            "the class 'no label' and are relevant to each other only; use it where no label means no finding."
        ),
    ] = UNLABELLED[0]
    patients: Annotated[
        str,
        OneOf("scope of patient ids", lambda: PATIENTS_BY),
        Option(
            "Where a patient id means the same patient. dataset: within its data set, unless it is a keyed hash (32 "
            "hexadecimal digits), which means the same everywhere. global: in all data sets."
        ),
    ] = PATIENTS_BY[0]
    draws: Annotated[
        int,
        Field(ge=0, le=1_000_000),
        Option("Bootstrap resamples of patients (of images without a patient id) for the 95% intervals; 0 for none."),
    ] = DRAWS
    seed: Annotated[int, Field(ge=0), Option("Seed of everything random.")] = 0
    interval: Annotated[
        str,
        OneOf("kind of interval", lambda: METHODS),
        Option(
            "How resamples give an interval. expanded: percentiles, set further apart the fewer patients there are. "
            "percentile: the plain 2.5th and 97.5th. bca: percentiles corrected for bias and skewness. wilson: for "
            "means over queries of what is right or wrong, such as P@1 and accuracy, Wilson's; expanded for the others."
        ),
    ] = METHODS[0]
    device: Annotated[str, Option("Device of the exact search: auto, cpu, cuda, cuda:1.")] = "auto"


class Excluding(Judged):
    """What analyses have in common whose queries must not find their own patient."""

    exclude: Annotated[
        Exclusions,
        Option("A query never finds images of its own patient, study, series or data set. Repeatable."),
    ] = ("patient",)
    include_same_patient: Annotated[
        bool, Field(exclude=True), Option("Exclude nothing but the query itself: the same as an empty `exclude`.")
    ] = False

    @model_validator(mode="before")
    @classmethod
    def _included(cls, values: Any) -> Any:
        return (
            {**values, "exclude": ()}
            if isinstance(values, dict) and values.get("include_same_patient") is True
            else values
        )


_CONDITION = "Condition of the filter language, or 'all'. Repeatable: all must hold."


class Asking(Judged):
    """What analyses have in common that rank a gallery for queries."""

    queries: Annotated[
        Conditions,
        Option(
            f"Images used as queries. {_CONDITION} The published protocol uses 'split=test|val'.", metavar="CONDITION"
        ),
    ] = conditions(["split=test"])
    gallery: Annotated[Conditions, Option(f"Images that are searched. {_CONDITION}", metavar="CONDITION")] = conditions(
        ["split=train"]
    )
    relevance: Annotated[
        str,
        OneOf("rule of relevance", lambda: RULES),
        Option(
            "Two images are relevant to each other if they share any value of the label, have exactly the same values, "
            "or have a Jaccard index of one half or more."
        ),
    ] = RULES[0]

    @property
    def protocol(self) -> RetrievalProtocol:
        """The retrieval task that it asks for."""
        return RetrievalProtocol(**self._terms())

    def _terms(self) -> dict[str, Any]:
        """The arguments of the protocol that it has fields for."""
        there = {name: getattr(self, name) for name in self.__class__.model_fields}
        plain = (
            "label",
            "relevance",
            "unlabelled",
            "draws",
            "seed",
            "interval",
            "patients",
            "device",
            "exclude",
            "by",
            "relations",
            "measures",
            "k",
        )
        terms = {name: there[name] for name in plain if name in there}
        return terms | {"queries": self.queries + self.where, "gallery": self.gallery + self.where}


class Grouped(Asking):
    """The same, with results for groups of queries too."""

    by: Annotated[
        Texts,
        Option(
            f"Also give results for each value of this field: {', '.join(GROUPS)}, or an own column. Repeatable.",
            metavar="FIELD|COLUMN",
        ),
    ] = ("modality",)


Relations = Annotated[
    FilePath | None,
    Option(
        "Grades of pairs of labels for ndcg, instead of 1 for the modality, 2 for the region, 3 for the pathology.",
        metavar="FILE.yaml",
    ),
]


CutoffsOption = Annotated[Cutoffs, Option("Cutoff. Repeatable.", name="k")]
MeasuresOption = Annotated[Measures, Option("Repeatable.", name="measure")]
OneSearch = Annotated[Search, Option("How neighbours are searched: see retrieval.")]
