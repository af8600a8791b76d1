"""Spellings of splits and sexes, and what is stored; ingest and filters share them, as those of modalities."""

_SPLITS = {"validation": "val", "valid": "val", "validate": "val", "dev": "val", "training": "train", "testing": "test"}
_SEXES = {"m": "M", "male": "M", "man": "M", "f": "F", "female": "F", "woman": "F", "w": "F"}
_SEXES |= {"o": "O", "other": "O", "d": "O", "divers": "O", "u": "", "unknown": ""}
_SEXES |= dict.fromkeys(("männlich", "mann", "masculin", "homme", "masculino", "hombre", "maschio"), "M")
_SEXES |= dict.fromkeys(("weiblich", "frau", "féminin", "femme", "femenino", "feminino", "mujer", "femmina"), "F")


def split_of(text: str) -> str:
    """``train``, ``val`` or ``test`` for any spelling of them; any other text in lower case."""
    return _SPLITS.get(text.lower(), text.lower())


def sex_of(text: str) -> str | None:
    """``M``, ``F`` or ``O`` for any spelling of them; empty where it isn't known, None for anything else."""
    return _SEXES.get(text.casefold())


def is_split(text: str) -> bool:
    """Whether a text is a known spelling of train, val or test."""
    return split_of(text) in _SPLITS.values()


def is_sex(text: str) -> bool:
    """Whether a text is a known spelling of a sex."""
    return bool(sex_of(text))
