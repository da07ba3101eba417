"""Blobs: strings that a commit has no room for, kept beside the log.

A commit that is too large is *packed*: its longest strings are taken out, one
after the other, until it fits. Each becomes a blob, named after its content.
What is left in its place is its beginning and a note, so that everybody can
decode the commit; who has the contents puts them back (*unpacks*). The chain
covers the packed commit, the SHA-256 in it the contents.
"""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from events.catalog import AnyEvent
from events.commit import SEAL_LENGTH, Blob, Commit, Recorded
from events.errors import Corrupt, TooLarge
from events.names import BLOBS, MAX_COMMIT, Key, blob_name

SMALLEST = 1024
"""Bytes of a string, encoded, that is worth a blob: to name one takes 200."""

LARGEST = 64 * 1024 * 1024
"""Bytes of a blob: each reader of the history holds it in memory."""

PREVIEW = 200
"""Characters of a string that are left in its place."""

_WIDEST = 6
"""Bytes of one character at most, as JSON writes a control character."""

_encode = msgspec.json.Encoder().encode


class _Events(msgspec.Struct):
    events: list[Any]


_decoder = msgspec.json.Decoder(_Events)


class _Leaf(NamedTuple):
    """A string in a tree: where it is, and its bytes when encoded."""

    inside: Any
    at: Any
    path: str
    size: int

    @property
    def text(self) -> str:
        """The string itself."""
        return str(self.inside[self.at])


def pack(commit: Commit, key: Key) -> tuple[Commit, dict[str, bytes]]:
    """Take out strings until it fits; returns it, and the contents by SHA-256.

    Raises TooLarge for what is made of too many small parts.
    """
    whole = _encode(commit)
    tree = _decoder.decode(whole).events
    excess = len(whole) + SEAL_LENGTH + len(',"blobs":[]') - MAX_COMMIT
    blobs, contents = [], {}
    for leaf in sorted(_strings(tree, ""), key=lambda leaf: -leaf.size):
        if excess <= 0:
            break
        content = leaf.text.encode()
        blob = _blob(leaf.path, content, key)
        preview = _preview(leaf.text, len(content))
        saved = leaf.size - len(_encode(preview)) - len(_encode(blob)) - 1
        if saved > 0:
            excess -= saved
            leaf.inside[leaf.at] = preview
            blobs.append(blob)
            contents[blob.sha256] = content
    if excess > 0:
        raise TooLarge(_too_large(key, len(whole)))
    return _with(commit, tree, tuple(blobs)), contents


def _too_large(key: Key, size: int) -> str:
    return (
        f"{key}: a commit of {size:,} bytes is larger than {MAX_COMMIT:,}, and made of "
        "too many small parts: only long strings can be kept beside it"
    )


def _blob(path: str, content: bytes, key: Key) -> Blob:
    if len(content) > LARGEST:
        raise TooLarge(
            f"{key}: a text of {len(content):,} bytes is larger than {LARGEST:,}"
        )
    digest = sha256(content).hexdigest()
    return Blob(path=path, sha256=digest, size=len(content))


def _preview(text: str, size: int) -> str:
    return f"{text[:PREVIEW]}[…: {size:,} bytes in {BLOBS}]"


def _strings(node: Any, path: str) -> Iterator[_Leaf]:
    """Every string below ``node`` that is worth a blob."""
    for at, value in _members(node):
        if isinstance(value, str):
            if len(value) * _WIDEST >= SMALLEST:
                size = len(_encode(value))
                if size >= SMALLEST:
                    yield _Leaf(node, at, f"{path}/{_token(at)}", size)
        elif isinstance(value, dict | list):
            yield from _strings(value, f"{path}/{_token(at)}")


def _members(node: Any) -> Iterator[tuple[Any, Any]]:
    return iter(node.items()) if isinstance(node, dict) else enumerate(node)


def _token(at: str | int) -> str:
    return str(at).replace("~", "~0").replace("/", "~1")


def unpack(recorded: Recorded, contents: Mapping[str, bytes | None]) -> Recorded:
    """Put the strings back; ``body`` stays as it is stored.

    ``contents`` are those of its blobs by SHA-256. Raises Corrupt if one is
    missing, or is not what was taken out.
    """
    tree = _decoder.decode(recorded.body).events
    texts = [(b, _text(recorded, b, contents)) for b in recorded.commit.blobs]
    try:
        for blob, text in texts:
            _put_back(tree, blob, text)
        whole = _with(recorded.commit, tree, ())
    except (LookupError, TypeError, ValueError, msgspec.ValidationError) as error:
        raise _corrupt(recorded, "it has no place for its blobs") from error
    return recorded._replace(commit=whole)


def _with(commit: Commit, tree: list[Any], blobs: tuple[Blob, ...]) -> Commit:
    events = msgspec.convert(tree, tuple[AnyEvent, ...])
    return msgspec.structs.replace(commit, events=events, blobs=blobs)


def _text(recorded: Recorded, blob: Blob, contents: Mapping[str, bytes | None]) -> str:
    content, name = contents.get(blob.sha256), blob_name(recorded.key, blob.sha256)
    if content is None:
        raise _corrupt(recorded, f"the blob {name} is missing or not whole")
    if len(content) != blob.size or sha256(content).hexdigest() != blob.sha256:
        raise _corrupt(recorded, f"the blob {name} is not what was stored")
    return content.decode()


def _put_back(tree: Any, blob: Blob, text: str) -> None:
    *way, last = blob.path.split("/")[1:]
    for token in way:
        tree = tree[_place(tree, token)]
    tree[_place(tree, last)] = text


def _place(node: Any, token: str) -> str | int:
    if isinstance(node, list):
        return int(token)
    return token.replace("~1", "/").replace("~0", "~")


def _corrupt(recorded: Recorded, what: str) -> Corrupt:
    return Corrupt(
        f"history of {recorded.key} is damaged at version {recorded.commit.version}: "
        f"{what}; restore {BLOBS} from a backup"
    )
