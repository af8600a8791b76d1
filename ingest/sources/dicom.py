"""DICOM as it comes from an archive, a disc or a modality: a folder, a zip file, an index of a disc, or one file.

Records have no path and no identifier of a header: what is stored of each is in `cbmir.ingest.privacy`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cbmir.errors import ImageError, RecordError, SourceError
from cbmir.ingest.privacy.audit import Audit
from cbmir.ingest.privacy.header import Facts, facts_of
from cbmir.ingest.privacy.labels import LabelTable, Said, read_labels
from cbmir.ingest.privacy.patients import Patients, Settled
from cbmir.ingest.report import Failure
from cbmir.ingest.sources.base import SourceImage, SourceOptions, make_record
from cbmir.ingest.sources.counting import Counting
from cbmir.ingest.sources.dicom_files import PICTURES, find, holds_dicom
from cbmir.ingest.sources.dicom_kinds import DERIVED, OPTIONAL, PROCESSING, reason
from cbmir.ingest.sources.dicom_options import settings_of
from cbmir.ingest.tables.reading import Reading
from cbmir.ingest.tables.tally import tally_warnings
from cbmir.keyfile import Key
from cbmir.limits import Limits
from cbmir.media import Asset, passed_over
from cbmir.media.dicom_header import Header, number, quiet, read_header, text
from cbmir.media.dicom_identity import Identity, identity_of
from cbmir.media.dicom_pixels import Layout
from cbmir.media.dicom_places import Places
from cbmir.media.locations import Location
from cbmir.schema import keyed_path
from cbmir.units import counted

FORM = "DICOM (a folder, a zip file, a DICOMDIR or one file)"
PLACE = "DICOM"
"""What stands for the place of a file in messages: its path may name a patient."""

COPIES = "further files of an image that came before"
_DATASET = "dicom"


def accepts(path: Path, options: SourceOptions) -> bool:
    """Whether there is DICOM at the path, and it is wanted."""
    wanted = options.dicom.take
    return wanted != "pictures" and (holds_dicom(path) or (wanted == "dicom" and path.is_dir()))


def read(path: Path, options: SourceOptions) -> "DicomSource":
    """Read the headers of all DICOM files at a path.

    Raises:
        SourceError: there is none, or it can't be read.
        KeyFileError: the key can't be read or made.
    """
    return DicomSource(path, options)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A file before it is clear who its patient is."""

    place: Location
    who: Identity
    hash: str
    frames: range
    facts: tuple[Facts, ...]
    twin: tuple[str, ...]
    for_processing: bool
    joined: str


class DicomSource:
    """The images of DICOM files.

    Attributes:
        root: None: records have no path below a folder.
        total: Images and files that can't be read.
        ignored: Files without an image to compare, counted by reason.
        settings: How the files are read.
        audit: What was done with the attributes of each file.
    """

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self.root: Path | None = None
        self._options = options
        self.settings, self._made_key = settings_of(options.dicom)
        self.audit = Audit()
        self._limits = Limits.read("image")
        self._ignored: Counter[str] = Counter()
        self._failures: list[Failure] = []
        self._drafts: list[_Draft] = []
        self._patients = Patients()
        self._labels = self._read_labels()
        self._used: set[str] = set()
        files = find(path, links=options.links)
        self._known: list[tuple[str, Location]] = []
        for place in files.places:
            self._look(place)
        for why, count in files.ignored.items():
            self._ignored[why] += count
        self._unlisted(files.unlisted, files.missing)
        self._settled = self._patients.settled()
        self._items = [*self._failures, *self._records()]
        self.ignored: Mapping[str, int] = {why: count for why, count in sorted(self._ignored.items()) if count}
        self.total: int | None = len(self._items)
        if not self.total:
            said = "".join(f"; {line}" for line in passed_over(self.ignored))
            raise SourceError(f"the source holds no DICOM image{said}")  # its path may name a patient
        if not options.dicom.dry:
            Places(self._key).add(self._known)

    def __iter__(self) -> Iterator[SourceImage | Failure]:
        """What can't be read, then the images."""
        return iter(self._items)

    def reading(self) -> Reading:
        """How it is read."""
        tally = Counting().of(self)
        notes = (*self._notes(), *passed_over(self.ignored))
        return Reading(
            PLACE,
            "DICOM, found by content",
            tally,
            label_rule=self._label_rule(),
            notes=notes,
            id_warnings=(self._made_key,) if self._made_key else (),  # it names a path, which isn't kept
            warnings=(*self._warnings(), *tally_warnings(tally)),
        )

    def _read_labels(self) -> LabelTable | None:
        options = self._options.dicom
        if options.labels is None:
            return None
        return read_labels(options.labels, options.labels_by, self._options.table, self._key)

    @property
    def _key(self) -> Key:
        assert self.settings.key is not None
        return self.settings.key

    def _look(self, place: Location) -> None:
        """Read one header."""
        try:
            with self._limits.held(), place.open(self._limits.bytes) as file, quiet():
                header = read_header(file, self._limits)
                why = self._passed(header)
                if why is None:
                    self._take(place, header)
                else:
                    self._ignored[f"DICOM: {why}"] += 1
        except (ImageError, RecordError, MemoryError) as error:
            said = str(error) if isinstance(error, ImageError | RecordError) else "is too large for the memory"
            self._fail(place, said)
        except Exception as error:  # whatever a damaged header makes: nothing of it is quoted
            self._fail(place, f"has a DICOM header that can't be used ({type(error).__name__})")

    def _fail(self, place: Location, why: str) -> None:
        hash = self._key.hashed("file", str(place))
        self._known.append((hash, place))
        self._failures.append(Failure(f"file:{hash}", PLACE, why))

    def _unlisted(self, folders: int, missing: int) -> None:
        self._failures += [Failure("", PLACE, "a folder can't be listed")] * folders
        self._failures += [Failure("", PLACE, "a file that the DICOMDIR names is missing")] * missing

    def _passed(self, header: Header) -> str | None:
        why = reason(header)
        if why is not None and why in {OPTIONAL[name] for name in self._options.dicom.include}:
            why = None
        return why

    def _take(self, place: Location, header: Header) -> None:
        dataset, options = header.dataset, self._options.dicom
        layout = Layout.of(header)
        who = identity_of(dataset, self._key, options.aliases)
        hash = who.instance or self._key.hashed("file", str(place))
        whose = who.patient or who.study or hash
        key_frame = number(dataset, "RepresentativeFrameNumber")
        frames = options.wanted(layout.frames, int(key_frame) if key_frame is not None else None)
        facts = tuple(facts_of(dataset, frame, whose, self._key, options.rules) for frame in frames)
        if not options.derived and facts and "derived" in facts[0].extra:
            self._ignored[f"DICOM: {DERIVED}"] += 1
            return
        if who.patient is not None:
            birth, sex = (text(dataset, name) for name in ("PatientBirthDate", "PatientSex"))
            self._patients.see(who.patient, who.study, birth, sex)
        else:
            self._patients.dummies += who.is_dummy and bool(text(dataset, "PatientID"))
            self._patients.blank += not text(dataset, "PatientID")
        first = facts[0].fields if facts else {}
        side = str(facts[0].extra.get("laterality", "")) if facts else ""
        twin = (who.study or hash, first.get("modality", ""), first.get("view", ""), side)
        is_raw = text(dataset, "PresentationIntentType").upper() == "FOR PROCESSING"
        joined = self._labels.hash_of(dataset, self._key) if self._labels is not None else ""
        self._drafts.append(_Draft(place, who, hash, frames, facts, twin, is_raw, joined))
        self._known.append((hash, place))
        self.audit.see(hash, dataset, whose_known=who.patient is not None)

    def _records(self) -> Iterator[SourceImage | Failure]:
        presented = {draft.twin for draft in self._drafts if not draft.for_processing}
        keeps_raw = "for-processing" in self._options.dicom.include
        seen: set[str] = set()
        for draft in self._drafts:
            if draft.hash in seen:
                self._ignored[f"DICOM: {COPIES}"] += 1
            elif draft.for_processing and draft.twin in presented and not keeps_raw:
                self._ignored[f"DICOM: {PROCESSING}"] += 1
            else:
                seen.add(draft.hash)
                yield from self._of_file(draft)

    def _of_file(self, draft: _Draft) -> Iterator[SourceImage | Failure]:
        patient = self._settled.same.get(draft.who.patient or "")
        ids = {"patient_id": patient, "study_id": draft.who.study, "series_id": draft.who.series}
        known = {name: value for name, value in ids.items() if value}
        said = self._labels.rows.get(draft.joined, Said()) if self._labels is not None else Said()
        if said != Said():
            self._used.add(draft.joined)
            known |= {"split": said.split} if said.split else {}
        for frame, facts in zip(draft.frames, draft.facts, strict=True):
            key = keyed_path(draft.hash, frame)
            given = {**self._options.constants, **facts.fields, **known}
            try:
                record = make_record(key, self._options.dataset or _DATASET, list(said.labels), given, facts.extra)
            except RecordError:
                yield Failure(key, PLACE, "has a header that can't be stored")
                continue
            yield SourceImage(replace(record, kind="image"), Asset(draft.place, frame=frame, settings=self.settings))

    def _label_rule(self) -> str:
        if self._labels is None:
            return "DICOM has none (--labels-from TABLE); names of folders are not stored"
        unused, unread = len(self._labels.rows.keys() - self._used), self._labels.unread
        return (
            f"from the table, joined by {self._labels.by}; entries without an image: {unused:,}, "
            f"rows that can't be read: {unread:,}"
        )

    def _notes(self) -> Iterator[str]:
        yield (
            f"window {self.settings.window}; ids are hashes by the key of check value {self._key.check}; study dates "
            "are moved back, by a number of weeks for each patient; ages of 90 and more are 90"
        )
        disagreeing = sum(facts.disagrees for draft in self._drafts for facts in draft.facts)
        if disagreeing:
            yield f"regions on which the header disagrees with itself: {disagreeing:,}; see extra.region_sources"
        heads = sum(facts.fields.get("anatomic_region") in _FACES for draft in self._drafts for facts in draft.facts)
        if heads:
            yield f"images of heads: {heads:,}. Slices of a head can show the face, and a face names a person"

    def _warnings(self) -> Iterator[str]:
        settled: Settled = self._settled
        if self._patients.dummies:
            yield f"files without a patient, as their patient id names nobody (ANONYMOUS): {self._patients.dummies:,}"
        if self._patients.blank:
            yield f"files without a patient id: {self._patients.blank:,}"
        if settled.several:
            shown = ", ".join(f"{id} ({counted(count, 'file')})" for id, count in list(settled.several.items())[:3])
            more = f" and {len(settled.several) - 3:,} more" if len(settled.several) > 3 else ""
            yield (
                f"ids with several birth dates or sexes are no patient: {shown}{more}; leave their images out by study"
            )
        if settled.joined:
            yield f"studies with several patient ids, which count as one patient: {settled.joined:,}"
        if count := self._ignored.get(PICTURES):
            yield (
                f"{PICTURES}: {count:,} passed over, as their names would be stored and may name patients; "
                "--take pictures takes them, and no DICOM"
            )


_FACES = ("head", "brain", "face", "head_neck", "sinus", "orbit", "jaw", "temporal_bone")
