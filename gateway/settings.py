"""What an operator can set: each option with its meaning, limits and default.

These structs are the one place where an option is written down; its variable,
its flag, the complaints about it and ``docs/configuration.md`` follow from them.
Seconds are real seconds, paths are as the operator wrote them.
"""

import re
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from events.errors import InvalidInput
from events.names import LANES, MOST_ADMITTED, check_id
from events.spec import Lane

HIDDEN: Final = "***"
"""Stands for a secret wherever a person could read it."""


_SCHEME = re.compile("[a-z]+://")
_ADDRESS = re.compile(
    r"(?:(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9.-]+)):)?(?P<port>[0-9]{1,5})"
)
_LAST_PORT = 65535
_ORIGIN = re.compile(
    r"https?://(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
)
_TIME = re.compile("(?:[01][0-9]|2[0-3]):[0-5][0-9]")


class Secret:
    """A text that is never printed: only ``reveal`` gives it."""

    __slots__ = ("_text",)
    allowed: ClassVar[str] = "one line of text"

    def __init__(self, text: str) -> None:
        if not text:
            raise ValueError
        self._text = text

    def reveal(self) -> str:
        """The text itself, for whoever has to send it."""
        return self._text

    def __repr__(self) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.reveal() == self._text

    def __hash__(self) -> int:
        return hash(self._text)


class Token(str):
    """A name that can be part of a subject."""

    __slots__ = ()
    allowed: ClassVar[str] = "1 to 64 of A-Z a-z 0-9 _ -"

    def __new__(cls, text: str) -> Self:
        """Raise ValueError for what is no token."""
        try:
            return super().__new__(cls, check_id(text))
        except InvalidInput as error:
            raise ValueError from error


class Url(str):
    """A URL with a host; its repr leaves out user and password."""

    __slots__ = ()
    schemes: ClassVar[tuple[str, ...]]
    allowed: ClassVar[str]

    def __new__(cls, text: str) -> Self:
        """Raise ValueError for what is no URL of these schemes."""
        parts = urlsplit(text)
        good = parts.scheme in cls.schemes and parts.hostname and parts.port != 0
        if not good or " " in text:
            raise ValueError
        return super().__new__(cls, text)

    @property
    def userinfo(self) -> str:
        """What stands before the host: ``USER:PASSWORD``, a token, or nothing."""
        return urlsplit(self).netloc.rpartition("@")[0]

    def __repr__(self) -> str:
        return repr(public(self))


class NatsUrl(Url):
    """Where a nats-server listens."""

    __slots__ = ()
    schemes: ClassVar[tuple[str, ...]] = ("nats", "tls")
    allowed: ClassVar[str] = "an address as nats://HOST:PORT or tls://HOST:PORT"


class HttpUrl(Url):
    """Where an HTTP server listens."""

    __slots__ = ()
    schemes: ClassVar[tuple[str, ...]] = ("http", "https")
    allowed: ClassVar[str] = "an address as http://HOST:PORT or https://HOST:PORT"


class Listen(str):
    """Where to listen: ``host`` and ``port``; a port alone is for this machine only."""

    __slots__ = ("host", "port")
    allowed: ClassVar[str] = "an address as HOST:PORT, or a port, on 127.0.0.1"
    host: str
    port: int

    def __new__(cls, text: str) -> Self:
        """Raise ValueError for what is no address."""
        found = _ADDRESS.fullmatch(text)
        if not found or int(found["port"]) > _LAST_PORT:
            raise ValueError
        self = super().__new__(cls, text)
        self.host = found["v6"] or found["host"] or "127.0.0.1"
        self.port = int(found["port"])
        return self


class TimeOfDay(str):
    """A time of every day."""

    __slots__ = ()
    allowed: ClassVar[str] = "a time of day as HH:MM"

    def __new__(cls, text: str) -> Self:
        """Raise ValueError for what is no time."""
        if not _TIME.fullmatch(text):
            raise ValueError
        return super().__new__(cls, text)

    @property
    def hour(self) -> int:
        """From 0 to 23."""
        return int(self[:2])

    @property
    def minute(self) -> int:
        """From 0 to 59."""
        return int(self[3:])


def public(url: str) -> str:
    """``url`` without user and password, even if it is no good URL."""
    before, at, host = url.rpartition("@")
    scheme = _SCHEME.match(before)
    return f"{scheme[0] if scheme else ''}{HIDDEN}@{host}" if at else url


class Nats(msgspec.Struct, frozen=True, kw_only=True):
    """Where the log is."""

    url: Annotated[
        NatsUrl | None,
        Meta(
            description="The nats-server to use; of a cluster, any of its servers. "
            "Without it, wakestream runs a server of its own on the data folder."
        ),
    ] = None
    user: Annotated[
        str,
        Meta(min_length=1, description="Who logs in there, if there is a password."),
    ] = "wake"
    password: Annotated[
        Secret | None,
        Meta(
            description="The password of `nats.user`. It is a variable, or stands in "
            "a file of its own, see `nats.password_file`."
        ),
    ] = None
    password_file: Annotated[
        Path | None,
        Meta(description="A file with nothing but the password of `nats.user`."),
    ] = None
    system_user: Annotated[
        str,
        Meta(
            min_length=1,
            description="Who logs in to the system account, if there is a password.",
        ),
    ] = "system"
    system_password: Annotated[
        Secret | None,
        Meta(
            description="The password of `nats.system_user`. With it the reactor hears "
            "at once of a runner that is gone; without, its lease has to run out."
        ),
    ] = None
    system_password_file: Annotated[
        Path | None,
        Meta(description="A file with nothing but the password of `nats.system_user`."),
    ] = None
    janitor_user: Annotated[
        str,
        Meta(
            min_length=1,
            description="Who logs in to delete, if there is a password: then only "
            "this user needs to be allowed to.",
        ),
    ] = "janitor"
    janitor_password: Annotated[
        Secret | None,
        Meta(
            description="The password of `nats.janitor_user`. Without it, `nats.user` "
            "deletes what is old."
        ),
    ] = None
    janitor_password_file: Annotated[
        Path | None,
        Meta(
            description="A file with nothing but the password of `nats.janitor_user`."
        ),
    ] = None
    gateway_user: Annotated[
        str,
        Meta(
            min_length=1,
            description="Who the gateway logs in as, if there is a password: then only "
            "this user needs to be allowed to vouch for others.",
        ),
    ] = "gateway"
    gateway_password: Annotated[
        Secret | None,
        Meta(
            description="The password of `nats.gateway_user`. Without it, the gateway "
            "is `nats.user`."
        ),
    ] = None
    gateway_password_file: Annotated[
        Path | None,
        Meta(
            description="A file with nothing but the password of `nats.gateway_user`."
        ),
    ] = None
    replicas: Annotated[
        Literal[1, 3, 5],
        Meta(
            description="How many servers of a cluster keep the log. It survives the "
            "loss of fewer than half of them."
        ),
    ] = 1

    @property
    def login(self) -> tuple[str, str] | tuple[None, None]:
        """User and password to log in with, or neither."""
        if self.password is None:
            return None, None
        return self.user, self.password.reveal()

    @property
    def system_login(self) -> tuple[str, str] | None:
        """User and password of the system account, if it is known."""
        if self.system_password is None:
            return None
        return self.system_user, self.system_password.reveal()

    @property
    def janitor_login(self) -> tuple[str, str] | tuple[None, None]:
        """User and password of who deletes."""
        if self.janitor_password is None:
            return self.login
        return self.janitor_user, self.janitor_password.reveal()

    @property
    def gateway_login(self) -> tuple[str, str] | tuple[None, None]:
        """User and password of who vouches for others."""
        if self.gateway_password is None:
            return self.login
        return self.gateway_user, self.gateway_password.reveal()


class Runner(msgspec.Struct, frozen=True, kw_only=True):
    """How a runner works on executions."""

    lanes: Annotated[
        tuple[Lane, ...],
        Meta(min_length=1, description="The lanes that it takes work from."),
    ] = LANES
    concurrency: Annotated[
        int,
        Meta(ge=1, le=1024, description="Executions worked on at once."),
    ] = 64
    lease: Annotated[
        float,
        Meta(
            ge=1,
            le=3600,
            description="Seconds after which the work of a runner that says nothing "
            "is given to another. The same for all runners of a lane.",
        ),
    ] = 30.0
    name: Annotated[
        Token | None,
        Meta(
            description="What it is called in histories, different for each runner. "
            "Without it: host name and process id.",
        ),
    ] = None
    drain: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="Seconds that work in hand may take when the runner is told "
            "to end; then it is given back.",
        ),
    ] = 5.0
    cancel_grace: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="Seconds that a cancel waits for the model call or the tools "
            "in flight; then they are cut short.",
        ),
    ] = 10.0


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """When a process that serves ends by itself, to be started anew by a supervisor."""

    time_limit: Annotated[
        Annotated[float, Meta(ge=1, le=31_536_000)] | None,
        Meta(
            description="Seconds after which it takes nothing new, drains and ends "
            "with 0; up to a tenth less by chance, so that several do not end at once.",
        ),
    ] = None
    memory_limit: Annotated[
        Annotated[int, Meta(ge=1, le=1_048_576)] | None,
        Meta(
            description="MiB of resident memory of the process itself from which on it "
            "does the same.",
        ),
    ] = None


class Logs(msgspec.Struct, frozen=True, kw_only=True):
    """Log lines."""

    days: Annotated[
        int,
        Meta(ge=1, le=3650, description="Days that log lines of executions are kept."),
    ] = 7
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="The least level that is written."),
    ] = "info"
    format: Annotated[
        Literal["json", "text"],
        Meta(description="How lines on stderr look: for programs, or for people."),
    ] = "json"


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long executions that ended are kept."""

    days: Annotated[
        Annotated[int, Meta(ge=1, le=36_500)] | None,
        Meta(
            description="Days after its end that an execution is kept, with all that "
            "belongs to it. With none, nothing is deleted by itself."
        ),
    ] = 30
    at: Annotated[
        TimeOfDay,
        Meta(description="When older ones are deleted, every day, in UTC."),
    ] = TimeOfDay("03:00")
    archive: Annotated[
        Path | None,
        Meta(
            description="A directory in which each history is kept as a file before it "
            "is deleted. Without it they are gone."
        ),
    ] = None


class Agents(msgspec.Struct, frozen=True, kw_only=True):
    """Agent types."""

    file: Annotated[
        Path | None,
        Meta(
            description="A TOML file of `[agents.NAME]` tables, which add agent types "
            "or change those that are built in."
        ),
    ] = None


class Schedules(msgspec.Struct, frozen=True, kw_only=True):
    """Recurring starts."""

    least_interval: Annotated[
        int,
        Meta(
            ge=1,
            le=86_400,
            description="Seconds that at least lie between two runs of a schedule.",
        ),
    ] = 1
    most: Annotated[
        int,
        Meta(ge=0, le=1000, description="Schedules that a user may have."),
    ] = 100


class TierLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a user of this tier may start."""

    concurrent: Annotated[
        Annotated[int, Meta(ge=1, le=MOST_ADMITTED)] | None,
        Meta(
            description="Executions that have not ended at a time, subagents left out. "
            "With none there is no limit."
        ),
    ] = None
    hourly: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None,
        Meta(
            description="Starts and retries within an hour, recurring ones among them. "
            "With none there is no limit."
        ),
    ] = None
    least_interval: Annotated[
        int,
        Meta(
            ge=1,
            le=86_400,
            description="Seconds that at least lie between two runs of a schedule, if "
            "`schedules.least_interval` is not more.",
        ),
    ] = 1
    schedules: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="Schedules that a user may have, if `schedules.most` is not "
            "less.",
        ),
    ] = 100
    priority: Annotated[
        bool,
        Meta(
            description="Whether what they start goes into the lane `agents_priority`, "
            "which runners serve first, instead of its agent type's."
        ),
    ] = False


class LimitsOfTiers(msgspec.Struct, frozen=True, kw_only=True):
    """What users may start, by their tiers."""

    default_tier: Annotated[
        Literal["free", "pro", "enterprise"] | None,
        Meta(
            description="The tier of who comes over NATS, has no account and never had "
            "a token. With none they are not limited: right for a server of your own."
        ),
    ] = None
    free: TierLimits = TierLimits(
        concurrent=1, hourly=10, least_interval=600, schedules=5
    )
    pro: TierLimits = TierLimits(
        concurrent=5, hourly=100, least_interval=60, schedules=50
    )
    enterprise: TierLimits = TierLimits(concurrent=20, hourly=1000, priority=True)


class Workspaces(msgspec.Struct, frozen=True, kw_only=True):
    """The directories that agents work in."""

    root: Annotated[
        Path,
        Meta(
            description="Where an execution that names no directory gets one of its "
            "own. By default `workspaces` in the data folder."
        ),
    ] = Path(".wake/workspaces")
    allowed: Annotated[
        tuple[Path, ...],
        Meta(
            description="Directories that a command may name as workspace, they and "
            "all below; the user's own below `workspaces.root` it always may."
        ),
    ] = ()


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """How the commands of agents are confined."""

    mode: Annotated[
        Literal["required", "off"],
        Meta(
            description="With `required`, agents have no `bash` where it cannot be "
            "confined. With `off` nothing is confined; refused as root."
        ),
    ] = "required"


class Telemetry(msgspec.Struct, frozen=True, kw_only=True):
    """Traces."""

    otlp_endpoint: Annotated[
        HttpUrl | None,
        Meta(
            description="The OpenTelemetry collector (OTLP over HTTP) that traces are "
            "sent to. Without it there are none."
        ),
    ] = None


class Projector(msgspec.Struct, frozen=True, kw_only=True):
    """The read model."""

    file: Annotated[
        Path,
        Meta(
            description="The DuckDB file of the read model, on a disk of the machine "
            "that the projector runs on. It can be built anew from the log at any "
            "time. By default `readmodel.duckdb` in the data folder."
        ),
    ] = Path(".wake/readmodel.duckdb")


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers for Prometheus."""

    address: Annotated[
        Listen | None,
        Meta(
            description="Where a process that serves shows its numbers over HTTP, to "
            "whoever reaches it; each process needs one of its own. Without it nothing "
            "is counted."
        ),
    ] = None


class Origin(str):
    """A web page that may talk to the gateway, as browsers name it."""

    __slots__ = ()
    allowed: ClassVar[str] = "an origin as https://HOST or http://HOST:PORT"

    def __new__(cls, text: str) -> Self:
        """Raise ValueError for what no browser sends."""
        if not _ORIGIN.fullmatch(text):
            raise ValueError
        return super().__new__(cls, text)


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """The edge over HTTP."""

    listen: Annotated[
        Listen | None,
        Meta(
            description="Where the gateway listens. Without it there is none. On "
            "anything but loopback it needs `gateway.secret` or `gateway.jwks_file`."
        ),
    ] = None
    secret: Annotated[
        Secret | None,
        Meta(
            description="The secret that tokens are signed with (HS256), 32 bytes at "
            "least. Without it and without `gateway.jwks_file`, one is made in the "
            "data folder, for tokens by `wake token`."
        ),
    ] = None
    secret_file: Annotated[
        Path | None,
        Meta(description="A file with nothing but `gateway.secret`."),
    ] = None
    webhook_keys: Annotated[
        Secret | None,
        Meta(
            description="The key that webhooks are signed with (Standard Webhooks, "
            "`whsec_…`); several with blanks between them, while one is replaced. "
            "Without it webhooks are refused."
        ),
    ] = None
    webhook_keys_file: Annotated[
        Path | None,
        Meta(description="A file with nothing but `gateway.webhook_keys`."),
    ] = None
    jwks_file: Annotated[
        Path | None,
        Meta(
            description="A file with the public keys (JWKS) that tokens are signed "
            "with instead: RS256, ES256 or EdDSA, each key with its `kid`. It is read "
            "again when it changes. `gateway.secret` then only signs feed tokens."
        ),
    ] = None
    audience: Annotated[
        str,
        Meta(min_length=1, description="The `aud` that a token must have."),
    ] = "wakestream"
    issuer: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="The `iss` that a token must have, if any will not do."),
    ] = None
    origins: Annotated[
        tuple[Origin, ...],
        Meta(
            description="Web pages of other origins that may talk to the gateway from "
            "a browser. Its own always may."
        ),
    ] = ()
    timeout: Annotated[
        float,
        Meta(
            ge=1,
            le=600,
            description="Seconds that one request may take, its body included.",
        ),
    ] = 30.0
    drain: Annotated[
        float,
        Meta(
            ge=0,
            le=600,
            description="Seconds that requests in hand may take when the gateway is "
            "told to end.",
        ),
    ] = 10.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set."""

    data: Annotated[
        Path,
        Meta(
            description="The data folder: the log of the server that wakestream runs "
            "itself, and the workspaces."
        ),
    ] = Path(".wake")
    nats: Nats = Nats()
    runner: Runner = Runner()
    projector: Projector = Projector()
    process: Process = Process()
    logs: Logs = Logs()
    retention: Retention = Retention()
    agents: Agents = Agents()
    schedules: Schedules = Schedules()
    limits: LimitsOfTiers = LimitsOfTiers()
    workspaces: Workspaces = Workspaces()
    sandbox: Sandbox = Sandbox()
    telemetry: Telemetry = Telemetry()
    metrics: Metrics = Metrics()
    gateway: Gateway = Gateway()
