"""Rehearse the suite on real images: small sets, every protocol, at sizes for a CPU.

    python -m tools.rehearsal --shared SHARED [--folder build/rehearsal] [--results results/runs]

SHARED holds imagenet_mini, voc_mini and coco_mini as .tar.xz archives: ten ImageNet classes, 100 VOC and 159
COCO images. They are unpacked into the standard layout, and a ResNet-50 is pretrained on the first. Each task
runs with it, most also with random initialisation. The records are scaled: they show the way from images to a
row, and nothing about the method.
"""

import argparse
import sys
import tarfile
import time
from pathlib import Path

from tools.demo import own_folder, run_steps

ROOT = Path(__file__).resolve().parent.parent
ARCHIVES = ("imagenet_mini/imagenet_mini.tar.xz", "voc_mini/voc_mini.tar.xz",
            "coco_mini/coco_mini.tar.xz")
PLACES = {"imagenet_mini": "imagenet", "VOCdevkit/VOC2007": "VOC2007", "VOCdevkit/VOC2012": "VOC2012",
          "coco": "coco"}
LABELLED_PER_CLASS = 10  # of 100, as in the 10 % lists

# Settings of each task that make it fit a CPU; everything else is the protocol's.
IMAGES = ["image_size", "64"]
BOXES = """
    SOLVER.IMS_PER_BATCH 2 SOLVER.STEPS (25,) SOLVER.MAX_ITER 30 SOLVER.BASE_LR 0.0025 SOLVER.WARMUP_ITERS 10
    INPUT.MIN_SIZE_TRAIN (96,128) INPUT.MIN_SIZE_TEST 128 MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 16
    MODEL.RPN.POST_NMS_TOPK_TEST 20 TEST.DETECTIONS_PER_IMAGE 10 TEST.EVAL_PERIOD 15
    TEST.PRECISE_BN.NUM_ITER 5""".split()
PRETRAINING = """--epochs 6 --batch-size 100 --image-size 64 --projector 1024-1024-1024 --warmup-epochs 1
    --print-freq 5 --workers 2""".split()
TASKS = {
    "imagenet_linear": [*IMAGES, "epochs", "10"],
    "imagenet_semi1": [*IMAGES, "split", "draw:1%", "epochs", "5", "batch_size", "10"],
    "imagenet_semi10": [*IMAGES, "epochs", "5", "batch_size", "20"],
    # These two protocols use the same images, as there is no small set of either.
    "places205_linear": [*IMAGES, "dataset", "imagenet"],
    "inat18_linear": [*IMAGES, "dataset", "imagenet", "epochs", "8", "drop_epochs", "2,5,7"],
    "imagenet_knn": IMAGES,
    "voc07_svm": ["folds", "2"],     # some classes have two positives
    "voc07_lowshot": ["shots", "1"],
    "voc_det": BOXES,
    "coco_det": BOXES,
}


def require_archives(shared):
    """Raise FileNotFoundError or ValueError for an archive that is missing or cannot be opened."""
    for name in ARCHIVES:
        if not (shared / name).is_file():
            raise FileNotFoundError(f"{shared / name}: no such archive; --shared expects "
                                    f"{', '.join(ARCHIVES)}")
        if not tarfile.is_tarfile(shared / name):
            raise ValueError(f"{shared / name}: expected a tar archive, found another file; copy it again")


def unpack(shared, data):
    """Unpack the archives of `shared` under `data` in the standard layout and write a 10 % list of labels."""
    unpacked = data.with_name("unpacked")
    for name in ARCHIVES:
        with tarfile.open(shared / name) as archive:
            archive.extractall(unpacked, filter="data")
    data.mkdir()
    for source, target in PLACES.items():
        (unpacked / source).rename(data / target)
    lines = []
    for folder in sorted((data / "imagenet" / "train").iterdir()):
        # SimCLR's lists name files <wnid>_<n>.JPEG; a few here have names of the validation set.
        lines += sorted(file.name for file in folder.glob(f"{folder.name}_*.JPEG"))[:LABELLED_PER_CLASS]
    (data / "imagenet" / "10percent.txt").write_text("\n".join(lines) + "\n")


def steps(folder, results):
    """Return [(what, command words)] of the rehearsal, run from the root of the repository."""
    data, weights = f"{folder}/data", f"{folder}/pretrain/resnet50.pth"
    found = [("pretrain a ResNet-50 on 1000 images of ten ImageNet classes",
              [sys.executable, "pretrain/main.py", f"{data}/imagenet",
               "--checkpoint-dir", f"{folder}/pretrain", *PRETRAINING])]
    for name, file in (("rehearsal", weights), ("random", "random")):
        for task, pairs in TASKS.items():
            if name == "random" and task in ("imagenet_linear", "imagenet_semi1", "imagenet_semi10"):
                continue  # unnormalised features of a random network diverge at the protocol's learning rates
            found.append((f"{task}, {name} weights",
                          [sys.executable, "transfer/run.py", "--task", task, "--weights", file,
                           "--name", name, "--data", data, "--workers", "2",
                           "--output", f"{folder}/output/{task}-{name}",
                           "--results", results, "--rerun", *pairs]))
    return found


def main():
    """Run the rehearsal in a fresh folder and say where everything is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True, help="folder of the archives")
    parser.add_argument("--folder", default="build/rehearsal", help="where everything goes (emptied first)")
    parser.add_argument("--results", default="results/runs", help="folder of the records")
    arguments = parser.parse_args()
    start = time.time()
    try:
        require_archives(arguments.shared)  # before the earlier rehearsal is emptied
        own_folder(ROOT / arguments.folder)
        unpack(arguments.shared, ROOT / arguments.folder / "data")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    status = run_steps(steps(arguments.folder, arguments.results))
    if not status:
        print(f"\nDone in {time.time() - start:.0f} s. Files: {arguments.folder}; records: "
              f"{arguments.results}; tables: python results/make.py")
    return status


if __name__ == "__main__":
    sys.exit(main())
