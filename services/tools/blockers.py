"""Why bubblewrap cannot start here, and what a person can do about it."""

from pathlib import Path

NOT_INSTALLED = (
    "bubblewrap is not installed: apt install bubblewrap, "
    "or pip install 'wakestream[sandbox]'"
)

_SWITCHES = (
    ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
    (
        "kernel/unprivileged_userns_clone",
        "0",
        "sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "apt install bubblewrap with its AppArmor profile (apparmor-profiles)",
    ),
)
_NAMESPACE = ("namespace", "uid map", "operation not permitted", "loopback")
_PROC = ("mount proc", "mounting proc")


def reason_for(said: str, system: Path = Path("/proc/sys")) -> str:
    """One line for what bubblewrap ``said``; looks at the kernel's switches."""
    first = (said.strip() or "it said nothing").splitlines()[0][:300]
    return f"bubblewrap cannot start ({first}): {_remedy(first.lower(), system)}"


def _remedy(said: str, system: Path) -> str:
    if "setpriv" in said:
        return "apt install util-linux, or run as an ordinary user"
    if any(word in said for word in _PROC):
        return "in a container, run it with --security-opt systempaths=unconfined"
    for name, blocking, remedy in _SWITCHES:
        if _value(system / name) == blocking:
            return f"user namespaces are disabled here: {remedy}"
    if any(word in said for word in _NAMESPACE):
        return (
            "namespaces are forbidden: in a container, allow them (Docker: "
            "--security-opt seccomp=unconfined), or run outside of it"
        )
    return "run bwrap by hand to see why, or use a newer bubblewrap"


def _value(switch: Path) -> str:
    try:
        return switch.read_text().strip()
    except OSError:
        return ""
