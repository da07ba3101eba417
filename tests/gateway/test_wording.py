import pytest

from events.messages import Usage
from gateway import wording

HOSTILE = (
    "\x1b[2Jgone",
    "\x1b]0;title\x07",
    "\x9b31m",
    "a\x08b",
    "bell\x07",
    "line\rover",
    "\u202egnp.exe",
    "\u2066hidden\u2069",
    "\ud800",
    "del\x7f",
    "sep\u2028arator",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_acts_passes(text: str) -> None:
    """Escapes, controls, bidirectional marks and surrogates become replacements."""
    for shown in (
        wording.printable(text),
        wording.one_line(text),
        wording.short(text, 20),
        wording.arguments(text),
    ):
        assert shown.isprintable()
        shown.encode()


def test_what_is_harmless_stays() -> None:
    """Lines, letters of any script, emoji and wide spaces are kept."""
    text = "größer — 日本語 ✓\n\tindented\r\nnext\u00a0word 👩\u200d🔬"
    expected = "größer — 日本語 ✓\n    indented\nnext word 👩🔬"
    assert wording.printable(text) == expected


def test_a_short_text_says_that_it_was_cut() -> None:
    """The result never exceeds the width; an ellipsis marks the cut."""
    assert wording.short("a  b\nc", 10) == "a b c"
    assert wording.short("x" * 50, 10) == "x" * 9 + "…"
    assert len(wording.short("word " * 100_000, 30)) <= 30
    assert wording.short(" " * 1000 + "x", 5).endswith("…")


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("", ""),
        ("{}", ""),
        ('{"path": "src", "depth": 2}', "path=src depth=2"),
        ('{"command": "ls -l"}', 'command="ls -l"'),
        ('{"tasks": [1, 2, 3]}', "tasks=[3]"),
        ('{"path": ""}', 'path=""'),
        ('{"on": true, "none": null}', "on=true none=null"),
        ("[1]", "[1]"),
        ("no json", "no json"),
        ("[" * 100_000, "[" * 59 + "…"),
    ],
)
def test_arguments_are_told_shortly(raw: str, shown: str) -> None:
    """A JSON object reads as name=value; anything else as it came, cut."""
    assert wording.arguments(raw) == shown


def test_figures_read_well() -> None:
    """Times, tokens and money are told in units that fit their size."""
    assert wording.seconds(0.0042) == "4 ms"
    assert wording.seconds(1.25) == "1.2 s"
    assert wording.seconds(185) == "3 min 05 s"
    assert wording.tokens(Usage(input=1200, output=34)) == "1,200 + 34 tokens"
    assert wording.cost(0.0, 0) == "$0"
    assert wording.cost(0.5, 0) == "$0.5000"
    assert wording.cost(0.0, 2) == "cost unknown"
    assert wording.cost(0.5, 2) == "at least $0.5000"
    assert wording.moment(None) == "-"
