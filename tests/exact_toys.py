"""What each process of tests/test_exact_ranks.py runs: every protocol at toy size, on sets of odd size."""
import dataclasses
import json
import multiprocessing
import time

import classification_toys as toys
import detection_toys
import pretrain_toys
import pytest
import test_detection_scale as scale
import test_pretrain_joint_step as joint_step
import torch
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import nn

from parallel.collectives import all_gather_rows, rank, world_size
from pretrain import backbones
from transfer.classification import finetune, knn, linear, lowshot, online, probe, svm, svm_solver
from transfer.detection import d2, trainer
from transfer.detection.loader import mix
from transfer.detection.protocol import Config

LINEAR = linear.Config(dataset="odd", epochs=1, batch_size=4, image_size=32, precision="float64")
FINETUNE = finetune.Config(dataset="odd", split="draw:100%", epochs=1, batch_size=8, image_size=64,
                           precision="float64", backbone_learning_rate=1e-3, head_learning_rate=0.1)
RUNS = {  # 13 images, 7 of validation: in batches of 4 and 8 the last one leaves processes with fewer or none
    "linear": (linear, LINEAR),
    "linear with batch norm": (linear, dataclasses.replace(  # and a sweep
        LINEAR, dataset="even", batch_norm=True, batch_size=8, sweep_learning_rates=(0.1, 1.0),
        held_out=0.35)),
    "linear by Adam": (linear, linear.Small(epochs=1, batch_size=4, precision="float64")),
    "fine-tuning": (finetune, FINETUNE),
    "fine-tuning, joint batch norm": (finetune, dataclasses.replace(FINETUNE, image_size=32,
                                                                    sync_batch_norm=True)),
    "knn": (knn, knn.Config(dataset="odd", k=(1, 5), image_size=32, precision="float64")),
    "knn with one figure": (knn, knn.Small(k=(5,), precision="float64")),
    "svm": (svm, svm.Config(costs=(0.1, 10.0), image_size=32)),
    "lowshot": (lowshot, lowshot.Config(shots=(1, 3), draws=2, costs=(0.1, 10.0), image_size=32)),
    "online": (online, online.Config(dataset="odd", precision="float64")),
    "probe": (probe, probe.Config(strengths=12, weakest=1e-3, strongest=10.0, image_size=32,
                                  precision="float64")),
}
FOUR = ("SOLVER.IMS_PER_BATCH", "4")
USUAL = Config("coco_R_50_C4_1x_bt.yaml").override(
    [*detection_toys.SMALL, *FOUR, "MODEL.ROI_HEADS.NUM_CLASSES", "3"])


def write_data(root):
    toys.image_tree(root / "even", train=7)
    toys.image_tree(root / "odd")
    for split in ("train", "val"):
        (root / "odd" / split / "apple" / "apple_0.JPEG").unlink()
    (root / "cifar10").symlink_to(root / "odd")
    toys.voc_tree(root / "VOC2007", trainval=19, test=11)
    detection_toys.write_voc(root / "boxes", sizes=((96, 64),))  # of one size: see test_detection_scale.py
    detection_toys.write_coco(root)
    pretrain_toys.write_pictures(root / "pictures", 13)
    return root


def figures_of(root, out):
    """{row of the page: {name: array}} in this group, whole on rank 0."""
    svm_solver.SERIAL_WORK = 0 if world_size() == 2 else 1e9  # fits in processes
    rows = {**{name: classification(name, root, out / name) for name in RUNS},
            **pretraining(root / "pictures", out / "pretraining"), **detection(root, out)}
    return {row: {name: values.numpy() for name, values in found.items()} for row, found in rows.items()}


def classification(name, root, out):
    """The metrics of a run and the figures of its epochs."""
    protocol, config = RUNS[name]
    backbone = dataclasses.replace(toys.backbone(), classifier=(torch.randn(
        3, 2048, generator=torch.Generator().manual_seed(2)), torch.zeros(3)))
    metrics = protocol.run(backbone, config, toys.context(
        root, out, gpus=world_size(), workers=2 if name == "svm" and world_size() == 2 else 0))
    curve, features = (out / "record" / f"{name}.json" for name in ("curve", "features"))
    rows = json.loads(curve.read_text()) if rank() == 0 and curve.exists() else []
    ranked = json.loads(features.read_text()) if rank() == 0 else {}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in
            [*metrics.items(), *ranked.items(),
             *((f"epoch {row['epoch']} {key}", row[key]) for row in rows for key in row)]}


def pretraining(root, out):
    """A step in float64 with each form of the loss, and the losses of a run of two epochs in float32."""
    steps = {}
    for loss, gradients, weights, _ in joint_step.all_cases()[:3]:  # a bias before batch norm has gradient 0
        for name, values in (("loss", [loss]), ("gradients", gradients), ("weights", weights)):
            steps[f"{name} {len(steps)}"] = torch.cat([value.flatten() for value in values])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "build_backbone", pretrain_toys.toy_backbone)
        pretrain_toys.start(root, out, batch_size=8, epochs=2)
    losses = {f"loss {line['step']}": torch.tensor(line["loss"], dtype=torch.float64)
              for line in pretrain_toys.lines(out)}
    return {"pretraining, a step in float64": steps, "pretraining, a run in float32": losses}


def detection(root, out):
    """Gradients where every region counts, and the ordinary first iteration, after an evaluation."""
    context = detection_toys.context(root / "boxes", out, gpus=world_size())
    out.mkdir(exist_ok=True)
    frozen, joint = scale.gradients(context, [scale.FROZEN, (*scale.TRAINED, *FOUR)])
    cfg = trainer.prepare(USUAL, detection_toys.context(root, out, gpus=world_size()))
    seed_all_rng(0)
    with d2.log_to(out), EventStorage(0) as storage:
        built = trainer.Trainer(cfg)
        metrics = trainer.Trainer.test(cfg, built.checkpointer.model)
        torch.manual_seed(mix(cfg.SEED, 3, 0, rank()))  # as hooks.SeedEachIteration
        built.run_step()
    if rank() > 0:
        return {}
    detections = json.loads((out / "inference" / "coco_instances_results.json").read_text())
    evaluated = {"detections": torch.tensor([[one["image_id"], one["category_id"], one["score"], *one["bbox"]]
                                             for one in detections], dtype=torch.float64),
                 "AP": torch.tensor([*metrics["bbox"].values(), *metrics["segm"].values()])}
    return {"detection, frozen batch norm, all regions": scale.sampled(frozen),
            "detection, joint batch norm, all regions": scale.sampled(joint),
            "detection, first iteration": {
                "loss": torch.tensor(storage.latest()["total_loss"][0], dtype=torch.float64)},
            "detection, evaluation": evaluated}


def buffers_after_validation():
    """(ranks, 3) running means after validating a toy network whose ranks started from 0 and 1."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3))
    network[2].running_mean.fill_(rank())
    batch = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), torch.tensor([0, 1])
    finetune.validate(network, nn.Linear(3, 3), [batch], torch.device("cpu"))
    return all_gather_rows(network[2].running_mean[None]).tolist()


def run_all(root, out):
    """Of rank 0: figures, buffers, its living children and when it was done. In one thread a process, as the
    number of threads moves the rounding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = figures_of(root, out), buffers_after_validation()
    finally:
        torch.set_num_threads(threads)
    return *found, len(multiprocessing.active_children()), time.time()
