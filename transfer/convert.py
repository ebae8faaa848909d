"""A backbone (or projector) as a file for others, proven before it appears; the report is put beside it.

    python transfer/convert.py bt.pth bt_d2.pkl                          # Detectron2; also .pth, .safetensors
    python transfer/convert.py bt.pth bt.safetensors --to torchvision    # also .pth
    python transfer/convert.py bt.pth bt_timm.pth --to timm              # also .safetensors
    python transfer/convert.py checkpoint.pth projector.pth --to projector
    python transfer/convert.py checkpoint.pth FOLDER --to hub --license mit    # to give away: transfer/hub.py

Detectron2's file serves C4 and FPN detectors, as MODEL.WEIGHTS together with INPUT.FORMAT RGB, torchvision's
PIXEL_MEAN and PIXEL_STD, and MODEL.RESNETS.STRIDE_IN_1X1 False (all in its metadata). How to load each file:
transfer/weights/export.py. OUTPUT.proof.json has what was proven and the sha256 of source and output. Exit
status 0 only when both are written. It takes seconds on a CPU, most of them for building two detectors.
"""
import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse

from parallel.memory import within_memory
from parallel.places import RUNS
from parallel.process import one_line
from parallel.resnets import STEMS
from transfer import hub
from transfer.weights import projector
from transfer.weights.export import ENDINGS, require_ending
from transfer.weights.files import located
from transfer.weights.proof import convert, convert_projector
from transfer.weights.readers import READERS, read
from transfer.weights.report import Report, report_path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="ResNet checkpoint -> proven weights file")
    parser.add_argument("weights", help="checkpoint, or the word random for an untrained network")
    parser.add_argument("output", type=Path, help="file to write; its ending says of which kind; "
                        "for hub a folder")
    parser.add_argument("--to", choices=(*ENDINGS, "hub"), default="detectron2",
                        help="layout (default: detectron2)")
    parser.add_argument("--format", help=f"layout of the checkpoint, if not recognised: {', '.join(READERS)}")
    parser.add_argument("--encoder", "--prefix",
                        help="which encoder, where the checkpoint holds two (docs/weights.md)")
    parser.add_argument("--stem", choices=STEMS, help="of the network, where the file does not say it")
    parser.add_argument("--name", help="name in the metadata (default: the checkpoint's stem)")
    parser.add_argument("--force", action="store_true", help="replace the output if it exists")
    card = parser.add_argument_group("--to hub, for the model card (docs/weights.md)")
    card.add_argument("--license", metavar="ID",
                      help="of the weights, as the hub names it (default: unknown)")
    card.add_argument("--dataset", action="append", metavar="ID",
                     help="of the training pictures, as the hub names it; may be repeated")
    card.add_argument("--checkpoint", metavar="FILE", help="of the run that left the weights, whose recipe "
                      "the card states (default: what the weights file says)")
    card.add_argument("--results", metavar="DIR", help="folder of the records (default: results/runs)")
    options = parser.parse_args(arguments)
    try:
        path, report = within_memory("free some for this process", _convert, options)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    source = report.weights
    encoder = f", encoder {source['encoder']}" if "encoder" in source else ""
    network = f", {source['arch']}" if "arch" in source else ""
    print(f"{path}: format {source['reader']}{encoder}{network},"
          f" sha256 {source['source_sha256'][:16]}...")
    print("\n".join(report.lines()))
    if options.to == "hub":
        print(f"written {options.output}; read its README.md, then: hf upload USER/NAME {options.output}")
    else:
        print(f"written {options.output} and {report_path(options.output).name}")
    return 0


def _convert(options: argparse.Namespace) -> tuple[str, Report]:
    """The file that was read, in a folder perhaps, and what was proven."""
    if options.to == "hub":
        if options.results and not Path(options.results).is_dir():
            raise FileNotFoundError(f"{options.results}: expected a folder of records, found none; check "
                                    "--results")
        backbone = read(options.weights, options.format, options.name, options.encoder, options.stem)
        require_free(options)
        return backbone.path, hub.write(backbone, options.output, options.results or RUNS, options.license,
                                        options.dataset or (), options.checkpoint)
    given = [flag for flag in ("license", "dataset", "checkpoint", "results") if getattr(options, flag)]
    if given:
        raise ValueError(f"--{given[0]}: expected --to hub with it, found --to {options.to}; leave it out")
    require_ending(options.output, options.to)
    if options.to != "projector":
        backbone = read(options.weights, options.format, options.name, options.encoder, options.stem)
        require_free(options)  # what is wrong with the checkpoint is said first
        return backbone.path, convert(backbone, options.output, options.to)
    if options.format or options.encoder or options.stem:
        raise ValueError("--to projector reads Barlow Twins checkpoints only, found --format, --encoder or"
                         " --stem; leave them out")
    tensors, notes = projector.read(options.weights, options.name)
    require_free(options)
    return str(located(options.weights)), convert_projector(tensors, notes, options.output)


def require_free(options: argparse.Namespace) -> None:
    """ValueError where the output exists and is not to be replaced."""
    if options.output.exists() and not options.force:
        raise ValueError(f"{options.output}: exists already; pass --force to replace it")


if __name__ == "__main__":
    sys.exit(main())
