import json
import os
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.errors import Misconfigured
from events.names import LANES
from gateway.configuration import Loaded, describe, load
from gateway.options import OPTIONS, SECTIONS
from gateway.settings import Secret, Settings
from gateway.sources import (
    FILE,
    LARGEST_FILE,
    MOST_MISTAKES,
    VARIABLES,
)

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "configuration.md"
PASSWORD = "hunter2"  # noqa: S105 - it is looked for where it must not be


def settled(
    where: Path,
    text: str = "",
    environ: Mapping[str, str] | None = None,
    **flags: object,
) -> Loaded:
    """What is in force with such a file, environment and flags."""
    (where / FILE).write_bytes(text.encode())
    return load(
        {name.replace("__", "."): value for name, value in flags.items()},
        environ or {},
        where,
    )


def mistakes(
    where: Path,
    text: str = "",
    environ: Mapping[str, str] | None = None,
    **flags: object,
) -> list[str]:
    """What is said about such a file, environment and flags, line by line."""
    with pytest.raises(Misconfigured) as caught:
        settled(where, text, environ, **flags)
    return str(caught.value).split("\n")


# ── what is in force ─────────────────────────────────────────────────────────


def test_nothing_set(tmp_path: Path) -> None:
    """Without file, variables and flags everything is as the structs say."""
    loaded = load({}, {"PATH": "/bin", "AWAKE_X": "1"}, Path())
    assert loaded.settings == Settings()
    assert set(loaded.sources.values()) == {"default"}
    assert loaded.file is None
    assert load({}, {}, tmp_path).settings.data == tmp_path / ".wake"


def test_later_sources_win(tmp_path: Path) -> None:
    """Each source beats the ones before it, option by option, and says so."""
    text = "[runner]\nlease = 5\nconcurrency = 5\ndrain = 7\n\n[logs]\ndays = 3\n"
    environ = {"WAKE_RUNNER_LEASE": "6", "WAKE_RUNNER_CONCURRENCY": "6"}
    loaded = settled(tmp_path, text, environ, runner__lease=8.5, logs__days=None)
    runner = loaded.settings.runner
    assert (runner.lease, runner.concurrency, runner.drain) == (8.5, 6, 7.0)
    assert loaded.settings.logs.days == 3
    assert loaded.sources["runner.lease"] == "--runner-lease"
    assert loaded.sources["runner.concurrency"] == "WAKE_RUNNER_CONCURRENCY"
    assert loaded.sources["runner.drain"] == f"{FILE}:4"
    assert loaded.sources["logs.days"] == f"{FILE}:7"
    assert loaded.sources["logs.level"] == "default"
    assert loaded.file == tmp_path / FILE


EVERYTHING: dict[str, tuple[str, str, Any]] = {
    "data": ('"/var/lib/w"', "/var/lib/w", Path("/var/lib/w")),
    "nats.url": ('"tls://[::1]:4222"', "tls://[::1]:4222", "tls://[::1]:4222"),
    "nats.user": ('"ann"', "ann", "ann"),
    "nats.password": ("", PASSWORD, Secret(PASSWORD)),
    "nats.password_file": ("", "", None),
    "nats.system_user": ('"sys"', "sys", "sys"),
    "nats.system_password": ("", PASSWORD, Secret(PASSWORD)),
    "nats.system_password_file": ("", "", None),
    "nats.janitor_user": ('"jan"', "jan", "jan"),
    "nats.janitor_password": ("", PASSWORD, Secret(PASSWORD)),
    "nats.janitor_password_file": ("", "", None),
    "nats.gateway_user": ('"gate"', "gate", "gate"),
    "nats.gateway_password": ("", PASSWORD, Secret(PASSWORD)),
    "nats.gateway_password_file": ("", "", None),
    "nats.replicas": ("3", "3", 3),
    "runner.lanes": (
        '["agents_long", "agents"]',
        "agents_long, agents",
        ("agents_long", "agents"),
    ),
    "runner.concurrency": ("1024", "1024", 1024),
    "runner.lease": ("1", "1", 1.0),
    "runner.name": ('"r-1_A"', "r-1_A", "r-1_A"),
    "runner.drain": ("0", "0.0", 0.0),
    "runner.cancel_grace": ("2.5", "2.5", 2.5),
    "projector.file": ('"/srv/m.duckdb"', "/srv/m.duckdb", Path("/srv/m.duckdb")),
    "process.time_limit": ("86400", "86400", 86400.0),
    "process.memory_limit": ("512", "512", 512),
    "logs.days": ("1", "1", 1),
    "logs.level": ('"debug"', "debug", "debug"),
    "logs.format": ('"text"', "text", "text"),
    "retention.days": ("7", "7", 7),
    "retention.at": ('"23:59"', "23:59", "23:59"),
    "retention.archive": ('"/srv/a"', "/srv/a", Path("/srv/a")),
    "agents.file": ('"/etc/a.toml"', "/etc/a.toml", Path("/etc/a.toml")),
    "schedules.least_interval": ("60", "60", 60),
    "schedules.most": ("0", "0", 0),
    "limits.default_tier": ('"free"', "free", "free"),
    "limits.free.concurrent": ("2", "2", 2),
    "limits.free.hourly": ("1000000", "1000000", 1_000_000),
    "limits.free.least_interval": ("1", "1", 1),
    "limits.free.schedules": ("0", "0", 0),
    "limits.free.priority": ("true", "true", True),
    "limits.pro.concurrent": ("3", "3", 3),
    "limits.pro.hourly": ("4", "4", 4),
    "limits.pro.least_interval": ("86400", "86400", 86_400),
    "limits.pro.schedules": ("7", "7", 7),
    "limits.pro.priority": ("true", "true", True),
    "limits.enterprise.concurrent": ("1000", "1000", 1000),
    "limits.enterprise.hourly": ("5", "5", 5),
    "limits.enterprise.least_interval": ("2", "2", 2),
    "limits.enterprise.schedules": ("1000", "1000", 1000),
    "limits.enterprise.priority": ("false", "false", False),
    "workspaces.root": ('"/srv/w"', "/srv/w", Path("/srv/w")),
    "workspaces.allowed": ('["/a", "/b"]', "/a,/b", (Path("/a"), Path("/b"))),
    "sandbox.mode": ('"off"', "off", "off"),
    "metrics.address": ('"[::1]:9464"', "[::1]:9464", "[::1]:9464"),
    "telemetry.otlp_endpoint": (
        '"https://otel.example:4318/v1"',
        "https://otel.example:4318/v1",
        "https://otel.example:4318/v1",
    ),
    "gateway.listen": ('"0.0.0.0:80"', "0.0.0.0:80", "0.0.0.0:80"),
    "gateway.secret": ("", PASSWORD, Secret(PASSWORD)),
    "gateway.secret_file": ("", "", None),
    "gateway.webhook_keys": ("", PASSWORD, Secret(PASSWORD)),
    "gateway.webhook_keys_file": ("", "", None),
    "gateway.jwks_file": ('"/etc/k.json"', "/etc/k.json", Path("/etc/k.json")),
    "gateway.audience": ('"wake"', "wake", "wake"),
    "gateway.issuer": (
        '"https://id.example"',
        "https://id.example",
        "https://id.example",
    ),
    "gateway.origins": (
        '["https://a.example", "http://[::1]:80"]',
        "https://a.example, http://[::1]:80",
        ("https://a.example", "http://[::1]:80"),
    ),
    "gateway.timeout": ("600", "600", 600.0),
    "gateway.drain": ("0", "0.0", 0.0),
}


def value(loaded: Loaded, name: str) -> Any:
    """The value in force of a dotted name."""
    return attrgetter(name)(loaded.settings)


def test_every_option_by_variable(tmp_path: Path) -> None:
    """Each option can be set by its own variable."""
    environ = {OPTIONS[n].variable: text for n, (_, text, _) in EVERYTHING.items()}
    loaded = settled(tmp_path, "", environ)
    assert {n: value(loaded, n) for n in OPTIONS} == {
        n: meant for n, (_, _, meant) in EVERYTHING.items()
    }
    assert loaded.sources == {n: o.variable for n, o in OPTIONS.items()}


def test_every_option_by_flag(tmp_path: Path) -> None:
    """Each option but a password can be a flag, typed or as text."""
    apart = ("nats.", "gateway.s", "gateway.w")
    given = {n: e for n, e in EVERYTHING.items() if not n.startswith(apart)}
    as_text = load({n: text for n, (_, text, _) in given.items()}, {}, tmp_path)
    as_typed = load({n: meant for n, (_, _, meant) in given.items()}, {}, tmp_path)
    assert as_text.settings == as_typed.settings
    assert {n: value(as_typed, n) for n in given} == {
        n: meant for n, (_, _, meant) in given.items()
    }
    assert all(as_text.sources[name] == OPTIONS[name].flag for name in given)


def test_every_option_in_the_file(tmp_path: Path) -> None:
    """Each option but a password can stand in the file, and its line is known."""
    written = {
        n: e for n, e in EVERYTHING.items() if e[0] and not n.startswith("nats.u")
    }
    lines = [f"{name} = {text}" for name, (text, _, _) in written.items()]
    lines.append('nats.url = "nats://h"')
    file = tmp_path / FILE
    loaded = settled(tmp_path, "\n".join(lines), config=file)
    for number, name in enumerate(written, 1):
        assert value(loaded, name) == written[name][2]
        assert loaded.sources[name] == f"{file}:{number}"


def test_a_file_that_merely_lies_here_cannot_lift_the_sandbox(tmp_path: Path) -> None:
    """Who can write a file here is not thereby trusted to run commands unconfined."""
    text = '[sandbox]\nmode = "off"\n'
    (wrong,) = mistakes(tmp_path, text)
    assert wrong.startswith(f'{FILE}:2: sandbox.mode = "off" counts only from a file')
    named = settled(tmp_path, text, config=tmp_path / FILE)
    assert named.settings.sandbox.mode == "off"


def test_empty_means_none(tmp_path: Path) -> None:
    """An empty value takes back what an earlier source said, where none is allowed."""
    text = '[nats]\nurl = "nats://h"\n[workspaces]\nallowed = ["/a"]\n'
    environ = {"WAKE_NATS_URL": "", "WAKE_WORKSPACES_ALLOWED": " "}
    loaded = settled(tmp_path, text, environ)
    assert loaded.settings.nats.url is None
    assert loaded.settings.workspaces.allowed == ()
    assert loaded.sources["nats.url"] == "WAKE_NATS_URL"
    assert mistakes(tmp_path, "", {"WAKE_DATA": ""}) == [
        "WAKE_DATA: data must be a path (with ~ written out), is ''"
    ]


def test_the_words_of_other_languages_are_no_values(tmp_path: Path) -> None:
    """A file may be called null; it is not taken for nothing."""
    loaded = settled(tmp_path, "", {"WAKE_AGENTS_FILE": "null"})
    assert loaded.settings.agents.file == tmp_path / "null"


def test_the_old_name_of_a_variable(tmp_path: Path) -> None:
    """WAKE_NATS stands for nats.url, but not beside its own variable."""
    loaded = settled(tmp_path, "", {"WAKE_NATS": "nats://h:1"})
    assert loaded.settings.nats.url == "nats://h:1"
    assert loaded.sources["nats.url"] == "WAKE_NATS"
    both = {"WAKE_NATS": "nats://h:1", "WAKE_NATS_URL": "nats://h:2"}
    assert mistakes(tmp_path, "", both) == [
        "WAKE_NATS: says the same as WAKE_NATS_URL: leave one of them out"
    ]


def test_paths_count_from_where_they_are_written(tmp_path: Path) -> None:
    """A path in a file counts from that file, any other from the directory."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "w.toml").write_text('agents.file = "a.toml"\ndata = "d"')
    environ = {"WAKE_WORKSPACES_ALLOWED": "x,/y", "WAKE_CONFIG": "etc/w.toml"}
    loaded = load({}, environ, tmp_path)
    assert loaded.settings.agents.file == tmp_path / "etc" / "a.toml"
    assert loaded.settings.workspaces.allowed == (tmp_path / "x", Path("/y"))
    assert loaded.settings.workspaces.root == tmp_path / "etc" / "d" / "workspaces"
    assert loaded.sources["workspaces.root"] == "default"
    assert loaded.sources["data"] == "etc/w.toml:2"


# ── the file ─────────────────────────────────────────────────────────────────


def test_which_file(tmp_path: Path) -> None:
    """The flag beats the variable, and either beats the file that lies there."""
    for name, days in ((FILE, 2), ("a.toml", 3), ("b.toml", 4)):
        (tmp_path / name).write_text(f"logs.days = {days}")
    environ = {"WAKE_CONFIG": "a.toml"}
    flags = {"config": tmp_path / "b.toml"}
    assert load({}, {}, tmp_path).settings.logs.days == 2
    assert load({}, environ, tmp_path).settings.logs.days == 3
    assert load(flags, environ, tmp_path).settings.logs.days == 4
    assert load(flags, {}, tmp_path).sources["logs.days"] == f"{flags['config']}:1"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is missing, a folder, a pipe, a loop is named, not waited for."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    said = {
        "absent": "absent: there is no such file (--config)",
        "folder": "folder: is not a regular file: name one",
        "pipe": "pipe: is not a regular file: name one",
        "/dev/zero": "/dev/zero: is not a regular file: name one",
        "loop": "loop: cannot be read: Too many levels of symbolic links",
        "folder/a/b": "folder/a/b: there is no such file (--config)",
        "": "--config: is empty: name a file, or leave it out",
    }
    for name, line in said.items():
        assert mistakes(tmp_path, config=name) == [line]
    with pytest.raises(Misconfigured, match=r"^absent: .* \(WAKE_CONFIG\)$"):
        load({}, {"WAKE_CONFIG": "absent"}, tmp_path)


def test_a_file_that_lies_there_but_leads_nowhere(tmp_path: Path) -> None:
    """A dangling link or a folder in the file's place is not passed over in silence."""
    (tmp_path / FILE).symlink_to("gone")
    with pytest.raises(Misconfigured, match="there is no such file"):
        load({}, {}, tmp_path)
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    with pytest.raises(Misconfigured, match="is not a regular file"):
        load({}, {}, tmp_path)


def test_a_file_from_another_system(tmp_path: Path) -> None:
    """A byte order mark and carriage returns change nothing, nor the line numbers."""
    loaded = settled(tmp_path, "\ufeff# ours\r\n[logs]\r\ndays = 3\r\n")
    assert loaded.settings.logs.days == 3
    assert loaded.sources["logs.days"] == f"{FILE}:3"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[logs]\ndays =\n", r"not valid TOML: Invalid value \(at line 2, column 7\)"),
        (b"a = 1\na = 2", "not valid TOML: Cannot overwrite a value"),
        (b"a = " + b"9" * 5_000, "not valid TOML: Exceeds the limit"),
        (b"a = " + b"[" * 15_000, "is nested too deep"),
        (b"a = " + b"{a=" * 5_000, "is nested too deep"),
        (b"#" * (LARGEST_FILE + 1), "is larger than 16 KiB"),
        ("[logs]".encode("utf-16"), r"is not UTF-8 text \(byte 1\)"),
        (b"\0", "not valid TOML"),
    ],
)
def test_what_is_no_toml(tmp_path: Path, content: bytes, said: str) -> None:
    """A damaged, huge or deeply nested file is refused in one line with the place."""
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(Misconfigured, match=rf"\A{FILE}: {said}[^\n]*\Z"):
        load({}, {}, tmp_path)


def test_many_parts_in_a_key(tmp_path: Path) -> None:
    """A key of thousands of parts is an unknown key like any other."""
    key = "runner." + ".".join("a" * 4_000)
    (line,) = mistakes(tmp_path, f"{key} = 1")
    assert line.startswith(f"{FILE}:1: runner.a: unknown key; did you mean ")


# ── mistakes ─────────────────────────────────────────────────────────────────


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    """Every mistake of every source is told, with its place and the way out."""
    text = """
concurrency = 4
"runner.lease" = 3
[runner]
concurency = 4
lanes = [
  "agents",  # days = 1
  "agentz",
]
[runers]
lease = 1
[logs]
level = "wran"
days = '7'
[zebra]
"""
    environ = {"WAKE_RUNER_LEASE": "3", "WAKE_RUNNER_LEASE": "0.9"}
    said = mistakes(tmp_path, text, environ, logs__days=0, logs__dayz=1)
    lanes = "agents, agents_long, agents_priority"
    tables = ", ".join(name for name in SECTIONS if "." not in name)
    assert said == [
        f"{FILE}:2: concurrency: unknown key; did you mean runner.concurrency?",
        f'{FILE}:3: "runner.lease": unknown key; did you mean runner.lease?',
        f"{FILE}:5: runner.concurency: unknown key; did you mean runner.concurrency?",
        (
            f"{FILE}:6: runner.lanes must be a list, not empty, each one of {lanes}, "
            "is ['agents', 'agentz']"
        ),
        f"{FILE}:10: [runers]: unknown table; did you mean runner?",
        f"{FILE}:13: logs.level must be one of debug, info, warning, error, is 'wran'",
        f"{FILE}:14: logs.days must be a whole number from 1 to 3650, is '7'",
        f"{FILE}:15: [zebra]: unknown table; there are {tables}",
        "WAKE_RUNER_LEASE: unknown variable; did you mean WAKE_RUNNER_LEASE?",
        "WAKE_RUNNER_LEASE: runner.lease must be a number from 1 to 3600, is '0.9'",
        "--logs-days: logs.days must be a whole number from 1 to 3650, is 0",
        "--logs.dayz: unknown option; did you mean logs.days?",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("data = 5", "data must be a path (with ~ written out), is 5"),
        ("data = '~/x'", "data must be a path (with ~ written out), is '~/x'"),
        ('data = "a\\u0000"', "data must be a path (with ~ written out), is 'a\\x00'"),
        ("runner = 5", "runner is a table: write [runner] and its keys below"),
        ("[[runner]]", "runner is a table: write [runner] and its keys below"),
        ("runner.lease = nan", "from 1 to 3600, is nan"),
        ("runner.lease = inf", "from 1 to 3600, is inf"),
        ("runner.lease = true", "from 1 to 3600, is true"),
        (f"runner.lease = 0x{'f' * 9_000}", "from 1 to 3600, is far too large"),
        ("runner.lease.x = 1", "from 1 to 3600, is a table"),
        ("runner.concurrency = 0", "a whole number from 1 to 1024, is 0"),
        ("runner.concurrency = 1025", "a whole number from 1 to 1024, is 1025"),
        ("runner.concurrency = 8.5", "a whole number from 1 to 1024, is 8.5"),
        ("runner.concurrency = 2024-01-01", "from 1 to 1024, is 2024-01-01"),
        ("runner.lanes = []", "is []"),
        ("runner.lanes = 'agents'", "is 'agents'"),
        (f"runner.lanes = [0x{'f' * 9_000}, [], {{}}]", "[far too large, a list, a t"),
        ("runner.lanes = ['agents', 'agents']", "has something twice, is ['agents', "),
        ("runner.name = 'a.b'", "must be 1 to 64 of A-Z a-z 0-9 _ -, or empty for no"),
        ('runner.name = "a\\n"', "must be 1 to 64 of A-Z a-z 0-9 _ -, or empty for no"),
        ("runner.drain = -1", "a number from 0 to 3600, is -1"),
        ("nats.replicas = 2", "nats.replicas must be one of 1, 3, 5, is 2"),
        ("limits.pro.priority = 1", "limits.pro.priority must be true or false, is 1"),
        ("nats.user = ''", "nats.user must be text, not empty, is ''"),
        ("nats.url = 'localhost:4222'", "must be an address as nats://HOST:PORT or "),
        ("nats.url = 'nats://h:99999'", "must be an address as nats://HOST:PORT or "),
        ("nats.url = 'nats://h:1,nats://i:1'", "must be an address as nats://HOST:P"),
        ("nats.url = 'nats://'", "must be an address as nats://HOST:PORT or tls://HO"),
        ("nats.url = 'nats://[::1'", "must be an address as nats://HOST:PORT or tls:"),
        ("telemetry.otlp_endpoint = 'nats://h'", "must be an address as http://HOST"),
        ("workspaces.allowed = '/srv'", "each a path (with ~ written out), is '/srv'"),
        ("workspaces.allowed = ['']", "each a path (with ~ written out), is ['']"),
        (
            "agents.explorer.x = 1",
            "agents.explorer: unknown key; did you mean agents.f",
        ),
    ],
)
def test_wrong_values(tmp_path: Path, line: str, said: str) -> None:
    """A value that is not allowed is refused, with what is allowed and what it is."""
    (told,) = mistakes(tmp_path, line)
    assert told.startswith(f"{FILE}:1: ")
    assert said in told
    assert told.isprintable()


def test_text_that_is_no_number(tmp_path: Path) -> None:
    """What a variable says is held to the same rules, written as plain numbers."""
    for text in ("", " 4", "4 4", "0x10", "1_0", "four", "true", "9" * 5_000, "\udcff"):
        (line,) = mistakes(tmp_path, "", {"WAKE_RUNNER_CONCURRENCY": text})
        assert line.startswith(
            "WAKE_RUNNER_CONCURRENCY: runner.concurrency must be a whole number"
        )
        assert len(line) < 200


def test_a_flood_of_mistakes(tmp_path: Path) -> None:
    """More mistakes than anybody reads are counted, not listed."""
    text = "".join(f"x{number} = 1\n" for number in range(1_500))
    said = mistakes(tmp_path, text, {"WAKE_" + "X" * 100_000: "1"})
    assert len(said) == MOST_MISTAKES + 1
    assert said[-1] == f"and {1_501 - MOST_MISTAKES} more mistakes"
    assert max(map(len, said)) < 1_000


def test_a_hostile_name_is_one_printable_line(tmp_path: Path) -> None:
    """Nothing in a name can break the line or act on a terminal."""
    for line in mistakes(tmp_path, '"a\\n\\u001b[2J" = 1', {"WAKE_\x1b[2J\n": "1"}):
        assert line.isprintable()


# ── passwords ────────────────────────────────────────────────────────────────


def test_the_password_by_variable_or_file(tmp_path: Path) -> None:
    """A password comes by variable or from a file of its own, and can log in."""
    (tmp_path / "secret").write_bytes(PASSWORD.encode() + b"\r\n")
    by_variable = settled(tmp_path, "", {"WAKE_NATS_PASSWORD": PASSWORD})
    by_file = settled(tmp_path, '[nats]\nuser = "ann"\npassword_file = "secret"')
    assert by_variable.settings.nats.login == ("wake", PASSWORD)
    assert by_file.settings.nats.login == ("ann", PASSWORD)
    assert by_file.sources["nats.password"] == str(tmp_path / "secret")
    assert load({}, {}, Path()).settings.nats.login == (None, None)


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    """No password is in what is printed, logged or complained about."""
    environ = {
        "WAKE_NATS_PASSWORD": PASSWORD,
        "WAKE_TELEMETRY_OTLP_ENDPOINT": f"http://u:{PASSWORD}@h",
    }
    loaded = settled(tmp_path, "", environ)
    by_url = settled(tmp_path, "", nats__url=f"nats://u:{PASSWORD}@h:4222")
    shown = [f(x) for x in (loaded, by_url) for f in (repr, str, describe)]
    shown += [describe(x, as_json=True) for x in (loaded, by_url)]
    shown += [str(loaded.settings.nats.password), f"{loaded.settings.nats.password}"]
    wrong = (f"x://u:{PASSWORD}@h", f"u:{PASSWORD}@h", f"nats://u:a@{PASSWORD}@h:x")
    for url in wrong:
        shown += mistakes(tmp_path, f"nats.url = '{url}'")
        shown += mistakes(tmp_path, "", {"WAKE_NATS_URL": url}, nats__url=url)
    shown += mistakes(tmp_path, f"nats.url = ['nats://u:{PASSWORD}@h']")
    shown += mistakes(tmp_path, "", {"WAKE_NATS_PASWORD": PASSWORD})
    shown += mistakes(tmp_path, "", {"WAKE_NATS_PASSWORD": f"{PASSWORD}\n"})
    assert not [text for text in shown if PASSWORD in text]
    assert "nats://***@h:4222" in describe(by_url)


def test_a_password_where_others_can_read_it(tmp_path: Path) -> None:
    """A password in the file or on the command line is refused, with the way out."""
    hint = "set WAKE_NATS_PASSWORD, or name a file with nats.password_file"
    said = mistakes(tmp_path, f"nats.password = '{PASSWORD}'", nats__password=PASSWORD)
    assert [line.partition(": ")[0] for line in said] == [
        f"{FILE}:1",
        "--nats-password",
    ]
    assert all(line.endswith(hint) for line in said)
    (line,) = mistakes(tmp_path, f"nats.url = 'nats://u:{PASSWORD}@h'")
    assert line.endswith("leave them out, or set WAKE_NATS_URL instead")


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"two\nlines\n", b"\xff", b"a\0b", b"x" * 5_000]
)
def test_a_file_that_holds_no_password(tmp_path: Path, content: bytes) -> None:
    """A password file must hold one line, and what it holds is not told."""
    (tmp_path / "secret").write_bytes(content)
    (line,) = mistakes(tmp_path, 'nats.password_file = "secret"')
    assert line.startswith(f"{FILE}:1: nats.password_file: {tmp_path / 'secret'} ")
    assert "two" not in line


def test_a_password_file_that_is_none(tmp_path: Path) -> None:
    """A password file that is missing or a folder is named with its source."""
    for name, said in (("absent", "does not exist"), (".", "is not a regular file")):
        (line,) = mistakes(tmp_path, "", {"WAKE_NATS_PASSWORD_FILE": name})
        assert line.startswith("WAKE_NATS_PASSWORD_FILE: nats.password_file: ")
        assert said in line


@pytest.mark.parametrize(
    ("text", "environ", "said"),
    [
        (
            'nats.password_file = "secret"',
            {"WAKE_NATS_PASSWORD": "x"},
            (
                f"{FILE}:1: nats.password_file says what WAKE_NATS_PASSWORD says too: "
                "leave one out"
            ),
        ),
        (
            "",
            {"WAKE_NATS": "nats://u:p@h", "WAKE_NATS_PASSWORD": "x"},
            (
                "WAKE_NATS: nats.url holds a login, and WAKE_NATS_PASSWORD a password: "
                "leave one out"
            ),
        ),
        (
            'nats.password_file = "secret"',
            {"WAKE_NATS": "nats://token@h"},
            (
                f"WAKE_NATS: nats.url holds a login, and {FILE}:1 a password: "
                "leave one out"
            ),
        ),
        (
            'nats.user = "ann"',
            {},
            (
                f"{FILE}:1: nats.user needs a password: set WAKE_NATS_PASSWORD or "
                "nats.password_file"
            ),
        ),
        (
            "nats.replicas = 3",
            {},
            (
                f"{FILE}:1: nats.replicas needs a cluster: name one of its servers "
                "with nats.url"
            ),
        ),
    ],
)
def test_what_does_not_go_together(
    tmp_path: Path, text: str, environ: dict[str, str], said: str
) -> None:
    """Values that are fine alone but not together are refused."""
    (tmp_path / "secret").write_text(PASSWORD)
    assert mistakes(tmp_path, text, environ) == [said]


def test_the_environment_of_nats_conf(tmp_path: Path) -> None:
    """The variables that nats.conf asks for disturb no command beside it."""
    environ = {
        "WAKE_NATS_STORE": "/var/lib/wakestream",
        "WAKE_NATS_PASSWORD": PASSWORD,
        "WAKE_NATS_SYSTEM_PASSWORD": PASSWORD,
    }
    assert settled(tmp_path, "", environ).settings.nats.url is None


# ── what is printed ──────────────────────────────────────────────────────────


def test_described_as_a_table(tmp_path: Path) -> None:
    """The table has a line for each option, with its value and source."""
    loaded = settled(
        tmp_path,
        "runner.lanes = ['agents']",
        {"WAKE_NATS_PASSWORD": "x"},
        runner__lease=1234.56789,
    )
    head, *rows = describe(loaded).split("\n")
    assert head.split() == ["KEY", "VALUE", "SOURCE"]
    cells = {row.split()[0]: row.split()[1:] for row in rows}
    assert list(cells) == list(OPTIONS)
    assert cells["runner.lanes"] == ["agents", f"{FILE}:1"]
    assert cells["runner.lease"] == ["1234.56789", "--runner-lease"]
    assert cells["runner.drain"] == ["5", "default"]
    assert cells["nats.url"] == ["-", "default"]
    assert cells["nats.password"] == ["***", "WAKE_NATS_PASSWORD"]


def test_described_as_json(tmp_path: Path) -> None:
    """The JSON has typed values under the same keys, on one line."""
    loaded = settled(tmp_path, "", {"WAKE_NATS_PASSWORD": "x", "WAKE_DATA": "/d"})
    text = describe(loaded, as_json=True)
    told = json.loads(text)
    assert "\n" not in text
    assert list(told) == list(OPTIONS)
    assert told["data"] == {"value": "/d", "source": "WAKE_DATA"}
    assert told["nats.password"] == {"value": "***", "source": "WAKE_NATS_PASSWORD"}
    assert told["runner.lanes"]["value"] == list(LANES)
    assert told["runner.concurrency"]["value"] == 64
    assert told["agents.file"]["value"] is None


# ── anything at all ──────────────────────────────────────────────────────────

PIECES = st.sampled_from(
    [
        *OPTIONS,
        *SECTIONS,
        *(written for written, _, _ in EVERYTHING.values()),
        *"=[]{}.,\n#\"'\\\r\ufeff 1",
    ]
)


@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=20)))
def test_any_file(
    tmp_path_factory: pytest.TempPathFactory, content: bytes | list[str]
) -> None:
    """Any file is either taken or refused in printable lines, never a crash."""
    where = tmp_path_factory.getbasetemp()
    written = content if isinstance(content, bytes) else "".join(content).encode()
    (where / FILE).write_bytes(written)
    try:
        told = describe(load({}, {}, where)).split("\n")
    except Misconfigured as error:
        told = str(error).split("\n")
    assert all(map(str.isprintable, told))


@given(
    st.dictionaries(
        st.sampled_from([*VARIABLES, "WAKE_CONFIG"]) | st.text().map("WAKE_".__add__),
        st.text(alphabet=st.characters(), max_size=20),
        max_size=4,
    )
)
def test_any_environment(
    tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]
) -> None:
    """Any environment is either taken or refused in printable lines."""
    where = tmp_path_factory.getbasetemp()
    (where / FILE).unlink(missing_ok=True)
    try:
        told = describe(load({}, environ, where)).split("\n")
    except Misconfigured as error:
        told = str(error).split("\n")
    assert all(map(str.isprintable, told))


# ── tables in tables ─────────────────────────────────────────────────────────


def test_a_tier_is_a_table_in_the_table_of_limits(tmp_path: Path) -> None:
    """What it leaves out stays as it is for that tier; empty is no limit at all."""
    text = (
        '[limits]\ndefault_tier = "pro"\n\n[limits.pro]\nconcurrent = ""\nhourly = 7\n'
    )
    loaded = settled(tmp_path, text, {"WAKE_LIMITS_FREE_HOURLY": ""})
    limits = loaded.settings.limits
    assert limits.default_tier == "pro"
    assert (limits.pro.concurrent, limits.pro.hourly) == (None, 7)
    assert (limits.free.concurrent, limits.free.hourly) == (1, None)
    assert (limits.enterprise.concurrent, limits.enterprise.hourly) == (20, 1000)
    assert loaded.sources["limits.pro.hourly"] == f"{FILE}:6"
    assert loaded.sources["limits.default_tier"] == f"{FILE}:2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[limits.gold]\nhourly = 1", "[limits.gold]: unknown table"),
        ("[limits.free]\nmonthly = 1", "limits.free.monthly: unknown key"),
        ("[limits]\nfree = 3", "limits.free is a table: write [limits.free]"),
        ('["limits.free"]\nhourly = 1', '["limits.free"]: unknown table'),
        ("[limits.free]\nconcurrent = 0", "must be a whole number from 1 to 1000"),
        ("[limits.free]\nconcurrent = 1001", "must be a whole number from 1 to 1000"),
        ("[limits.free]\nhourly = 1e99", "must be a whole number from 1 to 1000000"),
        (f"[limits.free]\nhourly = {10**30}", "is far too large"),
        ('[limits]\ndefault_tier = "gold"', "must be one of free, pro, enterprise"),
        ("[limits.free.x]\nhourly = 1", "limits.free.x: unknown key"),
    ],
)
def test_a_wrong_tier_is_told_with_its_place(
    tmp_path: Path, text: str, said: str
) -> None:
    """One that there is not, and limits that nobody could keep."""
    (wrong,) = mistakes(tmp_path, text)
    assert wrong.startswith(f"{FILE}:")
    assert said in wrong
