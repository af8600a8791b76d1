"""Files that are passed over, and what to do with a file of a kind that can't be read here."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

DICOM = "DICOM"
"""What a DICOM file without a usual suffix is counted as."""

HIDDEN_FILES = "hidden files"
HIDDEN_FOLDERS = "hidden folders"
"""What files and folders by `is_hidden` are counted as."""

LINKS_TO_FILES = "links to files"
LINKS_TO_FOLDERS = "links to folders"
"""What symbolic links that are not followed are counted as."""

_OF_SYSTEMS = (
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("lost+found", "@eadir", "#recycle", "@recycle", "#snapshot"),
)
_AS_PAIR = "is one half of an Analyze or NIfTI pair: save both as one .nii.gz, for example with nibabel"
_AS_METAIMAGE = "is a MetaImage, which cbmir can't read: save it as .nii.gz or .nrrd, for example with SimpleITK"
AS_DICOM = (
    "is DICOM, whose path and header may name a patient: give its folder, a zip file, the DICOMDIR or the file itself "
    "as SOURCE of `cbmir ingest images`"
)
DICOM_REASON = "DICOM: "
"""What stands before the reason why a file of DICOM is no image to compare."""
_AS_HEIF = "is HEIF, which cbmir can't read: save it as JPEG or PNG"
_REMEDIES = {
    **dict.fromkeys((".dcm", ".dicom", ".ima", DICOM.lower(), "dicomdir"), AS_DICOM),
    **dict.fromkeys((".hdr", ".img"), _AS_PAIR),
    **dict.fromkeys((".mha", ".mhd"), _AS_METAIMAGE),
    **dict.fromkeys((".heic", ".heif"), _AS_HEIF),
    ".nhdr": "is the header of an NRRD volume without its voxels: save both as one .nrrd, for example with 3D Slicer",
}


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden (``._1.png``, ``.ipynb_checkpoints``) or made by an operating system or a NAS.

    Args:
        name: The last part of its path.
    """
    return name.startswith(".") or name.casefold() in _OF_SYSTEMS


def without_hidden(folders: list[str], files: Sequence[str], others: Counter[str]) -> list[str]:
    """What `os.walk` should see of a folder.

    Args:
        folders: Names; hidden ones are removed from the list itself, so that `os.walk` doesn't enter them.
        files: Names.
        others: Hidden files and folders are counted here; what is in a hidden folder isn't.

    Returns:
        Names of the files that aren't hidden.
    """
    shown = [name for name in files if not is_hidden(name)]
    count, folders[:] = len(folders), [name for name in folders if not is_hidden(name)]
    others.update({HIDDEN_FILES: len(files) - len(shown), HIDDEN_FOLDERS: count - len(folders)})
    return shown


def remedy(name: str | Path, head: bytes = b"") -> str | None:
    """What to do with a file of a kind that can't be read here; None for a kind that isn't known at all.

    Args:
        name: Of the file, or its key from `passed_over_as`.
        head: Its first bytes, if they are at hand.
    """
    if head[128:132] == b"DICM":
        return AS_DICOM
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"msf1"):
        return _AS_HEIF
    if head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0":
        return _AS_PAIR
    name = Path(name).name.lower()
    return _REMEDIES.get(Path(name).suffix) or _REMEDIES.get(name)


def passed_over_as(path: Path) -> str:
    """What a file that is no image or volume is counted as: its suffix, `DICOM`, or ``no suffix``.

    Archives often store DICOM under names without a suffix, or under a UID, whose last part looks like one; the first
    bytes of such files are read.
    """
    suffix = path.suffix.lower()
    if path.name.lower() == "dicomdir":
        return DICOM
    if suffix and not suffix[1:].isdigit():
        return suffix
    found = False
    with suppress(OSError):  # it is passed over in any case
        if path.is_file():  # to open a pipe would block
            with path.open("rb") as file:
                found = file.read(132)[128:] == b"DICM"
    return DICOM if found else suffix or "no suffix"


def passed_over(ignored: Mapping[str, int]) -> list[str]:
    """What was passed over in a folder, and what to do about it, in lines for people; none where nothing was.

    Args:
        ignored: Counts by `passed_over_as` and `without_hidden`, and of links.
    """
    names = {
        "hidden or made by an operating system": (HIDDEN_FILES, HIDDEN_FOLDERS),
        "symbolic links": (LINKS_TO_FILES, LINKS_TO_FOLDERS),
    }
    named = [name for group in names.values() for name in group]
    reasons = {key: count for key, count in ignored.items() if key.startswith(DICOM_REASON)}
    groups = {"no image suffix": {key: count for key, count in ignored.items() if key not in (*named, *reasons)}}
    groups["DICOM"] = {key.removeprefix(DICOM_REASON): count for key, count in reasons.items()}
    groups |= {why: {key: ignored[key] for key in group if key in ignored} for why, group in names.items()}
    lines = [
        f"passed over, {why}: {', '.join(f'{key} {count:,}' for key, count in group.items())}"
        for why, group in groups.items()
        if group
    ]
    return [*lines, *advice(ignored)]


def advice(ignored: Mapping[str, int]) -> list[str]:
    """A sentence for each kind among the files passed over that can be converted.

    Args:
        ignored: Counts by `passed_over_as`.
    """
    by_text: dict[str, list[str]] = {}
    for key, count in ignored.items():
        if text := remedy(key if key == DICOM else f"file{key}"):
            by_text.setdefault(text, []).append(f"{count:,} {key}")
    return [f"{', '.join(counts)}: {text}" for text, counts in by_text.items()]
