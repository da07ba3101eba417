"""The numbers that a service shows, read as Prometheus does."""

import urllib.request


def read(url: str) -> dict[str, float]:
    """Get every sample by its name with labels."""
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - ours
        lines = response.read().decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}
