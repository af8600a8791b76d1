"""What one source of images is: which file of which package, and which slices of it show what."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Plane = Literal["axial", "coronal", "sagittal", "frontal", ""]
Box = tuple[int, int, int, int]


class Reader(StrEnum):
    """How a source's file is read."""

    NIFTI = "nifti"
    DICOM = "dicom"
    MOSAIC = "mosaic"
    INVESALIUS = "invesalius"


@dataclass(frozen=True, slots=True)
class Package:
    """A package and the terms its images come under.

    Attributes:
        name: Project name on PyPI, or of the Debian package.
        version: Exact version; empty for a Debian package, which is read where it lies.
        licence: As the package, or the origin of its images where that is known, states it.
        attribution: Whom to credit.
    """

    name: str
    version: str
    licence: str
    attribution: str


@dataclass(frozen=True, slots=True)
class Window:
    """Linear grey window.

    Attributes:
        low: Value shown black (for CT: Hounsfield units).
        high: Value shown white.
    """

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Band:
    """A run of slices of one volume that show one region, in one plane.

    Attributes:
        plane: Which axis is cut.
        region: Slug of the anatomy shown.
        first: First slice, counted from the patient's left (sagittal), back (coronal) or feet (axial).
        last: Last slice, included.
        most: How many slices to take at most, evenly spaced from first to last.
    """

    plane: Plane
    region: str
    first: int
    last: int
    most: int


@dataclass(frozen=True, slots=True)
class Source:
    """One volume, cine loop or image: the unit that is never divided between splits.

    Attributes:
        slug: Our name for the patient or volume; becomes `patient_id`.
        package: Where it comes from.
        path: The file, relative to the package's folder.
        reader: How to read it.
        modality: XR, CT, MR, US or NM.
        bands: For volumes: the slices to take.
        region: For images and loops: slug of the anatomy shown.
        plane: For images and loops: the plane.
        frames: For loops: how many evenly spaced frames to take.
        window: Grey window in place of the file's own.
        crop: For images and loops: (left, top, right, bottom) in pixels, right and bottom excluded.
        tiles: For mosaics: how many slices the square of tiles holds.
    """

    slug: str
    package: Package
    path: str
    reader: Reader
    modality: str
    bands: tuple[Band, ...] = ()
    region: str = ""
    plane: Plane = ""
    frames: int = 1
    window: Window | None = None
    crop: Box | None = None
    tiles: int = 0
