"""What follows the paper's protocol, decided from a record's config and counts instead of believed.

protocols.json holds, for every version of every task, the default config and the sizes of the official
splits, and the keys of a detector's config that follow from the backbone's architecture. It needs no torch.
`python -m tools.write_protocols` writes it from the catalogue; earlier versions of a task stay in it.
"""

import functools
import json
from pathlib import Path
from typing import Any

from parallel.mappings import differences
from results.record import Result

PATH = Path(__file__).with_name("protocols.json")
# Settings that follow from the weights, as a network's architecture does: pictures are normalised as they
# were in its pretraining. Another value than the default is no departure.
OF_WEIGHTS = ("normalisation",)


def departures(result: Result) -> dict[str, list]:
    """Return {key: [paper's value, used value]} of a record; {} where it followed the paper's protocol.

    A task or a version of it that protocols.json does not have is {"protocol": [None, "NAME version N"]}.
    """
    known = protocols()
    protocol = known["tasks"].get(result.task, {}).get(str(result.version))
    if protocol is None:
        return {"protocol": [None, f"{result.task} version {result.version}"]}
    fitted = known["architectures"].get(result.arch, {}) if protocol["detects"] else {}
    if protocol["config"].get("image_size") == 0:  # what the weights' stem is made for, if we know that
        side = known["sides"].get(result.arch.partition("-")[2] or "imagenet")
        fitted = {"image_size": side} if side else {}
    return departing(protocol["config"] | fitted, result.config, protocol["counts"], result.data)


def departing(usual: dict, used: dict, counts: dict, data: dict) -> dict[str, list]:
    """Return {key: [paper's value, used value]} of two configs, and as "data.<key>" of the numbers of images
    and of what a record's data says of pixels that are not the official ones. counts: {} of a task on data of
    one's own, which has no official numbers."""
    used = used | {key: usual[key] for key in OF_WEIGHTS if key in usual and key in used}
    found = (data["counts"] if counts else {}) | ({"pixels": data["pixels"]} if "pixels" in data else {})
    return differences(usual, used) | {
        f"data.{key}": pair for key, pair in differences(counts, found).items()}


@functools.cache
def protocols() -> dict[str, Any]:
    """Return the content of protocols.json."""
    return json.loads(PATH.read_text("utf-8"))
