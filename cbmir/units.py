"""Numbers as people read them: sizes in a fitting unit, counts with the right plural, rates that mean something."""

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")
_LONG_ENOUGH_S = 1.0


def size(count: float) -> str:
    """Bytes in the largest unit of which there is one or more: ``512 B``, ``1.5 KiB``, ``73.9 GiB``."""
    unit = 0
    while count >= 1023.95 and unit < len(_SIZES) - 1:  # from there on it would be shown as 1024.0
        count /= 1024
        unit += 1
    return f"{count:,.1f} {_SIZES[unit]}" if unit else f"{count:.0f} B"


def counted(number: int, noun: str) -> str:
    """A number and its noun: ``1 image``, ``1,045 images``, ``2 queries``, ``3 classes``."""
    if number == 1:
        return f"1 {noun}"
    if noun.endswith("ry"):
        return f"{number:,} {noun[:-1]}ies"
    return f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"


def rate(number: int, seconds: float, noun: str) -> str:
    """How many a second, a minute or an hour; empty for less than a second of work, which says nothing."""
    if seconds < _LONG_ENOUGH_S or not number:
        return ""
    for name, length in (("s", 1.0), ("min", 60.0)):
        if number / seconds * length >= 1:
            return f"{number / seconds * length:,.1f} {noun}s/{name}"
    return f"{number / seconds * 3600:,.1f} {noun}s/h"
