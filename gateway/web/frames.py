"""A message in the form of a protocol: a websocket frame, or a server-sent event.

Written to the connection as they are: aiohttp would make them anew for each client.
"""

from struct import pack

from projections.hub import Frame

SHORT, MEDIUM = 126, 1 << 16
TEXT = 0x81
"""The first byte of a frame that is a whole text message (RFC 6455, section 5.2)."""


def websocket_text(text: bytes) -> bytes:
    """One unmasked text frame, as servers send them."""
    size = len(text)
    if size < SHORT:
        return pack("!BB", TEXT, size) + text
    if size < MEDIUM:
        return pack("!BBH", TEXT, 126, size) + text
    return pack("!BBQ", TEXT, 127, size) + text


def websocket(frame: Frame) -> bytes:
    """A message as a websocket frame."""
    return websocket_text(frame.text)


def event(kind: str, text: bytes, cursor: object) -> bytes:
    """One server-sent event; JSON has no line breaks."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (
        str(cursor).encode(),
        kind.encode(),
        text,
    )


def plain_event(frame: Frame) -> bytes:
    """A message as a server-sent event."""
    return event(frame.notice.kind, frame.text, frame.cursor)


def chunk(data: bytes) -> bytes:
    """A chunk of an HTTP/1.1 body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked_event(frame: Frame) -> bytes:
    """A message as a server-sent event, in a chunk."""
    return chunk(frame.shaped(plain_event))
