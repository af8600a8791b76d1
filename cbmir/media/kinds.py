"""What a file is, by its name."""

from pathlib import Path

from cbmir.schema import RecordKind

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".pgm", ".ppm", ".jp2")
VOLUME_SUFFIXES = (".nii", ".nii.gz")


def is_volume(name: str | Path) -> bool:
    """Whether a file is a volume, by its name."""
    return str(name).lower().endswith(VOLUME_SUFFIXES)


def is_image(name: str | Path) -> bool:
    """Whether a file is a 2D image, by its name."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def kind_of(name: str | Path) -> RecordKind:
    """The kind of a file that is known to be an image or a volume."""
    return "volume" if is_volume(name) else "image"
