"""What the analyses of one run share: images read once, rankings asked for once, tables of relevance made once.

An analysis takes a collection and starts a session of its own, or takes the session of a run of several analyses. Who
knows which analyses follow says so first (`Session.expect`): then the first of them reads and ranks for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbmir.evaluate.protocol import RetrievalProtocol, check_groups, existing, unlabelled
from cbmir.evaluate.ranking.exclusion import Exclusion
from cbmir.evaluate.ranking.reading import Column, Table, read_table
from cbmir.evaluate.ranking.relevance import Relevance, Tables, find_grades, find_relevance
from cbmir.evaluate.ranking.trial import (
    PATHS,
    Codes,
    Images,
    StoredGallery,
    Trial,
    Vocabulary,
    classes_of,
    labelled,
)
from cbmir.filters import SCOPED, Where
from cbmir.search.ranker import Ranker, Ranking, ranker_named
from cbmir.store import Collection

Fields = tuple[str, ...]
"""Payload fields to exclude by, see `cbmir.evaluate.ranking.exclusion.Exclusion`."""


@dataclass(frozen=True, slots=True)
class _Answered:
    """What one ranker has answered on the same terms so far.

    Attributes:
        ids: (n,) the queries, by rising id.
        ranking: Their answers.
    """

    ids: NDArray[np.bytes_]
    ranking: Ranking

    def lacks(self, ids: NDArray[np.bytes_], depth: int) -> NDArray[np.bool_]:
        """(m,) which of some queries have no answer of this depth."""
        return ~np.isin(ids, self.ids) | (self.ranking.depth < depth)

    def answers(self, ids: NDArray[np.bytes_], depth: int) -> Ranking:
        ranking = self.ranking.cut(depth)
        return ranking if np.array_equal(ids, self.ids) else ranking.take(np.searchsorted(self.ids, ids))

    def with_more(self, other: "_Answered") -> "_Answered":
        """These answers and others, at the smaller depth of both."""
        depth = min(self.ranking.depth, other.ranking.depth)
        one, two = self.ranking.cut(depth), other.ranking.cut(depth)
        ids, first = np.unique(np.concatenate([self.ids, other.ids]), return_index=True)
        positions, scores = np.vstack([one.positions, two.positions]), np.vstack([one.scores, two.scores])
        return _Answered(ids, Ranking(positions[first], scores[first]))


class Session:
    """The analyses of one run over one open collection.

    It holds the vectors of all queries, those of the galleries up to `cbmir.evaluate.ranking.reading.HELD_BYTES`, and
    12 bytes a rank position of each query, search and exclusion.

    Attributes:
        collection: What is measured.
    """

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self._tables = Tables()
        self._expected: list[tuple[RetrievalProtocol, Fields]] = []
        self._wheres: dict[Where, Where] = {}
        self._table: Table | None = None
        self._vocabularies: dict[Column, Vocabulary] = {}
        self._trials: dict[tuple[RetrievalProtocol, Fields, bool], Trial] = {}
        self._rankers: dict[tuple[type[Ranker], str], Ranker] = {}
        self._answered: dict[tuple[type[Ranker], Where, Fields], _Answered] = {}

    @classmethod
    def of(cls, given: "Collection | Session") -> "Session":
        """The session of a run, or a new one of a collection."""
        return given if isinstance(given, Session) else cls(given)

    def expect(self, *protocols: RetrievalProtocol, fields: Fields = ()) -> None:
        """Say which measurements will follow, so that one scroll and one ranking serve them all.

        Args:
            protocols: Their queries, galleries and fields are read, and their queries ranked by their searches, at the
                depth of the deepest.
            fields: Further columns, see `trial`.

        Raises:
            ProtocolError: one of them has no queries or no gallery.
        """
        for protocol in protocols:
            self._where(protocol.queries, "queries")
            self._where(protocol.gallery, "gallery")
            self._expected.append((protocol, fields))

    def trial(self, protocol: RetrievalProtocol, fields: Sequence[str] = (), *, keep_unlabelled: bool = False) -> Trial:
        """Which images a protocol asks with and searches.

        Args:
            protocol: The terms.
            fields: Further columns of codes: payload fields, or ``extra.NAME``.
            keep_unlabelled: Keep queries without a label, of class -1.

        Raises:
            ProtocolError: there are no queries or no gallery, or no labels where they are needed.
        """
        key = (protocol, tuple(fields), keep_unlabelled)
        if key not in self._trials:
            self._trials[key] = self._made(protocol, tuple(fields), keep_unlabelled)
        return self._trials[key]

    def rank(self, trial: Trial, search: str, exclusions: Sequence[Fields], depth: int) -> list[Ranking]:
        """The neighbours of all queries of a trial, asked for only where no earlier ranking holds them.

        Args:
            trial: One of this session.
            search: Name of the ranker.
            exclusions: Fields to exclude by; each set holds the one before.
            depth: Rank positions a query.

        Raises:
            ProtocolError: there is no such ranker, or the collection changed meanwhile.
        """
        ranker = ranker_named(search)
        keys = {fields: (ranker, trial.gallery_where, fields) for fields in exclusions}

        def lacking(fields: Sequence[Fields], queries: Images) -> NDArray[np.bool_]:
            """(queries,) who has no answer of this depth on one of these terms."""
            known = [self._answered.get(keys[one]) for one in fields]
            flags = [one.lacks(queries.ids, depth) if one else np.ones(len(queries), np.bool_) for one in known]
            rows: NDArray[np.bool_] = np.logical_or.reduce(flags)
            return rows

        asked = [fields for fields in keys if lacking([fields], trial.queries).any()]
        if asked:
            expected = (self.trial(*term) for term in self._expected if search in term[0].searches)
            others = (one for one in expected if one is not trial and one.gallery_where == trial.gallery_where)
            trials = [trial, *others]
            together = _together(trials, [lacking(asked, one.queries) for one in trials])
            rankings = self.ranker(search, trial.protocol.device).rank(
                together.query_vectors,
                StoredGallery(self.collection, together),
                tuple(Exclusion(together, fields) for fields in asked),
                max(depth, *(one.protocol.depth for one in trials)),
            )
            for fields, ranking in zip(asked, rankings, strict=True):
                before, new = self._answered.get(keys[fields]), _Answered(together.queries.ids, ranking)
                deep = before is not None and before.ranking.depth >= depth
                self._answered[keys[fields]] = before.with_more(new) if before is not None and deep else new
        return [self._answered[key].answers(trial.queries.ids, depth) for key in keys.values()]

    def ranker(self, search: str, device: str) -> Ranker:
        """A ranker over the collection, made once.

        Raises:
            ProtocolError: there is none of this name.
        """
        key = (ranker_named(search), device)
        if key not in self._rankers:
            self._rankers[key] = key[0](self.collection, device)
        return self._rankers[key]

    def relevance(self, trial: Trial, exclusion: Exclusion) -> Relevance:
        """Who is relevant to whom; see `find_relevance`."""
        return find_relevance(trial, exclusion, self._tables)

    def grades(self, trial: Trial, exclusion: Exclusion) -> Relevance | None:
        """How right each image is for the graded measures of the protocol, None without one; see `find_grades`."""
        return find_grades(trial, exclusion, self._tables) if trial.protocol.graded else None

    def ids(self, where: Where) -> NDArray[np.bytes_] | None:
        """(n,) the 16 bytes of the ids that satisfy a checked filter, rising; None where they weren't all read."""
        table = self._table
        if table is None or table.where is None or not set(where) <= set(table.where):
            return None
        return table.ids if self.collection.count(where) == len(table.ids) else None

    def _where(self, where: Where, role: str) -> Where:
        """A filter checked against the collection, once."""
        if where not in self._wheres:
            self._wheres[where] = existing(where, self.collection, role)
        return self._wheres[where]

    def _read(self, protocol: RetrievalProtocol, fields: Fields) -> Table:
        """The images of a protocol, from what was read before if they are all there."""
        wheres = {role: self._where(getattr(protocol, role), role) for role in ("queries", "gallery")}
        table, columns = self._table, set(_columns(protocol, fields).values())
        if table is None or not (set(wheres.values()) <= table.rows.keys() and columns <= table.codes.keys()):
            terms = [(protocol, fields), *self._expected]
            every = {column: None for term in terms for column in _columns(*term).values()}
            vocabularies = {column: self._vocabularies.setdefault(column, Vocabulary()) for column in every}
            asked, searched = ([self._wheres[getattr(term, role)] for term, _ in terms] for role in wheres)
            self._table = table = read_table(self.collection, asked, searched, vocabularies)
        return table

    def _made(self, protocol: RetrievalProtocol, fields: Fields, keep_unlabelled: bool) -> Trial:
        table = self._read(protocol, fields)
        columns = _columns(protocol, fields)
        vocabularies = {name: self._vocabularies[column] for name, column in columns.items()}
        queries_where, gallery_where = self._wheres[protocol.queries], self._wheres[protocol.gallery]
        asked = table.images(queries_where, columns)
        gallery = asked if gallery_where == queries_where else table.images(gallery_where, columns)
        check_groups(protocol, self.collection, {name: _distinct(name, asked, gallery) for name in columns})
        kept = (asked.codes[protocol.label] > 0) | keep_unlabelled
        queries = asked if kept.all() else asked.take(kept)
        held = table.vectors_of(queries_where)
        assert held is not None  # those that ask always are
        names, classes = classes_of(vocabularies[protocol.label])
        trial = Trial(
            protocol=protocol,
            queries=queries,
            gallery=gallery,
            vocabularies=vocabularies,
            classes=classes[queries.codes[protocol.label]],
            class_names=names,
            query_vectors=held[:] if kept.all() else held[np.flatnonzero(kept)],
            gallery_vectors=table.vectors_of(gallery_where),
            queries_where=queries_where,
            gallery_where=gallery_where,
            unlabelled=0,
            own_places=gallery.places(queries.ids),
            clusters=_clusters(asked.codes["patient_id"])[kept],
        )
        labels = _labels(self.collection, trial, asked, needed=not keep_unlabelled)
        return replace(trial, unlabelled=int((~labels).sum()))


def read_trial(
    collection: Collection, protocol: RetrievalProtocol, fields: Sequence[str] = (), *, keep_unlabelled: bool = False
) -> Trial:
    """Read which images a protocol asks with and searches, for one measurement; see `Session.trial`."""
    return Session(collection).trial(protocol, fields, keep_unlabelled=keep_unlabelled)


def _together(trials: Sequence[Trial], rows: Sequence[NDArray[np.bool_]]) -> Trial:
    """Some of the queries of trials with one gallery as one trial, each once; no classes are told apart."""
    if len(trials) == 1 and rows[0].all():
        return trials[0]

    def joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate([array[part] for array, part in zip(arrays, rows, strict=True)])

    ids, first = np.unique(joined([trial.queries.ids for trial in trials]), return_index=True)
    names = [name for name in trials[0].queries.codes if all(name in trial.queries.codes for trial in trials)]
    none = np.zeros(len(ids), np.int32)
    return replace(
        trials[0],
        queries=Images(ids, {name: joined([trial.queries.codes[name] for trial in trials])[first] for name in names}),
        classes=none,
        query_vectors=joined([trial.query_vectors for trial in trials])[first],
        own_places=trials[0].gallery.places(ids),
        clusters=none,
    )


def _columns(protocol: RetrievalProtocol, fields: Fields) -> dict[str, Column]:
    """The columns that a measurement reads, by the name that it knows them by."""
    include = protocol.unlabelled == "include"
    names = dict.fromkeys((*protocol.fields, *fields, *([PATHS] if protocol.graded else [])))
    flagged = {protocol.label, PATHS} if include else set()
    flagged |= set(SCOPED) if protocol.patients == "dataset" else set()
    return {name: (name, name in flagged) for name in names}


def _distinct(name: str, *images: Images) -> int:
    """How many different values some images have."""
    codes = np.unique(np.concatenate([item.codes[name] for item in images]))
    return int(np.count_nonzero(codes))


def _labels(collection: Collection, trial: Trial, asked: Images, *, needed: bool) -> NDArray[np.bool_]:
    """(asked,) which of the images that ask have a label of their own.

    Raises:
        ProtocolError: none of them has, or none in the gallery, and it is needed there.
    """
    protocol = trial.protocol
    there = {
        role: (where, labelled(images, protocol, trial.vocabularies))
        for role, where, images in (
            ("queries", trial.queries_where, asked),
            ("gallery", trial.gallery_where, trial.gallery),
        )
    }
    one_is_enough = protocol.unlabelled == "include" and any(flags.any() for _, flags in there.values())
    for role, (where, flags) in there.items():
        if needed and not (one_is_enough or flags.any()):
            raise unlabelled(collection, where, protocol.label, role)
    return there["queries"][1]


def _clusters(codes: Codes) -> Codes:
    """(n,) numbers of patients from 1 on, by their first image, -1 for none: the same whatever else was read."""
    _, first, which = np.unique(codes, return_index=True, return_inverse=True)
    clusters: Codes = (1 + np.argsort(np.argsort(first)))[which].astype(np.int32)
    clusters[codes <= 0] = -1
    return clusters
