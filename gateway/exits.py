"""How ``wake`` ends: its exit codes, and how a failure is said in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import MappingProxyType

from events import errors
from events.errors import Misconfigured, WakeError
from gateway.output import complain, flush, mute, put_json
from gateway.wording import one_line


class Exit(IntEnum):
    """What the exit code of ``wake`` says."""

    COMPLETED = 0
    FAILED = 1
    USAGE = 2
    LIMIT = 3
    WAITING = 4
    ENVIRONMENT = 5
    CANCELLED = 130
    TOLD_TO_END = 143


HELP = """\
Exit codes: 0 completed; 1 failed; 2 wrong usage or bad input; 3 ended by a
limit; 4 it waits (paused, or for an input or an event); 5 the environment must
change first (server, data folder, sandbox, key); 130 cancelled (Ctrl-C); 143
told to end (SIGTERM), to be resumed."""

CODES: MappingProxyType[type[WakeError], Exit] = MappingProxyType(
    {
        errors.WakeError: Exit.FAILED,
        errors.Refused: Exit.USAGE,
        errors.InvalidInput: Exit.USAGE,
        errors.NotFound: Exit.USAGE,
        errors.Deleted: Exit.USAGE,
        errors.AlreadyExists: Exit.USAGE,
        errors.NotAllowedNow: Exit.USAGE,
        errors.LimitReached: Exit.USAGE,
        errors.Stale: Exit.FAILED,
        errors.Obsolete: Exit.FAILED,
        errors.Retryable: Exit.FAILED,
        errors.Conflict: Exit.FAILED,
        errors.OutcomeUnknown: Exit.ENVIRONMENT,
        errors.Unavailable: Exit.ENVIRONMENT,
        errors.ModelUnavailable: Exit.FAILED,
        errors.ModelRefused: Exit.FAILED,
        errors.ToolFailed: Exit.FAILED,
        errors.Corrupt: Exit.ENVIRONMENT,
        errors.UnknownEvent: Exit.ENVIRONMENT,
        errors.TooLarge: Exit.USAGE,
        errors.Misconfigured: Exit.ENVIRONMENT,
        errors.ServerUnsuitable: Exit.ENVIRONMENT,
        errors.FolderInUse: Exit.ENVIRONMENT,
    }
)
"""The exit code of every error; a class that is not here has its base's."""


def exit_code(error: WakeError) -> Exit:
    """The exit code of an error."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


class Interrupted(Exception):
    """A signal ended the process before there was an execution, or a file."""

    def __init__(
        self, code: Exit, said: str = "interrupted before anything was started"
    ) -> None:
        super().__init__(said)
        self.code = code


@contextmanager
def told(*, as_json: bool) -> Iterator[None]:
    """End the process on a failure, said in one line and never as a traceback.

    With ``as_json`` the last line of stdout says it too. What is no failure of
    ours but a mistake in the program keeps its traceback.
    """
    try:
        yield
        flush()  # at the end of the interpreter nobody could say what is wrong
    except KeyboardInterrupt:
        _end(Exit.CANCELLED, "interrupted", "wake: interrupted", as_json=as_json)
    except Interrupted as error:
        _end(error.code, "interrupted", f"wake: {error}", as_json=as_json)
    except Exception as error:
        cause = cause_of(error)
        if isinstance(cause, BrokenPipeError):
            _leave_quietly()
        if not isinstance(cause, WakeError):
            raise
        several = type(cause) is Misconfigured  # a line for each mistake
        said_by_it = str(cause).splitlines() if several else [str(cause)]
        lines = [*said_by_it, *getattr(cause, "__notes__", ())]
        said = "\n".join(f"wake: {one_line(line)}" for line in lines)
        _end(exit_code(cause), cause.code, said, as_json=as_json)


def cause_of(error: BaseException) -> BaseException:
    """The first failure of ours in a group, else the error itself."""
    found = list(_leaves(error))
    ours = (e for e in found if isinstance(e, WakeError | BrokenPipeError))
    return next(ours, error)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _end(code: Exit, name: str, said: str, *, as_json: bool) -> None:
    with _heard_or_not():
        flush()
    complain(said)
    if as_json:
        message = said.removeprefix("wake: ").replace("\nwake: ", "; ")
        with _heard_or_not():
            put_json({"error": name, "message": message})
    raise SystemExit(int(code))


@contextmanager
def _heard_or_not() -> Iterator[None]:
    """Go on where stdout takes no more: the process ends by a failure anyway."""
    try:
        yield
    except Misconfigured:
        mute()


def _leave_quietly() -> None:
    """Nobody reads what we print: end as other programs do, without a word."""
    mute()
    raise SystemExit(1)
