"""From stored values to grey: modality LUT or rescale, then the window. Which window is chosen is a table here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cbmir.media.dicom_header import first_with, items, number, numbers, text, texts
from cbmir.media.dicom_settings import NAMED_WINDOWS, DicomSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom.dataset import Dataset

CT_WINDOWS: Mapping[str, str] = {
    **dict.fromkeys(("head", "brain"), "brain"),
    **dict.fromkeys(("chest", "lung"), "lung"),
    **dict.fromkeys(("spine", "cervical_spine", "thoracic_spine", "lumbar_spine", "sacrum"), "bone"),
    **dict.fromkeys(("shoulder", "upper_arm", "elbow", "forearm", "wrist", "hand"), "bone"),
    **dict.fromkeys(("hip", "thigh", "knee", "lower_leg", "ankle", "foot"), "bone"),
    **dict.fromkeys(("face", "sinus", "temporal_bone", "jaw"), "bone"),
}
"""Window ``auto`` of CT by region; of every other region, and of none, it is ``soft``."""

HEADER_FIRST = ("CR", "DX", "RG", "MG", "XA", "RF", "IO", "PX", "OT", "RTIMAGE")
"""Modalities for which ``auto`` takes the window of the header, and percentiles where there is none."""

AS_STORED = ("US", "IVUS", "ES", "XC", "GM", "SM", "OP", "BI")
"""Modalities that ``auto`` shows as they are stored, if they have 8 bits."""

SUV = (0.0, 10.0)
"""Window ``auto`` of PET where standardised uptake values can be computed."""

PERCENTILES = (0.5, 99.5)
"""Of the values in a frame that are no padding, become black and white where nothing else says a window."""

Numbers = NDArray[np.float64]
Voi = Callable[[Numbers], Numbers]
"""From values to 0 to 255."""


@dataclass(frozen=True, slots=True)
class Rescale:
    """A modality LUT, or a slope and an intercept.

    Attributes:
        slope: Factor.
        intercept: Added.
        table: Instead of both: the entries, and the stored value of the first; None without.
    """

    slope: float = 1.0
    intercept: float = 0.0
    table: "Table | None" = None

    def __call__(self, stored: Numbers) -> Numbers:
        """Values of stored values."""
        if self.table is not None:
            return self.table.entries_of(stored)
        values: Numbers = stored * self.slope + self.intercept
        return values


@dataclass(frozen=True, slots=True)
class Table:
    """A look-up table of the header.

    Attributes:
        first: Value of the first entry.
        entries: (n,) outputs.
        bits: Of the outputs.
    """

    first: float
    entries: NDArray[np.float64]
    bits: int

    def entries_of(self, values: Numbers) -> Numbers:
        """The entries of values; those before the first and behind the last get these."""
        places = np.clip(np.floor(values) - self.first, 0, len(self.entries) - 1)
        found: Numbers = self.entries[places.astype(np.intp)]
        return found

    def __call__(self, values: Numbers) -> Numbers:
        """As a window."""
        shown: Numbers = self.entries_of(values) * (255.0 / (2**self.bits - 1))
        return shown


@dataclass(frozen=True, slots=True)
class Linear:
    """Grey from black to white between two values."""

    low: float
    high: float

    def __call__(self, values: Numbers) -> Numbers:
        """As a window."""
        if self.high <= self.low:
            step: Numbers = np.where(values > self.low, 255.0, 0.0)
            return step
        return np.clip((values - self.low) / (self.high - self.low) * 255.0, 0.0, 255.0)


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """The function SIGMOID of the standard (PS3.3 C.11.2.1.3.1)."""

    centre: float
    width: float

    def __call__(self, values: Numbers) -> Numbers:
        """As a window."""
        return 255.0 / (1.0 + np.exp(np.clip(-4.0 * (values - self.centre) / self.width, -700.0, 700.0)))


def rescale_of(places: "Sequence[Dataset]", is_signed: bool) -> Rescale:
    """The modality LUT or rescale of a frame; one that changes nothing where the header has neither."""
    place = first_with(places, "ModalityLUTSequence")
    if place is not None and (found := items(place, "ModalityLUTSequence")):
        table = _table(found[0], is_signed)
        if table is not None:
            return Rescale(table=table)
    place = first_with(places, "RescaleSlope")
    slope, intercept = (number(place, name) if place is not None else None for name in _RESCALE)
    if slope is None or slope == 0 or intercept is None:
        return Rescale()
    return Rescale(slope, intercept)


_RESCALE = ("RescaleSlope", "RescaleIntercept")


def header_voi(places: "Sequence[Dataset]", is_signed: bool) -> Voi | None:
    """The first VOI LUT of a frame, else its first window; None where the header has neither."""
    place = first_with(places, "VOILUTSequence")
    if place is not None and (found := items(place, "VOILUTSequence")):
        table = _table(found[0], is_signed)
        if table is not None:
            return table
    place = first_with(places, "WindowCenter")
    if place is None:
        return None
    centre, width = number(place, "WindowCenter"), number(place, "WindowWidth")
    if centre is None or width is None or width <= 0:
        return None
    function = text(place, "VOILUTFunction").upper() or "LINEAR"
    if function == "SIGMOID":
        return Sigmoid(centre, width)
    if function == "LINEAR_EXACT":
        return Linear(centre - width / 2, centre + width / 2)
    if width < 1:
        return None
    return Linear(centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)


@dataclass(frozen=True, slots=True)
class Choice:
    """The window of a frame.

    Attributes:
        voi: Known from the header alone; None for the percentiles of the frame, or its range where it has 8 bits.
        factor: Values are multiplied by it first, as by that of SUV.
        as_stored: Whether 8 bits are shown as they are, if there is no window.
    """

    voi: Voi | None
    factor: float = 1.0
    as_stored: bool = False


def choose(dataset: "Dataset", places: "Sequence[Dataset]", settings: DicomSettings, is_signed: bool) -> Choice:
    """The window of a frame by the settings, see `docs/guide.md`.

    Args:
        dataset: Of the file.
        places: Where attributes of the frame may stand.
        settings: Of the collection.
        is_signed: Whether stored values are.
    """
    from cbmir.media.dicom_regions import region_of

    modality = text(dataset, "Modality").upper()
    if settings.limits:
        return Choice(Linear(*settings.limits))
    if settings.window == "dicom":
        return Choice(header_voi(places, is_signed), as_stored=True)
    if modality == "CT" and not _is_map(dataset):
        name = settings.window if settings.window in NAMED_WINDOWS else ""
        region = "" if name else region_of(dataset, settings.rules).region
        return Choice(Linear(*NAMED_WINDOWS[name or CT_WINDOWS.get(region or "", "soft")]))
    if modality == "PT" and (factor := suv_factor(dataset)) is not None:
        return Choice(Linear(*SUV), factor)
    if modality in AS_STORED:
        return Choice(None, as_stored=True)
    return Choice(header_voi(places, is_signed) if modality in HEADER_FIRST else None)


def suv_factor(dataset: "Dataset") -> float | None:
    """What stored activity is multiplied with to be g/ml of standardised uptake; None where the header can't tell."""
    if text(dataset, "Units") == "GML":
        return 1.0
    isotopes = items(dataset, "RadiopharmaceuticalInformationSequence")
    if text(dataset, "Units") != "BQML" or text(dataset, "DecayCorrection") != "START" or not isotopes:
        return None
    if "DECY" not in texts(dataset, "CorrectedImage"):
        return None
    dose, half_life = (number(isotopes[0], name) for name in ("RadionuclideTotalDose", "RadionuclideHalfLife"))
    weight_kg = number(dataset, "PatientWeight")
    given = _moment(text(dataset, "SeriesDate"), text(isotopes[0], "RadiopharmaceuticalStartTime"))
    scanned = _moment(text(dataset, "SeriesDate"), text(dataset, "SeriesTime"))
    if not dose or not half_life or not weight_kg or given is None or scanned is None:
        return None
    seconds = (scanned - given).total_seconds() % 86_400  # an injection before midnight
    return float(weight_kg * 1000 / (dose * 2 ** (-seconds / half_life)))


def percentiles(values: Numbers, counts: NDArray[np.int64]) -> Linear:
    """The window from the `PERCENTILES` of values that come so often.

    Args:
        values: (n,) distinct, in any order.
        counts: (n,) how often each comes.
    """
    order = np.argsort(values, kind="stable")
    ordered, total = values[order], np.cumsum(counts[order])
    if not len(total) or total[-1] == 0:
        return Linear(0.0, 1.0)
    low, high = (ordered[np.searchsorted(total, total[-1] * share / 100.0)] for share in PERCENTILES)
    if high <= low:
        present = ordered[counts[order] > 0]
        low, high = present[0], present[-1]
    return Linear(float(low), float(high))


def _is_map(dataset: "Dataset") -> bool:
    """Whether a CT shows something else than HU, as perfusion maps in units of their own do."""
    kind = text(dataset, "RescaleType").upper()
    return kind not in ("", "HU", "US", "HU_MOD")


def _table(item: "Dataset", is_signed: bool) -> Table | None:
    described = numbers(item, "LUTDescriptor")
    data: Any = item.get("LUTData")
    if len(described) != 3 or data is None:
        return None
    count, first, bits = int(described[0]) or 65_536, described[1], int(described[2])
    if isinstance(data, bytes):
        wide = len(data) >= 2 * count
        entries = np.frombuffer(data[: len(data) // 2 * 2] if wide else data, "<u2" if wide else "u1").astype(float)
    else:
        entries = np.asarray([data] if isinstance(data, int) else list(data), np.float64)
    if not 1 <= bits <= 16 or not len(entries):
        return None
    entries = entries[:count]
    return Table(first - 65_536 if is_signed and first >= 32_768 else first, entries, bits)


def _moment(date: str, time: str) -> datetime | None:
    try:
        return datetime.strptime(date + time.partition(".")[0], "%Y%m%d%H%M%S")
    except ValueError:
        return None
