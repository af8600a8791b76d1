"""What values look like on a terminal: no control character of theirs reaches it, and no password in a URL.

A file name or a label may hold an escape sequence, which a terminal would obey, or bytes that are no text.
"""

import logging
import re

_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but for tab and line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # the direction of text
    "\u2028\u2029\ud800-\udfff]"  # line ends of their own, and bytes that are no UTF-8
)
_USER = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)"
    r"(?:[^\s/@:\"']*:(?!\d{1,5}(?:/|,))[^\s\"',]*@|[^\s/@\"',]*@)"
)
"""User and password of a URL, also where the password holds ``/`` or ``@``."""


def shown(text: object) -> str:
    r"""A text for people: what a terminal would obey is written as ``\x1b``, and URLs have no user or password."""
    return _HARMFUL.sub(_escape, without_passwords(str(text)))


def on_one_line(text: object) -> str:
    r"""The same for a value that must not break its line: line feeds and tabs are written as ``\n`` and ``\t``."""
    return shown(text).replace("\n", r"\n").replace("\t", r"\t")


def in_json(text: str) -> str:
    r"""A JSON document with the same content that a terminal can't obey: characters as ``\u009b``, no passwords."""
    return _HARMFUL.sub(lambda found: f"\\u{ord(found[0]):04x}", without_passwords(text))


def writable(text: str) -> str:
    r"""A text as it is, but for bytes that are no UTF-8: they are written as ``\xff``."""
    return re.sub("[\ud800-\udfff]", _escape, without_passwords(text))


def without_passwords(text: str) -> str:
    """A text whose URLs name no user and no password."""
    return _USER.sub(r"\g<scheme>", text)


class Formatter(logging.Formatter):
    """Log lines for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, without what a terminal would obey."""
        return shown(super().format(record))


def _escape(found: "re.Match[str]") -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that Python has read as such
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
