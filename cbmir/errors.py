"""Every error a user can cause.

A command prints the message as one line on stderr and leaves with the exit code of the class; see ``docs/guide.md``.
"""


class CbmirError(Exception):
    """Base of all errors that a user can cause; its text names the value, the place and the choices."""

    exit_code = 1


class StoreError(CbmirError):
    """The store can't be opened, read or written."""


class StoreLockedError(StoreError):
    """Another process holds the directory."""


class CollectionError(StoreError):
    """A collection is missing, exists already, or has a name that can't be used."""


class FingerprintError(CbmirError):
    """Vectors of one encoder meet a collection of another."""


class FilterError(CbmirError):
    """A filter names a field, an operator or a value that doesn't exist."""


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
