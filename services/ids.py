"""Ids of executions: UUIDv7, so that they sort by the time they were made."""

import secrets
import uuid
from datetime import datetime


def new_id(now: datetime) -> str:
    """Return a UUIDv7 (RFC 9562, section 5.7) of the time ``now``."""
    milliseconds = int(now.timestamp() * 1000) & (1 << 48) - 1
    value = milliseconds << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 7 << 76  # version
    value = value & ~(0x3 << 62) | 2 << 62  # variant
    return str(uuid.UUID(int=value))
