"""The catalogue: every task of the paper's evaluation section, on one page.

A task on a known protocol is one entry here; a new protocol is one file with `Config`, `data` and `run`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from transfer.classification import finetune, knn, linear, lowshot, probe, svm
from transfer.detection import protocol as detection


@dataclass(frozen=True)
class Task:
    """One benchmark. `run(backbone, config, context) -> {metric: percent}`, called on every rank.

    data(config, context) -> {"name", "counts", "fingerprint"} checks the data and costs no training.
    config: the default protocol, the paper's as far as it is known; a run is scaled as soon as its config or
    `counts`, the sizes of the official splits, differ. metrics: the reported ones, the main one first. paper:
    where the figures stand. trials: how many seeds the published figures average over, 1 where the papers do
    not say. version: raised when the numbers change meaning. smoke: KEY VALUE pairs for seconds to minutes on
    a CPU.
    """

    name: str
    run: Callable
    data: Callable
    config: object
    metrics: tuple[str, ...]
    paper: str
    counts: dict[str, int]
    trials: int
    version: int
    smoke: tuple[str, ...]


IMAGENET_VAL = 50_000
SMALL = ("image_size", "64")
# In the C4 detector res5 runs once for each region: their number matters more than the size of the images.
BOXES = tuple("""
    SOLVER.MAX_ITER 4 SOLVER.STEPS () SOLVER.IMS_PER_BATCH 2 SOLVER.BASE_LR 0.0025 SOLVER.WARMUP_ITERS 2
    INPUT.MIN_SIZE_TRAIN (96,) INPUT.MAX_SIZE_TRAIN 160 INPUT.MIN_SIZE_TEST 96 INPUT.MAX_SIZE_TEST 160
    MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 8 MODEL.RPN.POST_NMS_TOPK_TEST 10 TEST.DETECTIONS_PER_IMAGE 5
    TEST.PRECISE_BN.NUM_ITER 2""".split())


def _probe(name, dataset, metrics, train, test):
    """A logistic probe on one of the small sets; counts of Kornblith et al., table 1 (Caltech101: without
    its background class)."""
    return Task(name=name, run=probe.run, data=probe.data, config=probe.Config(dataset=dataset),
                metrics=metrics, paper="not in the paper; SimCLR Table 8",
                counts={"train": train, "test": test}, trials=1, version=1,
                smoke=(*SMALL, "strengths", "5", "max_iterations", "50"))


PER_CLASS = ("mean_per_class", "top1")
COCO_FIGURES = ("box_AP", "box_AP50", "box_AP75", "mask_AP", "mask_AP50", "mask_AP75")
TASKS = {task.name: task for task in (
    Task(name="imagenet_linear", run=linear.run, data=linear.data, config=linear.IMAGENET,
         metrics=("top1", "top5"), paper="Table 1, appendix B.1",
         counts={"train": 1_281_167, "val": IMAGENET_VAL}, trials=1, version=1,
         smoke=(*SMALL, "epochs", "3")),
    Task(name="imagenet_semi1", run=finetune.run, data=finetune.data, config=finetune.ONE_PERCENT,
         metrics=("top1", "top5"), paper="Table 2, appendix B.2",
         counts={"train": 12_811, "val": IMAGENET_VAL}, trials=1, version=1,
         smoke=(*SMALL, "epochs", "2", "batch_size", "10")),
    Task(name="imagenet_semi10", run=finetune.run, data=finetune.data, config=finetune.TEN_PERCENT,
         metrics=("top1", "top5"), paper="Table 2, appendix B.2",
         counts={"train": 128_116, "val": IMAGENET_VAL}, trials=1, version=1,
         smoke=(*SMALL, "epochs", "2", "batch_size", "20")),
    Task(name="imagenet_knn", run=knn.run, data=knn.data, config=knn.Config(),
         metrics=("top1_k20", "top1_k200"), paper="not in the paper; VICReg Table 11",
         counts={"train": 1_281_167, "val": IMAGENET_VAL}, trials=1, version=1, smoke=SMALL),
    Task(name="places205_linear", run=linear.run, data=linear.data, config=linear.PLACES205,
         metrics=("top1", "top5"), paper="Table 3, appendix C.1",
         counts={"train": 2_448_873, "val": 20_500}, trials=1, version=1,
         smoke=(*SMALL, "epochs", "3")),
    Task(name="inat18_linear", run=linear.run, data=linear.data, config=linear.INAT18,
         metrics=("top1", "top5"), paper="Table 3, appendix C.1",
         counts={"train": 437_513, "val": 24_426}, trials=1, version=1,
         smoke=(*SMALL, "epochs", "3")),
    Task(name="voc07_svm", run=svm.run, data=svm.data, config=svm.Config(), metrics=("mAP",),
         paper="Table 3, appendix C.1", counts={"train": 5_011, "test": 4_952}, trials=1, version=1,
         smoke=(*SMALL, "costs", "0.1,1,10")),
    Task(name="voc07_lowshot", run=lowshot.run, data=lowshot.data, config=lowshot.Config(),
         metrics=tuple(f"{name}_n{n}" for name in ("mAP", "std") for n in lowshot.Config.shots),
         paper="not in the paper; Goyal et al. 2019", counts={"train": 5_011, "test": 4_952}, trials=1,
         version=1, smoke=(*SMALL, "shots", "1,2", "draws", "2", "costs", "0.1,1,10")),
    _probe("food101_probe", "food101", ("top1",), 75_750, 25_250),
    _probe("cifar10_probe", "cifar10", ("top1",), 50_000, 10_000),
    _probe("cifar100_probe", "cifar100", ("top1",), 50_000, 10_000),
    _probe("sun397_probe", "sun397", ("top1",), 19_850, 19_850),
    _probe("cars_probe", "cars", ("top1",), 8_144, 8_041),
    _probe("aircraft_probe", "aircraft", PER_CLASS, 6_667, 3_333),
    _probe("dtd_probe", "dtd", ("top1",), 3_760, 1_880),
    _probe("pets_probe", "pets", PER_CLASS, 3_680, 3_669),
    _probe("caltech101_probe", "caltech101", PER_CLASS, 3_030, 5_647),
    _probe("flowers102_probe", "flowers102", PER_CLASS, 2_040, 6_149),
    _probe("voc2007_probe", "voc2007", ("mAP_11point",), 5_011, 4_952),
    Task(name="voc_det", run=detection.run, data=detection.data,
         config=detection.Config("pascal_voc_R_50_C4_24k_bt.yaml"), metrics=("AP50", "AP", "AP75"),
         paper="Table 4, appendix C.2", counts={"train": 16_551, "test": 4_952}, trials=1, version=1,
         smoke=BOXES),
    Task(name="coco_det", run=detection.run, data=detection.data,
         config=detection.Config("coco_R_50_C4_1x_bt.yaml"),
         metrics=COCO_FIGURES, paper="Table 4, appendix C.2", counts={"train": 118_287, "test": 5_000},
         trials=1, version=1, smoke=BOXES),
    Task(name="voc07_det", run=detection.run, data=detection.data,
         config=detection.Config("pascal_voc07_R_50_C4_12k5.yaml"), metrics=("AP50", "AP", "AP75"),
         paper="not in the paper; VISSL's voc07", counts={"train": 5_011, "test": 4_952}, trials=1, version=1,
         smoke=BOXES),
    Task(name="voc_det_fpn", run=detection.run, data=detection.data,
         config=detection.Config("pascal_voc_R_50_FPN_24k_bt.yaml"), metrics=("AP50", "AP", "AP75"),
         paper="not in the paper", counts={"train": 16_551, "test": 4_952}, trials=1, version=1, smoke=BOXES),
    Task(name="coco_det_fpn", run=detection.run, data=detection.data,
         config=detection.Config("coco_R_50_FPN_1x_vicreg.yaml"), metrics=COCO_FIGURES,
         paper="not in the paper; VICReg Table 2", counts={"train": 118_287, "test": 5_000}, trials=1,
         version=1, smoke=BOXES),
    Task(name="coco_det_2x", run=detection.run, data=detection.data,
         config=detection.Config("coco_R_50_C4_2x_bt.yaml"), metrics=COCO_FIGURES,
         paper="not in the paper; MoCo's 2x", counts={"train": 118_287, "test": 5_000}, trials=1, version=1,
         smoke=BOXES),
)}
