"""The key that identifiers of DICOM are hashed with: one file of the user, the same for all runs and machines.

Whoever has the key and an identifier can tell its hash. Without the key nobody can, not even by trying all identifiers.
"""

import hashlib
import hmac
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cbmir.errors import KeyFileError

VARIABLE = "CBMIR_DICOM_KEY"
_FIRST_LINE = "cbmir key of DICOM identifiers, keep it secret and keep a copy"
_BYTES = 32
_CHECK_DIGITS = 12
ID_DIGITS = 32
"""Hexadecimal digits of a hashed identifier: 128 bits, so that two never meet."""


@dataclass(frozen=True, slots=True)
class Key:
    """A secret, and what is made with it.

    Attributes:
        secret: 32 random bytes.
    """

    secret: bytes = field(repr=False)

    @property
    def check(self) -> str:
        """Twelve hexadecimal digits that tell keys apart and say nothing of the key."""
        return self.hashed("check", "")[:_CHECK_DIGITS]

    def hashed(self, what: str, text: str) -> str:
        """An identifier as 32 hexadecimal digits; the same text gives other digits for another kind.

        Args:
            what: Kind of the identifier, such as ``patient``.
            text: The identifier.
        """
        return self.digest(what, text.encode("utf-8", "surrogatepass"))[:ID_DIGITS]

    def digest(self, what: str, *parts: bytes) -> str:
        """64 hexadecimal digits of bytes."""
        made = hmac.new(self.secret, what.encode() + b"\0", hashlib.sha256)
        for part in parts:
            made.update(len(part).to_bytes(8, "big"))
            made.update(part)
        return made.hexdigest()

    def number(self, what: str, text: str, below: int) -> int:
        """A number from 0 that nobody can tell without the key."""
        return int(self.digest(what, text.encode("utf-8", "surrogatepass"))[:16], 16) % below


def default_place() -> Path:
    """Where the key is: the file that `CBMIR_DICOM_KEY` names, or one in the user's configuration."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "cbmir" / "dicom.key"


def read_key(path: Path) -> Key | None:
    """The key in a file; None where there is no file.

    Raises:
        KeyFileError: others may read the file, or it holds no key.
    """
    try:
        with path.open(encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            lines = file.read(1000).splitlines()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise KeyFileError(f"can't read the key file {path}: {getattr(error, 'strerror', None) or error}") from error
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyFileError(f"other users may read the key file {path}: chmod 600 it, if nobody has read it so far")
    with suppress(ValueError, IndexError):
        secret = bytes.fromhex(lines[1])
        if lines[0] == _FIRST_LINE and len(secret) == _BYTES:
            return Key(secret)
    raise KeyFileError(f"{path} is no key file of cbmir, or is damaged: restore it from your copy")


def make_key(path: Path) -> Key:
    """Make a key file; where another process was first, its key.

    Raises:
        KeyFileError: the file can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
        descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"{_FIRST_LINE}\n{secrets.token_hex(_BYTES)}\n")
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(part, path)  # fails where the file is there: no key is ever replaced
        finally:
            part.unlink()
    except OSError as error:
        raise KeyFileError(f"can't make the key file {path}: {error.strerror}") from error
    key = read_key(path)
    if key is None:
        raise KeyFileError(f"the key file {path} is gone again")
    return key
