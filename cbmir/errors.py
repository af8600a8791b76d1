"""Every error a user can cause.

A command prints the message as one line on stderr and leaves with the exit code of the class; see ``docs/guide.md``.

    CbmirError
    ├── StoreError                  the store can't be opened, read or written
    │   ├── StoreLockedError        another process holds the directory: wait
    │   ├── StoreKeyError           the server refuses the key: another key
    │   ├── StoreUnreachableError   nobody answers there: try again
    │   ├── StoreDamagedError       its files can't be read: restore, or salvage
    │   ├── StoreFullError          no space is left: make some, then run it again
    │   └── CollectionError         missing, there already, or a name that can't be used
    ├── FingerprintError            vectors of one encoder meet a collection of another
    ├── KeyFileError                the key of DICOM identifiers is missing, another, or can't be used
    ├── FilterError                 a field, operator or value that doesn't exist
    ├── RecordError                 an image record or a batch of vectors breaks the schema
    ├── ImageError                  one image can't be used; ingest counts it and goes on
    ├── SourceError                 a folder, table or embeddings file can't be read
    ├── WorkerError                 processes that decode images can't be started
    ├── ThumbnailError              thumbnails can't be written
    ├── EncoderError                unknown, or can't be built or run here
    │   └── WeightsError            missing, damaged, or of another network
    └── ProtocolError               an evaluation can't be done as asked
        └── CutoffError             a cutoff k outside the ranks that were retrieved
"""

import errno


class CbmirError(Exception):
    """Base of all errors that a user can cause; its text names the value, the place and the choices."""

    exit_code = 1


class StoreError(CbmirError):
    """The store can't be opened, read or written."""


class StoreLockedError(StoreError):
    """Another process holds the directory."""


class StoreKeyError(StoreError):
    """A server refuses the key, or it may not do what was asked."""


class StoreUnreachableError(StoreError):
    """No server answers there, or it is too busy: the same may work later."""


class StoreDamagedError(StoreError):
    """Files of a collection are damaged, lost, or no longer what was written."""


class StoreFullError(StoreError):
    """No space is left on the disk of the store."""


def failed_writing(text: str, error: OSError) -> StoreError:
    """The error for a file of a store that can't be written."""
    return (StoreFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError)(text)


class CollectionError(StoreError):
    """A collection is missing, exists already, or has a name that can't be used."""


class FingerprintError(CbmirError):
    """Vectors of one encoder meet a collection of another."""


class KeyFileError(CbmirError):
    """The key file of DICOM identifiers is missing, holds another key, or can't be used."""


class FilterError(CbmirError):
    """A filter names a field, an operator or a value that doesn't exist."""


class QueryError(CbmirError):
    """A query that can't be asked: it has no direction, or a weight is out of range."""


class RecordError(CbmirError):
    """An image record or a batch of vectors breaks a rule of the schema."""


class ImageError(CbmirError):
    """One image can't be used; ingest counts it and goes on."""


class SourceError(CbmirError):
    """A folder, table or embeddings file can't be read as what it was given for."""


class WorkerError(CbmirError):
    """Processes that decode images can't be started."""


class ThumbnailError(CbmirError):
    """Thumbnails can't be written, or their URL can't be used."""


class EncoderError(CbmirError):
    """An encoder is unknown, or can't be built or run here."""


class WeightsError(EncoderError):
    """Weights are missing, damaged, or belong to another network."""


class ProtocolError(CbmirError):
    """An evaluation can't be done as asked: no queries, no gallery, no labels."""


class CutoffError(ProtocolError):
    """A cutoff k lies outside the ranks that were retrieved."""


def one_line(said: BaseException | str) -> str:
    """What an error of a library says, or a text of its, without line breaks and cut at 300 signs.

    Of an error that says nothing it is the name of its class.
    """
    text = " ".join(str(said).split())[:300]
    return text or (type(said).__name__ if isinstance(said, BaseException) else "")
