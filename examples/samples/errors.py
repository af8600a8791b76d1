"""What can go wrong while the sample set is made."""

from cbmir.errors import CbmirError


class SampleError(CbmirError):
    """The sample set can't be made; the message is one line and is all that the command prints."""


class FetchError(SampleError):
    """A package could not be fetched."""


class SourceError(SampleError):
    """A file of a source is missing or is not what the catalogue says."""


class SplitError(SampleError):
    """No assignment puts every class with two sources into both train and test."""
