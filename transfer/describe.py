"""What a weights file is and what is in it, for people; no code from the file is run.

    python transfer/describe.py bt.pth
    python transfer/describe.py moco_v2_800ep_pretrain.pth.tar --encoder key
    python transfer/describe.py bt.pth --data /data/imagenet     # and the effective rank of its features
    python transfer/describe.py bt.pth --json                    # the facts, for a script

A file that no reader takes is described as far as it goes, and so is one with NaN. Exit status 0 only if the
other commands would take the file; else 2, with the reason as one line on stderr.
"""
import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import json
import textwrap
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from parallel.collectives import local_device
from parallel.resnets import STEMS
from parallel.spectrum import joint_effective_rank
from transfer.classification import health
from transfer.classification.features import Pipeline
from transfer.classification.layouts import Samples
from transfer.request import Request
from transfer.settings import Context
from transfer.weights import inspection
from transfer.weights.architectures import Architecture, nearest
from transfer.weights.files import load, located, one_line
from transfer.weights.readers import READERS, Contents, checked, chosen_of, random_backbone, read, recognised
from transfer.weights.search import nearest_entries
from transfer.weights.states import flat

INDENT = 13
MOST = 20  # names listed of what else a file holds
# Sides of pictures in pixels, by stem: ImageNet's, CIFAR's, Tiny ImageNet's and CIFAR's
SIDES = {"imagenet": 224, "cifar": 32, "small": 64, "solo": 32}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Say what a weights file is and what is in it")
    parser.add_argument("weights", help="checkpoint")
    parser.add_argument("--format", help=f"layout of the checkpoint, if not recognised: {', '.join(READERS)}")
    parser.add_argument("--encoder", "--prefix",
                        help="which encoder, where the checkpoint holds two (docs/weights.md)")
    parser.add_argument("--stem", choices=STEMS, help="of the network, where the file does not say it")
    parser.add_argument("--data", type=Path, metavar="FOLDER",
                        help="pictures, with or without labels: print the effective rank of their features")
    parser.add_argument("--image-size", type=int, metavar="S",
                        help="side of these pictures in pixels (default: 224; with the stems cifar and "
                             "solo 32, with small 64)")
    parser.add_argument("--json", action="store_true", help="print the facts as one JSON object")
    options = parser.parse_args(arguments)
    try:
        if options.json and options.data:
            raise ValueError("--json: expected no --data with it; leave one of them out")
        if options.image_size is not None and not 16 <= options.image_size <= 1024:
            raise ValueError(f"--image-size: expected 16 to 1024 pixels, found {options.image_size}")
        raw, sha256 = load(options.weights)
        pictures = options.data and health.pictures(options.data)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    contents, chosen, state, arch, reason = _found(raw, sha256, options)
    path = located(options.weights)
    rows = _origin(path, raw, sha256, contents, chosen) + _health(raw, state, arch)
    if options.json:
        print(json.dumps({"file": str(path), **dict(rows), "refused": reason and one_line(reason)}, indent=1))
    else:
        print("\n".join([str(path), *_lines(rows, state)]))
    if reason is None and pictures:
        try:
            print("\n".join(_rank(pictures, options)))
        except ValueError as error:  # a damaged picture
            reason = error
    if reason is not None:
        print(f"error: {options.weights}: {one_line(reason)}", file=sys.stderr)
    return 0 if reason is None else 2


def _found(raw: object, sha256: str, options: argparse.Namespace) -> tuple[
        Contents | None, str | None, dict, Architecture | None, Exception | None]:
    """What a reader recognised, the encoder's name, its entries (or the nearest), its architecture, and why
    `read` would refuse the file."""
    chosen: Any  # a name wherever there are contents
    contents = chosen = arch = None
    try:
        contents = recognised(raw, sha256, options.format)
        chosen = next(iter(contents.encoders))
        chosen = chosen_of(contents, options.encoder)
        arch, _ = checked(contents, chosen, options.stem)
        reason = None
    except ValueError as error:
        reason = error
    if contents:
        return contents, chosen, contents.encoders[chosen], arch, reason
    _, state = nearest_entries(flat(raw)) or ("", {})
    return None, None, state, None, reason


def _lines(rows: list[tuple[str, str]], state: dict) -> list[str]:
    lines = [line for label, text in rows for line in textwrap.wrap(
        text, 110, initial_indent=label.ljust(INDENT), subsequent_indent=" " * INDENT)]
    return lines + _stages(state) + _signs(state)


def _origin(path: str | Path, raw: object, sha256: str, contents: Contents | None,
            chosen: str | None) -> list[tuple[str, str]]:
    notes = inspection.notes(raw, path)
    if contents:
        names = ", ".join(f"{name} (described)" if name == chosen and len(contents.encoders) > 1 else name
                          for name in contents.encoders)
        writer = notes.get("reader", contents.format)
        rows = [("reader", contents.format), ("encoders", names),
                ("method", inspection.METHODS.get(writer, "the file does not say"))]
    else:
        prefix, entries = nearest_entries(flat(raw)) or ("", {})
        near = "nothing like a ResNet in it" if not entries else (
            f"described is what stands under {prefix}*" if prefix else "described are the bare names")
        rows = [("reader", f"none; {near}")]
    found = list(inspection.tensors(raw))
    epoch = inspection.epoch(raw)
    rows += [("epoch", "the file does not say" if epoch is None else str(epoch)),
             ("size", f"{Path(path).stat().st_size / 2**20:.1f} MiB, {len(found)} tensors"
                      f" ({_dtypes(tensor for _, tensor in found)})"), ("sha256", sha256)]
    beside = [name + (f" ({_counted(count, 'tensor')}{_chain(widths)})" if count else "") for name,
              (count, widths) in inspection.others(raw, contents.encoders if contents else {}).items()]
    more = [f"and {len(beside) - MOST} more"] if len(beside) > MOST else []
    rows.append(("also holds" if contents else "holds", ", ".join(beside[:MOST] + more) or "nothing"))
    if notes:
        rows.append(("converted", ", ".join(f"{key} {value}" for key, value in notes.items())))
    if proof := inspection.proof(path, sha256):
        rows.append(("proof", proof))
    return rows


def _health(raw: object, state: dict, arch: Architecture | None) -> list[tuple[str, str]]:
    near = arch or nearest(state)
    fit = sum(name in state and tuple(state[name].shape) == shape for name, shape in near.expected.items())
    network = arch.name if arch else near.model + (" with a 3 x 3 stem" if len(near.stems) > 1 else "")
    bad = inspection.not_finite(raw)
    text = "none in any tensor"
    if bad:
        name, count, values = bad[0]
        text = f"in {_counted(len(bad), 'tensor')}, first {name} ({count} of {values} values)"
    fitting = f"{network}, {fit} of {len(near.expected)} tensors in their shapes ({_dtypes(state.values())})"
    return [("network", fitting if fit else "none; no tensor of a ResNet is there"),
            ("16 bit", "; ".join(inspection.sixteen_bit(raw, state)) or "no sign of it"),
            ("NaN or Inf", text)]


def _stages(state: dict) -> list[str]:
    rows = [(stage.name, stage.tensors, stage.blocks or "-", stage.channels or "-", f"{stage.values:,}",
             f"{stage.rms:.4g}", *(f"{value:.4g}" for value in stage.variance or ())) for stage in
            inspection.stages(state)]
    headers = ["stage", "tensors", "blocks", "channels", "values", "weights' RMS", "BN var. min", "max"]
    right = ("left", *["right"] * (len(headers) - 1))
    return ["", *tabulate(rows, headers, colalign=right, disable_numparse=True).splitlines()] if rows else []


def _signs(state: dict) -> list[str]:
    """Which signs of no training there are, each with the number of layers that show it."""
    signs = {sign: counts for sign, counts in inspection.as_initialised(state).items() if counts[1]}
    if not signs:
        return []
    if all(shown == layers for shown, layers in signs.values()):
        verdict = "yes, all layers as initialised"
    else:
        verdict = "in part" if any(shown for shown, _ in signs.values()) else "no sign of it"
    rows = [(sign, f"{shown} of {layers} layers") for sign, (shown, layers) in signs.items()]
    return ["", f"untrained?   {verdict}", *tabulate(rows, tablefmt="plain").splitlines()]


def _rank(pictures: Samples, options: argparse.Namespace) -> list[str]:
    """The effective rank of the features of some pictures, beside that of random weights on the same ones.

    Fewer directions than without training are a sign of a collapse that needs no other run to compare with. A
    network that only learned to tell a few classes apart may show it, too: it needs no more directions.
    """
    backbone = read(options.weights, options.format, None, options.encoder, options.stem)
    side = options.image_size or SIDES[backbone.arch.stem]
    # As the tasks of ImageNet and of the small sets see pictures.
    pipeline = Pipeline(side, "crop" if backbone.arch.stem == "imagenet" else "stretch")

    device = "cuda" if torch.cuda.is_available() else "cpu"
    context = Context(out=Path(), data=options.data, gpus=1, workers=Request.workers, seed=0, device=device)
    found = [health.of_few(network, pictures, pipeline, context, local_device(device))
             for network in (backbone, random_backbone(arch=backbone.arch))]
    own, other = map(joint_effective_rank, found)
    verdict = ("the file has more, no sign of a collapse" if own > other else
               "the file has no more, a sign of a collapse, or of training on few classes")
    return ["", f"effective rank {own:.1f} of {backbone.arch.width} directions, by {len(found[0]):,} of "
                f"{len(pictures):,} pictures at {side} px", f"random weights {other:.1f}; {verdict}"]


def _dtypes(tensors: Iterable[Tensor]) -> str:
    counts = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors)
    return ", ".join(f"{count} {dtype}" for dtype, count in counts.most_common()) or "none"


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _chain(widths: list[int]) -> str:
    return f", {'-'.join(str(width) for width in widths)}" if widths else ""


if __name__ == "__main__":
    sys.exit(main())
