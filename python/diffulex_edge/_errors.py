"""What the C++ library's errors are in Python."""

from __future__ import annotations


class Error(RuntimeError):
    """An error of the library; its text is one line that says where, what, and what to do about it."""

    #: The name of the C++ library's `ErrorCode`.
    code: str = "Internal"
    #: The file, tensor, layer, configuration key or option that the error is about; may be empty.
    where: str
    #: What can be done about it; may be empty.
    advice: str

    def __init__(self, message: str, *, where: str = "", advice: str = "") -> None:
        super().__init__(message)
        self.where = where
        self.advice = advice


class InvalidArgumentError(Error, ValueError):
    """What was asked for makes no sense."""

    code = "InvalidArgument"


class BadFileError(Error):
    """An input file is missing, broken or contradictory."""

    code = "BadFile"


class UnsupportedError(Error, NotImplementedError):
    """Well-formed, but this build can't do it."""

    code = "Unsupported"


class OutputError(Error, OSError):
    """An output could not be written."""

    code = "Io"


class OutOfMemoryError(Error, MemoryError):
    """There was not enough memory."""

    code = "OutOfMemory"


class CancelledError(Error):
    """The caller stopped it."""

    code = "Cancelled"


class InternalError(Error):
    """A defect of this library."""

    code = "Internal"


_CLASSES: dict[str, type[Error]] = {
    error.code: error
    for error in (
        InvalidArgumentError,
        BadFileError,
        UnsupportedError,
        OutputError,
        OutOfMemoryError,
        CancelledError,
        InternalError,
    )
}


def of_code(code: str, message: str, where: str, advice: str) -> Error:
    """The exception of a C++ `Error`; called from `_core`."""
    return _CLASSES[code](message, where=where, advice=advice)
