"""Which model a name means."""

from pathlib import Path

from services.agents.cassette import Cassette
from services.agents.model import Model
from services.agents.scripted import Scripted


def open_model(name: str) -> Model:
    """The model of that name: ``scripted``, ``cassette:FILE`` or a provider's.

    Raises Misconfigured or InvalidInput when it cannot be had. The providers'
    libraries are imported only for a name of theirs: they take a second and
    100 MB, and most runners never need them.
    """
    if name == "scripted" or name.startswith("scripted?"):
        return Scripted.named(name)
    if name.startswith("cassette:"):
        return Cassette(Path(name.removeprefix("cassette:")))
    from services.agents.models import open_provider_model  # noqa: PLC0415 - see above

    return open_provider_model(name)
