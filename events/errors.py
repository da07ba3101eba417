"""Everything that can go wrong, as one tree.

::

    WakeError
    ├── Refused                 the request is wrong as it stands; final
    │   ├── InvalidInput          a value breaks its rule
    │   ├── NotFound              nothing of that name or id
    │   │   └── Deleted               there was, and retention deletes it
    │   ├── AlreadyExists         the id is taken by a different request
    │   ├── NotAllowedNow         the execution's status forbids it
    │   ├── LimitReached          as much was started as this user may
    │   └── Stale                 another attempt took over; drop what you hold
    │       └── Obsolete              nor is the work there to do: acknowledge it
    ├── Retryable               the same request may succeed later
    │   ├── Conflict              somebody appended first: read and decide again
    │   ├── OutcomeUnknown        the log did not say whether it stored the append
    │   ├── Unavailable           the server or the log cannot be reached
    │   └── ModelUnavailable      the provider is busy, slow or down
    ├── ModelRefused            the provider will not answer this request; final
    ├── ToolFailed              told to the model, never fatal
    ├── Corrupt                 a history has a gap or a broken chain; final
    ├── UnknownEvent            written by a newer version; upgrade
    ├── TooLarge                a commit does not fit the log; final
    └── Misconfigured           the environment must be changed first; final
        ├── ServerUnsuitable      nats-server too old, or without JetStream
        └── FolderInUse           one user of a data folder at a time

A class's docstring is its default message. ``final`` says whether asking
again in the same way can help; ``code`` is the name that programs match.
"""

import inspect
import re


class WakeError(Exception):
    """Something went wrong."""

    final: bool = True
    code: str = "error"

    def __init__(self, message: str = "") -> None:
        super().__init__(message or inspect.cleandoc(self.__doc__ or ""))

    def __init_subclass__(cls) -> None:
        cls.code = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


class Refused(WakeError):
    """The request cannot be accepted."""


class InvalidInput(Refused):
    """A value is not what is allowed here."""


class NotFound(Refused):
    """There is nothing of that name."""


class Deleted(NotFound):
    """Its history is being deleted."""


class AlreadyExists(Refused):
    """That id belongs to a different request."""


class NotAllowedNow(Refused):
    """The execution's status does not allow this."""


class LimitReached(Refused):
    """This user may start no more now.

    ``retry_after``: seconds until that can change, or None; ``limit`` is the one
    that was reached.
    """

    def __init__(
        self, message: str = "", *, retry_after: float | None = None, limit: str = ""
    ) -> None:
        super().__init__(message)
        self.retry_after, self.limit = retry_after, limit


class Stale(Refused):
    """Another attempt holds this execution now."""


class Obsolete(Stale):
    """This work is no longer there to do, for nobody."""


class Retryable(WakeError):
    """This may succeed when tried again."""

    final = False


class Conflict(Retryable):
    """Another commit was appended first."""


class OutcomeUnknown(Retryable):
    """The log did not answer: the commit may or may not have been stored."""


class Unavailable(Retryable):
    """The server cannot be reached."""


class ModelUnavailable(Retryable):
    """The model provider cannot answer now.

    ``retry_after``: seconds the provider asked to wait, or None.
    """

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelRefused(WakeError):
    """The model provider will not answer this request."""


class ToolFailed(WakeError):
    """The tool could not do what was asked; the model is told."""


class Corrupt(WakeError):
    """A history has a gap or a broken chain."""


class UnknownEvent(WakeError):
    """The history has an event that this version does not know; upgrade wakestream."""


class TooLarge(WakeError):
    """A commit does not fit the log."""


class Misconfigured(WakeError):
    """The environment must be changed first."""


class ServerUnsuitable(Misconfigured):
    """This nats-server cannot hold the log."""


class FolderInUse(Misconfigured):
    """Another process uses this data folder."""
