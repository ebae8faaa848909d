"""The catalogue: every task of the paper's evaluation section, on one page.

A task on a known protocol is one entry here; a new protocol is one module with `Config`, `data` and `run`. It
is imported when a task's config or protocol is asked for, so the catalogue itself is there at once.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from transfer.settings import TaskConfig, nearest


@dataclass(frozen=True)
class Task:
    """One benchmark.

    module: of the protocol, with data(config, conditions) -> {"name", "counts", "fingerprint"}, and
    "training" where that part of the data alone binds a trained model, which checks the data and costs no
    training; and run(backbone, config, context) -> {metric: percent}, called on every
    rank. default: takes the module and returns the default config in it, the paper's as far as it is known; a
    run is scaled as soon as its config or `counts`, the sizes of the official splits, differ; {}: there are
    none, for --data is a set of the user's own. metrics: the
    reported ones, the main one first. paper: where the figures stand. version: raised when the numbers change
    meaning. smoke: KEY VALUE pairs for seconds to minutes on a CPU.
    """

    name: str
    module: str
    default: Callable[[ModuleType], TaskConfig]
    metrics: tuple[str, ...]
    paper: str
    counts: dict[str, int]
    version: int
    smoke: tuple[str, ...]

    @property
    def protocol(self) -> ModuleType:
        """The module of the protocol. ValueError where it is one of detection and Detectron2 is missing."""
        if self.detects and importlib.util.find_spec("detectron2") is None:
            raise ValueError("expected the package detectron2, found none; make setup installs it")
        return importlib.import_module(self.module)

    @property
    def config(self) -> TaskConfig:
        """The default protocol."""
        return self.default(self.protocol)

    @property
    def own(self) -> bool:
        """Whether --data is the set itself, the user's own, instead of the root of all sets."""
        return not self.counts

    @property
    def detects(self) -> bool:
        """Whether it is one of detection, whose recipe alone depends on the number of GPUs, and which alone
        leaves checkpoints that can be evaluated again."""
        return self.module == DETECTION


LINEAR, FINETUNE, KNN, SVM, LOWSHOT, PROBE, ONLINE = (
    f"transfer.classification.{name}"
    for name in ("linear", "finetune", "knn", "svm", "lowshot", "probe", "online"))
DETECTION = "transfer.detection.protocol"

IMAGENET_VAL = 50_000
SMALL = ("image_size", "64")
# In the C4 detector res5 runs once for each region: their number matters more than the size of the images.
BOXES = tuple("""
    SOLVER.MAX_ITER 4 SOLVER.STEPS () SOLVER.IMS_PER_BATCH 2 SOLVER.BASE_LR 0.0025 SOLVER.WARMUP_ITERS 2
    INPUT.MIN_SIZE_TRAIN (96,) INPUT.MAX_SIZE_TRAIN 160 INPUT.MIN_SIZE_TEST 96 INPUT.MAX_SIZE_TEST 160
    MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 8 MODEL.RPN.POST_NMS_TOPK_TEST 10 TEST.DETECTIONS_PER_IMAGE 5
    TEST.PRECISE_BN.NUM_ITER 2""".split())


def _small(dataset: str, held: str, train: int, count: int, linear: str, knn: str) -> tuple[Task, Task]:
    """Linear evaluation and kNN on a small benchmark; linear, knn: where their protocols stand. held: what
    the set calls the part that is scored, with `count` pictures."""
    counts, name = {"train": train, held: count}, dataset.upper()
    smoke = ("image_size", "32")
    return (Task(name=f"{dataset}_linear", module=LINEAR, default=lambda linear: getattr(linear, name),
                 metrics=("top1", "top5"), paper=f"not in the paper; {linear}", counts=counts, version=1,
                 smoke=(*smoke, "epochs", "3", "batch_size", "64")),
            Task(name=f"{dataset}_knn", module=KNN, default=lambda knn: getattr(knn, name), metrics=("top1",),
                 paper=f"not in the paper; {knn}", counts=counts, version=1, smoke=(*smoke, "k", "5")))


def _online(dataset: str, held: str, train: int, count: int) -> Task:
    """The classifier that was trained beside the backbone, on the set that both learnt from."""
    return Task(name=f"{dataset}_online", module=ONLINE,
                default=lambda online: getattr(online, dataset.upper()), metrics=("top1", "top5"),
                paper="not in the paper; solo-learn, its README", counts={"train": train, held: count},
                version=1, smoke=("precision", "bfloat16"))


def _semi(dataset: str, percentage: int) -> Task:
    """Fine-tuning on a drawn part of CIFAR's labels."""
    split = f"draw:{percentage}%"
    return Task(name=f"{dataset}_semi{percentage}", module=FINETUNE,
                default=lambda finetune: finetune.Small(dataset=dataset, split=split),
                metrics=("top1", "top5"), paper="not published; imagenet_semi at 32 pixels", version=1,
                counts={"train": 500 * percentage, "test": 10_000}, smoke=("epochs", "2", "batch_size", "10"))


def _probe(name: str, dataset: str, metrics: tuple[str, ...], train: int, test: int) -> Task:
    """A logistic probe on one of the small sets; counts of Kornblith et al., table 1 (Caltech101: without
    its background class)."""
    return Task(name=name, module=PROBE, default=lambda probe: probe.Config(dataset=dataset),
                metrics=metrics, paper="not in the paper; SimCLR Table 8",
                counts={"train": train, "test": test}, version=1,
                smoke=(*SMALL, "strengths", "5", "max_iterations", "50"))


def _detector(name: str, yaml: str, paper: str, metrics: tuple[str, ...], train: int, test: int) -> Task:
    """A detector that is fine-tuned as a YAML of detection_configs/ says."""
    return Task(name=name, module=DETECTION, default=lambda detection: detection.Config(yaml),
                metrics=metrics, paper=paper, counts={"train": train, "test": test}, version=1, smoke=BOXES)


def _folder(how: str, module: str, metrics: tuple[str, ...], smoke: tuple[str, ...]) -> Task:
    """A task on a labelled set of one's own, which has no official sizes."""
    return Task(name=f"folder_{how}", module=module, default=lambda protocol: protocol.FOLDER,
                metrics=metrics, paper="own data: --data FOLDER is the set", counts={}, version=1,
                smoke=(*SMALL, *smoke))


MIXED_BT = "mix-bt, its README"
PER_CLASS = ("mean_per_class", "top1")
VOC = ("AP50", "AP", "AP75")
COCO = ("box_AP", "box_AP50", "box_AP75", "mask_AP", "mask_AP50", "mask_AP75")
TASKS = {task.name: task for task in (
    Task(name="imagenet_linear", module=LINEAR, default=lambda linear: linear.IMAGENET,
         metrics=("top1", "top5"), paper="Table 1, appendix B.1",
         counts={"train": 1_281_167, "val": IMAGENET_VAL}, version=1, smoke=(*SMALL, "epochs", "3")),
    Task(name="imagenet_semi1", module=FINETUNE, default=lambda finetune: finetune.ONE_PERCENT,
         metrics=("top1", "top5"), paper="Table 2, appendix B.2",
         counts={"train": 12_811, "val": IMAGENET_VAL}, version=1,
         smoke=(*SMALL, "epochs", "2", "batch_size", "10")),
    Task(name="imagenet_semi10", module=FINETUNE, default=lambda finetune: finetune.TEN_PERCENT,
         metrics=("top1", "top5"), paper="Table 2, appendix B.2",
         counts={"train": 128_116, "val": IMAGENET_VAL}, version=1,
         smoke=(*SMALL, "epochs", "2", "batch_size", "20")),
    Task(name="imagenet_knn", module=KNN, default=lambda knn: knn.Config(),
         metrics=("top1_k20", "top1_k200"), paper="not in the paper; VICReg Table 11",
         counts={"train": 1_281_167, "val": IMAGENET_VAL}, version=1, smoke=SMALL),
    Task(name="places205_linear", module=LINEAR, default=lambda linear: linear.PLACES205,
         metrics=("top1", "top5"), paper="Table 3, appendix C.1",
         counts={"train": 2_448_873, "val": 20_500}, version=1, smoke=(*SMALL, "epochs", "3")),
    Task(name="inat18_linear", module=LINEAR, default=lambda linear: linear.INAT18,
         metrics=("top1", "top5"), paper="Table 3, appendix C.1",
         counts={"train": 437_513, "val": 24_426}, version=1, smoke=(*SMALL, "epochs", "3")),
    Task(name="voc07_svm", module=SVM, default=lambda svm: svm.Config(), metrics=("mAP",),
         paper="Table 3, appendix C.1", counts={"train": 5_011, "test": 4_952}, version=1,
         smoke=(*SMALL, "costs", "0.1,1,10")),
    Task(name="voc07_lowshot", module=LOWSHOT, default=lambda lowshot: lowshot.Config(),
         metrics=tuple(f"{name}_n{n}" for name in ("mAP", "std") for n in (1, 2, 4, 8, 16, 32, 64, 96)),
         paper="not in the paper; Goyal et al. 2019", counts={"train": 5_011, "test": 4_952},
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
    *_small("cifar10", "test", 50_000, 10_000, MIXED_BT, MIXED_BT),
    *_small("cifar100", "test", 50_000, 10_000, MIXED_BT, MIXED_BT),
    *_small("stl10", "test", 5_000, 8_000, MIXED_BT, MIXED_BT),
    *_small("tiny_imagenet", "val", 100_000, 10_000, MIXED_BT, MIXED_BT),
    *_small("imagenet100", "val", 126_689, 5_000, "solo-learn, scripts/linear", "lightly's benchmark"),
    _online("cifar10", "test", 50_000, 10_000),
    _online("cifar100", "test", 50_000, 10_000),
    _online("imagenet100", "val", 126_689, 5_000),
    *(_semi(dataset, percentage) for dataset in ("cifar10", "cifar100") for percentage in (1, 10)),
    _folder("linear", LINEAR, ("top1", "top5"), ("epochs", "3")),
    _folder("knn", KNN, ("top1",), ()),
    _folder("probe", PROBE, ("top1",), ("strengths", "5", "max_iterations", "50")),
    _folder("semi", FINETUNE, ("top1", "top5"), ("epochs", "2", "batch_size", "20")),
    _detector("voc_det", "pascal_voc_R_50_C4_24k_bt.yaml", "Table 4, appendix C.2", VOC, 16_551, 4_952),
    _detector("coco_det", "coco_R_50_C4_1x_bt.yaml", "Table 4, appendix C.2", COCO, 118_287, 5_000),
    _detector("voc07_det", "pascal_voc07_R_50_C4_12k5.yaml", "not in the paper; VISSL's voc07", VOC, 5_011,
              4_952),
    _detector("voc_det_fpn", "pascal_voc_R_50_FPN_24k_bt.yaml", "not in the paper", VOC, 16_551, 4_952),
    _detector("coco_det_fpn", "coco_R_50_FPN_1x_vicreg.yaml", "not in the paper; VICReg Table 2", COCO,
              118_287, 5_000),
    _detector("coco_det_2x", "coco_R_50_C4_2x_bt.yaml", "not in the paper; MoCo's 2x", COCO, 118_287, 5_000),
)}


def find(name: str) -> Task:
    """Return a task of the catalogue. Raises ValueError for an unknown one, naming the nearest."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; {nearest(name, TASKS)}")
    return TASKS[name]
