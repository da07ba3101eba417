import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from events.errors import Misconfigured, ToolFailed
from services.tools import sandbox as module
from services.tools.blockers import NOT_INSTALLED, reason_for
from services.tools.confinement import MAX_PROCESSES, NOBODY, Bubblewrap
from services.tools.sandbox import Sandbox, Unavailable, find_sandbox


@pytest_asyncio.fixture
async def sandbox() -> Sandbox:
    """A sandbox that starts: a machine without one fails these tests."""
    found = await find_sandbox()
    assert isinstance(found, Sandbox), found
    return found


@pytest_asyncio.fixture
async def root(tmp_path: Path, sandbox: Sandbox) -> AsyncIterator[Path]:
    """A workspace below a closed folder, as a home is, beside a secret."""
    home = tmp_path / "home"
    folder = home / "workspace"
    folder.mkdir(parents=True)
    home.chmod(0o700)
    (home / "secret").write_text("secret of the host")
    sandbox.adopt(folder)
    yield folder
    assert not _running(str(folder))


async def sh(sandbox: Sandbox, root: Path, script: str, seconds: float = 30) -> str:
    """What a script prints."""
    ended = await sandbox.run(root, script, key="call-1", seconds=seconds)
    return ended.output.text()


def _running(text: str) -> list[int]:
    """Processes of the host whose command line has ``text``."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and text in (entry / "cmdline").read_text():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _owners(text: str) -> set[int]:
    """The host's users of the shells that run ``text``."""
    found = [Path(f"/proc/{pid}") for pid in _running(text)]
    shells = [path for path in found if (path / "comm").read_text() == "bash\n"]
    return {path.stat().st_uid for path in shells}


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it is so; the test's time limit is the bound."""
    while not condition():  # noqa: ASYNC110 - of the host, which sets no event
        await asyncio.sleep(0.01)


async def test_a_command_works_in_its_workspace(sandbox: Sandbox, root: Path) -> None:
    """It starts there, by the host's path, and what it writes stays."""
    assert (
        await sh(sandbox, root, "pwd; echo kept > file; cat file") == f"{root}\nkept\n"
    )
    assert (root / "file").read_text() == "kept\n"


async def test_the_environment_is_not_ours(
    sandbox: Sandbox, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No variable of the runner is seen, not even of the first process inside."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    seen = await sh(sandbox, root, "env; cat /proc/*/environ | tr '\\0' '\\n'")
    assert "sk-secret" not in seen
    assert "WAKE_CALL_ID=call-1" in seen
    assert str(Path.cwd()) not in seen


@pytest.mark.parametrize(
    "script",
    [
        "cat /etc/shadow",
        "cat /etc/passwd",
        "ls /home",
        "ls /root/.ssh",
        "cat {root}/../secret",
        "ln -s {root}/../secret link && cat link",
        "cat /proc/1/root{root}/../secret",
        "cat /proc/1/cwd/../secret",
        "ls /proc/1/root/home",
        "find / -name secret -type f 2>/dev/null | grep secret",
        "for f in /proc/*/fd/*; do cat $f/../secret $f/secret; done 2>&- | grep .",
        "touch /usr/planted",
        "touch /etc/planted",
        "touch /planted",
        "touch /dev/planted",
        "touch {root}/../planted; test -e {root}/../secret",
        "mount -t tmpfs none /usr",
        "mount -o remount,rw /usr",
        "umount /proc/sys",
        "unshare -U true",
        "unshare -m true",
        "chroot / true",
        "cat /dev/mem",
        "cat /proc/kcore",
        "mknod null c 1 3 && cat null",
        "su root -c true",
        "echo 1 > /proc/sys/kernel/panic",
        "echo '|/tmp/x' > /proc/sys/kernel/core_pattern",
        "echo 1 > /proc/sysrq-trigger",
        "test -w /proc/sys/kernel/core_pattern",
        "kill -9 -1; kill -9 {pid}",
        "ls /proc/{pid}",
        "echo injected > /dev/tty",
        "ulimit -u 100000",
        "ulimit -f unlimited",
    ],
)
async def test_no_way_out(sandbox: Sandbox, root: Path, script: str) -> None:
    """Reading, writing, mounting, raising limits and signals all fail inside."""
    line = script.format(root=root, pid=os.getpid())
    ended = await sandbox.run(root, line, key="call-1", seconds=30)
    assert ended.code != 0, ended.output.text()
    assert "secret of the host" not in ended.output.text()
    assert not (root.parent / "planted").exists()


async def test_nobody_inside_is_the_hosts_root(sandbox: Sandbox, root: Path) -> None:
    """Not even the kernel takes a command for root, and it has no capability."""
    async with asyncio.TaskGroup() as group:
        running = group.create_task(
            sandbox.run(root, "read x < pipe", key="k", seconds=30)
        )
        os.mkfifo(root / "pipe")
        (root / "pipe").chmod(0o666)
        writer = await asyncio.to_thread(os.open, root / "pipe", os.O_WRONLY)
        expected = NOBODY if os.geteuid() == 0 else os.geteuid()
        owners = _owners("read x < pipe")
        os.close(writer)
        await running
    assert owners == {expected}
    status = await sh(sandbox, root, "cat /proc/self/status")
    assert "CapEff:\t0000000000000000" in status
    assert "CapBnd:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status


async def test_the_network_is_off(sandbox: Sandbox, root: Path) -> None:
    """Neither a service on loopback nor an abstract socket is reached."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        abstract.bind("\0wake-" + uuid4().hex)
        port = server.getsockname()[1]
        said = await sh(
            sandbox, root, f"echo > /dev/tcp/127.0.0.1/{port} && echo reached"
        )
        nets = await sh(sandbox, root, "cat /proc/net/unix /proc/net/dev")
    assert "reached" not in said
    assert "@wake-" not in nets
    assert "eth0" not in nets


async def test_other_processes_are_not_seen(sandbox: Sandbox, root: Path) -> None:
    """Only its own processes are in /proc."""
    seen = await sh(sandbox, root, "ls -d /proc/[0-9]* | wc -l")
    assert int(seen) < 8


async def test_a_fork_bomb_ends_at_the_limit(sandbox: Sandbox, root: Path) -> None:
    """Forks are refused at the limit, and all of them are gone afterwards."""
    mark = f"4{uuid4().int % 10**9}"
    bomb = f"for i in $(seq 400); do sleep {mark} & done"
    said = await sh(sandbox, root, f"sh -c '{bomb}'", 5)
    assert "fork" in said
    assert MAX_PROCESSES < 400
    await until(lambda: not _running(mark))


async def test_sandboxes_do_not_share_the_limit(sandbox: Sandbox, root: Path) -> None:
    """One that is full of processes takes none from another."""
    mark = f"4{uuid4().int % 10**9}"
    many = f"for i in $(seq 100); do sleep {mark} & done; touch full; wait"
    async with asyncio.TaskGroup() as group:
        full = group.create_task(sh(sandbox, root, many, 30))
        await until((root / "full").exists)
        other = await sh(
            sandbox, root, f"for i in $(seq 100); do sleep {mark} & done; echo fine"
        )
        full.cancel()
    assert other == "fine\n"
    await until(lambda: not _running(mark))


async def test_memory_and_files_are_bounded(sandbox: Sandbox, root: Path) -> None:
    """No process gets all memory; no file, and no tmpfs, all of the disk."""
    script = (
        "dd if=/dev/zero of=/dev/null bs=6G count=1; echo memory $?;"
        "head -c 300M /dev/zero > big; echo file $?;"
        "head -c 200M /dev/zero > /tmp/1 && head -c 200M /dev/zero > /tmp/2 &&"
        "head -c 200M /dev/zero > /tmp/3; echo tmp $?"
    )
    said = await sh(sandbox, root, script, 60)
    assert "memory 0" not in said
    assert "file 0" not in said
    assert "tmp 0" not in said
    assert (root / "big").stat().st_size <= 256 * 1024**2


async def test_a_large_output_is_drained_and_cut(sandbox: Sandbox, root: Path) -> None:
    """50 MB are counted; the beginning and the end are kept, little is held."""
    script = "echo start; yes | head -c 50000000; echo end"
    ended = await sandbox.run(root, script, key="k", seconds=60)
    text = ended.output.text()
    assert ended.output.total == 50_000_010
    assert len(text) < 48 * 1024
    assert text.startswith("start\n")
    assert text.endswith("end\n")
    assert len(ended.output._tail) < 200_000


TREE = (
    "setsid sleep {0} & (setsid sleep {0} &) ; trap '' TERM HUP; sleep {0} & "
    "setsid env -i bash -c 'sleep {0}' >/dev/null 2>&1 & disown -a; touch up; {1}"
)


async def test_the_whole_tree_ends_in_time(sandbox: Sandbox, root: Path) -> None:
    """When the time is up nothing goes on, not what called setsid either."""
    mark = f"4{uuid4().int % 10**9}"
    ended = await sandbox.run(
        root, TREE.format(mark, f"sleep {mark}"), key="k", seconds=1
    )
    assert ended.late
    await until(lambda: not _running(mark))


async def test_nothing_is_left_behind(sandbox: Sandbox, root: Path) -> None:
    """A command that ends takes its background along, and is not waited for."""
    mark = f"4{uuid4().int % 10**9}"
    ended = await sandbox.run(root, TREE.format(mark, "exit 3"), key="k", seconds=60)
    assert (ended.code, ended.late) == (3, False)
    await until(lambda: not _running(mark))


async def test_a_cancellation_ends_the_tree(sandbox: Sandbox, root: Path) -> None:
    """The tree is killed before the cancellation is felt."""
    mark = f"4{uuid4().int % 10**9}"
    task = asyncio.create_task(
        sh(sandbox, root, TREE.format(mark, f"sleep {mark}"), 60)
    )
    await until((root / "up").exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not _running(mark))


async def test_a_killed_runner_takes_its_commands_along(
    sandbox: Sandbox, root: Path
) -> None:
    """After kill -9 of the runner, nothing of the sandbox goes on."""
    assert sandbox.confined
    mark = f"4{uuid4().int % 10**9}"
    program = (
        "import asyncio, pathlib, sys\n"
        "from services.tools.sandbox import find_sandbox\n"
        "async def main():\n"
        "    sandbox = await find_sandbox()\n"
        "    root, script = pathlib.Path(sys.argv[1]), sys.argv[2]\n"
        "    await sandbox.run(root, script, key='k', seconds=600)\n"
        "asyncio.run(main())\n"
    )
    runner = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        str(root),
        TREE.format(mark, f"sleep {mark}"),
        env={**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])},
    )
    await until((root / "up").exists)
    runner.kill()
    await runner.wait()
    await until(lambda: not _running(mark))


async def test_descriptors_are_given_back(sandbox: Sandbox, root: Path) -> None:
    """Neither inside nor here is a descriptor left open."""
    seen = await sh(sandbox, root, "ls /proc/self/fd | wc -l")
    assert int(seen) <= 4
    before = _open_descriptors()
    await sh(sandbox, root, "true")
    assert _open_descriptors() <= before


async def test_a_closed_workspace_is_told(sandbox: Sandbox, tmp_path: Path) -> None:
    """Where commands may not write or enter, that is said, with the remedy."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o755)
    if os.geteuid() != 0:
        closed.chmod(0o500)
    assert not sandbox.may_write(closed)
    closed.chmod(0o000)
    with pytest.raises(ToolFailed, match="chown"):
        await sh(sandbox, closed, "true")
    closed.chmod(0o700)
    sandbox.adopt(closed)
    assert sandbox.may_write(closed)


@pytest.mark.parametrize("name", ["/", "/usr", "/etc", "/proc", "/dev"])
async def test_the_system_is_no_workspace(sandbox: Sandbox, name: str) -> None:
    """A workspace that holds the system would undo the sandbox."""
    with pytest.raises(ToolFailed, match="cannot be a workspace"):
        await sh(sandbox, Path(name), "true")


async def test_a_missing_bubblewrap_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without any bwrap there is a reason instead of a sandbox."""
    monkeypatch.setattr(module, "_candidates", list)
    assert await find_sandbox() == Unavailable(NOT_INSTALLED)


async def test_a_bubblewrap_that_fails_is_found_by_the_probe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A bwrap that cannot start, or is no program, gives one line."""
    broken = tmp_path / "bwrap"
    broken.write_text(
        "#!/bin/sh\necho 'bwrap: No permissions to create new namespace'\nexit 1"
    )
    for mode in (0o755, 0o644):
        broken.chmod(mode)
        monkeypatch.setattr(module, "_candidates", lambda: [Bubblewrap(broken)])
        found = await find_sandbox()
        assert isinstance(found, Unavailable)
        assert "\n" not in found.reason
        assert found.reason.startswith("bubblewrap cannot start")


@pytest.mark.parametrize(
    ("said", "switch", "remedy"),
    [
        ("bwrap: Creating new namespace failed: No space left on device",
         ("user/max_user_namespaces", "0"), "user.max_user_namespaces"),
        ("bwrap: No permissions to create new namespace",
         ("kernel/unprivileged_userns_clone", "0"), "unprivileged_userns_clone=1"),
        ("bwrap: setting up uid map: Permission denied",
         ("kernel/apparmor_restrict_unprivileged_userns", "1"), "AppArmor"),
        ("bwrap: No permissions to create new namespace", ("x", "0"), "seccomp"),
        ("bwrap: Can't mount proc on /newroot/proc", ("x", "0"), "systempaths"),
        ("setpriv: setresuid failed", ("x", "0"), "util-linux"),
        ("", ("x", "0"), "by hand"),
    ],
)  # fmt: skip
def test_every_known_blocker_has_a_remedy(
    tmp_path: Path, said: str, switch: tuple[str, str], remedy: str
) -> None:
    """The reason names the switch, or the option of the container."""
    (tmp_path / switch[0]).parent.mkdir(exist_ok=True)
    (tmp_path / switch[0]).write_text(switch[1] + "\n")
    reason = reason_for(said + "\nmore", tmp_path)
    assert remedy in reason
    assert "\n" not in reason


async def test_off_is_refused_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unconfined commands of root are never run; an ordinary user may choose so."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(Misconfigured, match="refused as root"):
        await find_sandbox("off")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = await find_sandbox("off")
    assert isinstance(found, Sandbox)
    assert not found.confined


async def test_off_still_ends_the_tree(tmp_path: Path) -> None:
    """Unconfined, what called setsid is found by its mark; limits still hold."""
    mark = f"4{uuid4().int % 10**9}"
    script = f"setsid sleep {mark} & (setsid sleep {mark} &); env; ulimit -c; wait"
    ended = await Sandbox(None).run(tmp_path, script, key="call-1", seconds=1)
    assert ended.late
    assert "WAKE_CALL_ID=call-1" in ended.output.text()
    await until(lambda: not _running(mark))
