import os
from pathlib import Path

import pytest

from events.errors import InvalidInput
from services.allowed import Allowed


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Directories to be named: an allowed one, the log in it, and one outside."""
    for name in (
        *("free/a/b", "free/.wake/store", "free/.wake/workspaces/ada/run-1"),
        *("free/.wake/workspaces/bob/run-2", "outside/secret", "free2"),
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "free/a/talk.jsonl").write_text("{}")
    (tmp_path / "outside/talk.jsonl").write_text("{}")
    (tmp_path / "free/leads-out").symlink_to(tmp_path / "outside")
    (tmp_path / "free/leads-in").symlink_to(tmp_path / "free/a")
    (tmp_path / "free/round").symlink_to(tmp_path / "free/round")
    (tmp_path / "also").symlink_to(tmp_path / "free")
    return tmp_path


@pytest.fixture
def allowed(place: Path) -> Allowed:
    """What an operator allows who serves in ``free``."""
    data = place / "free/.wake"
    return Allowed([place / "free"], own=data / "workspaces", closed=data)


@pytest.mark.parametrize(
    ("named", "real"),
    [
        ("free", "free"),
        ("free/a/b", "free/a/b"),
        ("free/a/../a/b/", "free/a/b"),
        ("free/leads-in/b", "free/a/b"),
        ("also/a", "free/a"),
        ("outside/../free/a", "free/a"),
        ("free/leads-out/../free", "free"),
        ("free/.wake/workspaces/ada/run-1", "free/.wake/workspaces/ada/run-1"),
    ],
)
def test_what_lies_within_is_named_by_its_real_path(
    place: Path, allowed: Allowed, named: str, real: str
) -> None:
    """However it is written."""
    path = f"{place}/{named}"
    assert allowed.workspace(path, "ada") == str((place / real).resolve())


@pytest.mark.parametrize(
    "named",
    [
        *("outside", "free2", "free/../outside", "free/a/../../outside/secret", ".."),
        *("free/leads-out", "free/leads-out/secret"),
        *("free/.wake", "free/.wake/store", "free/a/../.wake/store"),
        *("free/.wake/workspaces", "free/.wake/workspaces/bob/run-2"),
        *("free/.wake/workspaces/ada/../bob", "free/round", "/", "//etc"),
    ],
)
def test_what_lies_elsewhere_is_refused(
    place: Path, allowed: Allowed, named: str
) -> None:
    """Outside, through a link, the log, or another user's; workspace and cassette."""
    path = named if named.startswith("/") else f"{place}/{named}"
    with pytest.raises(InvalidInput) as refused:
        allowed.workspace(path, "ada")
    assert str(refused.value).isprintable()
    with pytest.raises(InvalidInput):
        allowed.model(f"cassette:{path}/talk.jsonl", "ada")


@pytest.mark.parametrize(
    "named",
    [
        *(
            "",
            ".",
            "a",
            "./free",
            "~",
            "~root",
            "free/a",
            "\0",
            "/\0",
            "a\nb",
            "\ud800",
        ),
        *("x" * 5_000, "/" + "x" * 300, "/" + "x/" * 3_000, "file:///etc"),
    ],
)
def test_what_is_no_absolute_path_is_refused(
    place: Path, allowed: Allowed, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative ones would depend on where the service was started."""
    monkeypatch.chdir(place / "free")
    with pytest.raises(InvalidInput) as refused:
        allowed.workspace(named, "ada")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 600


def test_what_is_missing_or_no_directory_is_refused(
    place: Path, allowed: Allowed
) -> None:
    """Within what is allowed it must be there, too."""
    for named in ("free/a/nix", "free/a/talk.jsonl"):
        with pytest.raises(InvalidInput, match="is no directory here"):
            allowed.workspace(f"{place}/{named}", "ada")


def test_a_directory_that_cannot_be_looked_at_is_refused(
    place: Path, allowed: Allowed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one is that another system user keeps to himself."""

    def denied(_path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", denied)
    with pytest.raises(InvalidInput, match="Permission denied"):
        allowed.workspace(f"{place}/free/a", "ada")


def test_only_models_that_read_a_file_are_bound(place: Path, allowed: Allowed) -> None:
    """A cassette becomes its real path; other names are nobody's business here."""
    assert allowed.model(f"cassette:{place}/also/leads-in/talk.jsonl", "ada") == (
        f"cassette:{place / 'free/a/talk.jsonl'}"
    )
    for name in ("scripted", "scripted?delay_ms=3", "openai:gpt-5", "x:/etc", ":", ""):
        assert allowed.model(name, "ada") == name


def test_a_cassette_outside_is_refused(place: Path, allowed: Allowed) -> None:
    """Also by a link, or relative."""
    for file in (
        *(f"{place}/outside/talk.jsonl", f"{place}/free/leads-out/talk.jsonl"),
        *("talk.jsonl", "/etc/passwd", "/proc/self/environ", "", "/dev/stdin"),
    ):
        with pytest.raises(InvalidInput, match="is not allowed"):
            allowed.model(f"cassette:{file}", "ada")


def test_without_directories_only_the_own_are_left(place: Path) -> None:
    """The message names none then."""
    own = place / "free/.wake/workspaces"
    nothing = Allowed([], own=own)
    assert nothing.workspace(str(own / "ada/run-1"), "ada")
    with pytest.raises(InvalidInput) as refused:
        nothing.workspace(str(place / "free"), "ada")
    assert "below one of" not in str(refused.value)
    assert "let the operator add it to workspaces.allowed" in str(refused.value)


def test_the_inmost_directory_decides(place: Path) -> None:
    """What an operator allows within the log or the workspaces is allowed."""
    data = place / "free/.wake"
    allowed = Allowed(
        [place / "free", data / "store", data / "workspaces/bob/run-2"],
        own=data / "workspaces",
        closed=data,
    )
    for inner in ("store", "workspaces/bob/run-2", "workspaces/ada/run-1"):
        assert allowed.workspace(str(data / inner), "ada") == str(data / inner)
    with pytest.raises(InvalidInput):
        allowed.workspace(str(data / "workspaces/bob"), "ada")


def test_relative_roots_are_those_of_the_start(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the process goes later."""
    monkeypatch.chdir(place)
    allowed = Allowed([Path("free")])
    os.chdir(place / "outside")
    assert allowed.workspace(f"{place}/free/a", "ada")
    with pytest.raises(InvalidInput):
        allowed.workspace(f"{place}/outside", "ada")
