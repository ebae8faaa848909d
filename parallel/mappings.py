"""How two flat dicts differ: configs, counts, settings. Needs no torch."""

from collections.abc import Mapping


def differences(paper: Mapping, used: Mapping) -> dict[str, list]:
    """Return {key: [paper value, used value]} where two flat dicts differ; a missing value is None."""
    if paper == used:
        return {}
    keys = sorted({*paper, *used})
    return {key: [paper.get(key), used.get(key)] for key in keys if paper.get(key) != used.get(key)}
