"""Models by name: ``provider:model``, any provider that pydantic-ai knows.

This file reads the name and the environment. What talks to a provider is
``providers.py``, and what translates is ``dialect.py``; both are imported with
the first model that is opened (a second, and 100 MB: a process that runs no
agents never pays for it).
"""

import importlib
import os
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from events.errors import InvalidInput, Misconfigured

if TYPE_CHECKING:
    from pydantic_ai.models import Model as PydanticModel

    from services.agents.providers import ProviderModel

SILENCE = 300.0
"""Seconds without a byte after which a provider counts as unavailable: models
that reason can be silent for minutes, an agent's own timeout is the usual end."""

_FAMILIES = {
    "gpt": "openai",
    "chatgpt": "openai",
    "o1": "openai",
    "o3": "openai",
    "o4": "openai",
    "claude": "anthropic",
    "gemini": "google",
    "grok": "xai",
    "mistral": "mistral",
    "deepseek": "deepseek",
    "llama": "ollama",
    "qwen": "ollama",
    "gemma": "ollama",
    "phi": "ollama",
}
"""Who serves a model, guessed from how its name begins."""

_PREFIXES = ("openai", "openai-chat", "anthropic", "google", "ollama", "vllm")
"""Providers that pydantic-ai's list of known models leaves out or may."""

_ALIKE = 0.75
"""So alike that a prefix is a misspelling, and not a model's name with a tag."""

_MEANS = {
    "KEY": "a key",
    "TOKEN": "a key",
    "URL": "an address",
    "ENDPOINT": "an address",
}
"""What a variable holds, by the last word of its name."""

_VARIABLE = re.compile(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)`")
_INSTALL = re.compile(r"`(pip install [^`]+)`")


def open_provider_model(name: str, *, silence: float = SILENCE) -> "ProviderModel":
    """The model called ``name``, ready to be asked; nothing is sent yet.

    The first call in a process imports for about a second: away from a running
    loop, use a thread. Every call opens a model of its own, to be closed with
    ``aclose``. Raises InvalidInput when the name is wrong, and Misconfigured
    when a package, a key or an address is missing.
    """
    _split(name)
    try:
        providers = importlib.import_module("services.agents.providers")
    except ModuleNotFoundError as error:
        raise Misconfigured(
            f"{name} needs: pip install 'wakestream[models]'"
        ) from error
    model: ProviderModel = providers.ProviderModel(name, _infer(name), silence)
    return model


def _split(name: str) -> tuple[str, str]:
    """Provider and model of ``name``; raises InvalidInput naming the right form."""
    provider, colon, model = name.partition(":")
    if not colon or not provider.strip():
        raise InvalidInput(f"{name!r} names no provider: {_advice(name)}")
    if not model.strip() or name != name.strip():
        raise InvalidInput(f"{name!r} names no model: write {provider}:MODEL")
    return provider, model


def _advice(name: str) -> str:
    name = name.strip(": ")
    for beginning, provider in _FAMILIES.items():
        if name.lower().startswith(beginning):
            return f"write {provider}:{name}"
    return f"write PROVIDER:MODEL, for example ollama:{name or 'qwen3'}"


def _infer(name: str) -> "PydanticModel":
    """pydantic-ai's model of that name, its complaints told in our words."""
    from httpx2 import InvalidURL  # noqa: PLC0415  # see the top
    from pydantic_ai.exceptions import UserError  # noqa: PLC0415  # see the top
    from pydantic_ai.models import infer_model  # noqa: PLC0415  # see the top

    _check_prefix(name)
    _check_blank_key(name)
    try:
        model = infer_model(name)
    except ImportError as error:
        raise Misconfigured(_missing_package(name, str(error))) from None
    except UserError as error:
        raise _complaint(name, error.message) from None
    except InvalidURL:
        raise _bad_address(name) from None
    _check_address(name, model)
    _check_key(name, model)
    return model


def _check_prefix(name: str) -> None:
    from pydantic_ai.models import known_model_names  # noqa: PLC0415  # see the top
    from pydantic_ai.providers import (  # noqa: PLC0415  # see the top
        infer_provider_class,
    )

    provider, model = _split(name)
    try:
        infer_provider_class(provider)
    except ImportError:
        return
    except ValueError:
        known = {known.partition(":")[0] for known in known_model_names()}
        prefixes = sorted(known.union(_PREFIXES))
        near = get_close_matches(provider, prefixes, n=1, cutoff=_ALIKE)
        right = f"write {near[0]}:{model}" if near else _advice(name)
        raise InvalidInput(f"{provider!r} is no provider: {right}") from None


def _check_blank_key(name: str) -> None:
    # OpenAI's client answers a blank key with an error of its own class.
    key = os.environ.get("OPENAI_API_KEY")
    asked = name.startswith(("openai:", "openai-chat:", "openai-responses:"))
    if asked and key is not None and not key.strip():
        raise Misconfigured(f"{name} needs a key: OPENAI_API_KEY is blank")


def _missing_package(name: str, message: str) -> str:
    found = _INSTALL.search(message)
    command = found[1] if found else "pip install 'wakestream[models]'"
    return f"{name} needs: {command}"


def _complaint(name: str, message: str) -> InvalidInput | Misconfigured:
    if message.startswith("Unknown model"):
        return InvalidInput(f"{name} is no model that can be talked to")
    variable = _VARIABLE.search(message)
    if variable is None:
        return Misconfigured(f"{name}: {message.partition(' To try ')[0]}")
    last = variable[1].rpartition("_")[2]
    return Misconfigured(
        f"{name} needs {_MEANS.get(last, 'a setting')}: set {variable[1]}"
    )


def _check_address(name: str, model: "PydanticModel") -> None:
    """An address that can never be reached is told now, not retried for hours."""
    if model.base_url is None:
        return
    try:
        url = urlsplit(model.base_url)
        good = url.scheme in {"http", "https"} and url.hostname and url.port != 0
    except ValueError:
        good = False
    if not good:
        raise _bad_address(name)


def _bad_address(name: str) -> Misconfigured:
    return Misconfigured(
        f"{name}: its address is no http:// or https:// URL;"
        f" correct {_stem(name)}_BASE_URL"
    )


def _check_key(name: str, model: "PydanticModel") -> None:
    """A key with, say, a newline from a file would fail in the HTTP client."""
    key = getattr(getattr(model, "client", None), "api_key", None)
    if isinstance(key, str) and not re.fullmatch(r"[!-~]*", key):
        raise Misconfigured(
            f"{name}: the key has a blank or a character that no key has;"
            f" correct {_stem(name)}_API_KEY"
        )


def _stem(name: str) -> str:
    return name.partition(":")[0].partition("-")[0].upper()
