"""Errors of the service: each has its HTTP status and one line for people."""

from cbmir.errors import (
    CbmirError,
    CollectionError,
    EncoderError,
    FilterError,
    ImageError,
    QueryError,
    RecordError,
    StoreError,
)


class ServiceError(CbmirError):
    """A request that isn't answered.

    Attributes:
        status: HTTP status.
        retry_after_s: When to try again; None where that doesn't help.
    """

    def __init__(self, status: int, text: str, retry_after_s: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.status, str(self), self.retry_after_s)


class HiddenError(ServiceError):
    """An image that isn't stored, or that this user may not see: nobody can tell which."""

    def __init__(self, text: str = "no such image in this collection") -> None:
        super().__init__(404, text)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self),)


class BusyError(ServiceError):
    """More is asked than can be answered; the same will work later."""

    def __init__(self, text: str = "too many requests are waiting; try again", retry_after_s: int = 1) -> None:
        super().__init__(429, text, retry_after_s)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.retry_after_s)


class AwayError(ServiceError):
    """What holds the collections, or the store, doesn't answer now."""

    def __init__(self, text: str = "the store doesn't answer; try again", retry_after_s: int = 5) -> None:
        super().__init__(503, text, retry_after_s)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.retry_after_s)


def as_service(error: CbmirError, restricted: bool) -> ServiceError:
    """An error of the search as one that can be shown.

    Args:
        error: What was raised. Its text may name paths and stored values.
        restricted: Whether the user may see only some of the collection: then no text that names stored values is
            shown.
    """
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, FilterError):
        hidden = "the filter names a field, an operator or a value that can't be used here"
        return ServiceError(400, hidden if restricted else str(error))
    if isinstance(error, ImageError):
        text = str(error).removeprefix("image ")
        return ServiceError(413 if text.startswith("is too large") else 400, f"the image {text}")
    if isinstance(error, EncoderError | QueryError):
        return ServiceError(400, str(error))
    if isinstance(error, CollectionError | RecordError):
        return ServiceError(400, "the collection can't be asked that" if restricted else str(error))
    if isinstance(error, StoreError):
        return AwayError()  # its text names the place of the store
    return ServiceError(500, "an error of the service")
