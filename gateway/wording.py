"""Text on its way to a terminal: nothing in it may act, and it has to be short.

Models, tools and files write what they like; only printable characters pass.
"""

import json
import unicodedata
from datetime import datetime
from typing import Any

from events.messages import Usage

JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH NO-BREAK SPACE}"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """``text`` without control, bidirectional and other invisible characters.

    Line feeds stay; a carriage return before one goes.
    """
    text = text.replace("\r\n", "\n").replace("\t", "    ")
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(char: str) -> str:
    if char == "\n" or char.isprintable():
        return char
    if char in JOINERS:
        return ""
    return " " if unicodedata.category(char) == "Zs" else REPLACEMENT


def one_line(text: str) -> str:
    """``text`` as one printable line."""
    return " ".join(printable(text).split())


def short(text: str, width: int) -> str:
    """``text`` as one line of at most ``width`` characters."""
    line = one_line(text[: 8 * width])
    if len(line) <= width and len(text) <= 8 * width:
        return line
    return f"{line[: max(0, width - 1)]}…"


def arguments(raw: str, width: int = 60) -> str:
    """A call's arguments for a person: ``path=src depth=2``."""
    try:
        parsed = json.loads(raw or "{}")
    except (ValueError, RecursionError):
        return short(raw, width)
    if not isinstance(parsed, dict):
        return short(raw, width)
    share = max(12, width // max(1, len(parsed)))
    each = (f"{short(k, 20)}={_value(v, share)}" for k, v in parsed.items())
    return short(" ".join(each), width)


def _value(value: Any, width: int) -> str:
    if isinstance(value, list):
        return f"[{len(value)}]"
    if isinstance(value, str) and value.isprintable() and " " not in value:
        return short(value, width) or '""'
    return short(json.dumps(value, ensure_ascii=False), width)


def seconds(value: float) -> str:
    """A duration: ``4 ms``, ``1.2 s``, ``3 min 05 s``."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:  # noqa: PLR2004 - a minute
        return f"{value:.1f} s"
    return f"{int(value) // 60:,} min {int(value) % 60:02d} s"


def size(count: int) -> str:
    """A number of bytes: ``512 bytes``, ``1.2 KiB``, ``3.4 GiB``."""
    value, units = float(count), ("KiB", "MiB", "GiB", "TiB")
    if count < 1024:  # noqa: PLR2004 - no unit but bytes
        return f"{count} bytes" if count != 1 else "1 byte"
    for unit in units:
        value /= 1024
        if value < 999.95 or unit == units[-1]:  # noqa: PLR2004 - three digits at most
            break
    return f"{value:,.1f} {unit}"


def tokens(usage: Usage) -> str:
    """Tokens in and out: ``1,200 + 34 tokens``."""
    return f"{usage.input:,} + {usage.output:,} tokens"


def cost(dollars: float, unpriced: int) -> str:
    """What it cost, as far as the prices are known."""
    if not unpriced:
        return f"${dollars:.4f}" if dollars else "$0"
    return f"at least ${dollars:.4f}" if dollars else "cost unknown"


def moment(at: datetime | None) -> str:
    """A time in the zone of whoever reads it: ``2025-11-22 11:18:03``."""
    return "-" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
