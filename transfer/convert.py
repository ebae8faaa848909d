"""A backbone as a Detectron2 file for R50-C4 detectors, proven before it appears.

    python transfer/convert.py resnet50.pth bt_d2.pkl

Use the file as MODEL.WEIGHTS together with INPUT.FORMAT RGB, torchvision's PIXEL_MEAN and PIXEL_STD, and
MODEL.RESNETS.STRIDE_IN_1X1 False (all in its metadata). Exit status 0 only when it is written and proven.
"""
import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse

from transfer.weights.proof import convert_to_detectron2
from transfer.weights.readers import READERS, read


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="ResNet-50 checkpoint -> proven Detectron2 C4 weights")
    parser.add_argument("weights", help="checkpoint, or the word random for an untrained network")
    parser.add_argument("output", type=Path, help="file to write, its name ending in .pkl")
    parser.add_argument("--format", help=f"layout of the checkpoint, if not recognised: {', '.join(READERS)}")
    parser.add_argument("--force", action="store_true", help="replace the output if it exists")
    options = parser.parse_args(arguments)
    try:
        if options.output.exists() and not options.force:
            raise ValueError(f"{options.output}: exists already; pass --force to replace it")
        backbone = read(options.weights, options.format)
        report = convert_to_detectron2(backbone, options.output)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    print(f"{options.weights}: format {backbone.format}, sha256 {backbone.sha256[:16]}...")
    print("\n".join(report.lines()))
    print(f"written {options.output}, {options.output.stat().st_size / 2**20:.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
