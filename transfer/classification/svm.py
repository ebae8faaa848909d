"""VOC07 classification: one linear SVM per class on frozen features.

Barlow Twins, arXiv 2103.03230, Table 3, appendix C.1, which names no more than "C by cross-validation". The
images and layer are SwAV's (256, centre crop 224, average pool), the rest VISSL's
(svm_utils/svm_trainer.py, evaluate.py): features over (L2 norm + 1e-5), liblinear with squared hinge,
positives weighted 2, C per class by 3-fold cross-validation on trainval, refit on all of it, area under the
interpolated precision-recall curve on test. An image whose only objects of a class are `difficult` is a
negative in training and left out in testing. Expected: 86.2 mAP; with nearly this protocol a user found
86.83 for the released checkpoint (barlowtwins issue 32).

    python transfer/run.py --task voc07_svm --weights bt.pth --data /data
    python transfer/run.py --task voc07_svm --weights bt.pth --data /data preset vissl
"""
from dataclasses import dataclass
from typing import ClassVar

import torch

from parallel.collectives import all_reduce_sum, local_device
from transfer.classification import images, layouts
from transfer.classification.cache import collect_all
from transfer.classification.features import Pipeline
from transfer.classification.health import keep_rank
from transfer.classification.journal import Journal, keep
from transfer.classification.metrics import average_precision
from transfer.classification.svm_solver import SOLVERS, Settings, normalised, solve
from transfer.settings import Conditions, Context, TaskConfig
from transfer.weights.backbone import Backbone

HALVINGS = tuple(0.5 ** power for power in range(4, 20))


@dataclass(frozen=True)
class SVMConfig(TaskConfig):
    """What every task of SVMs has. Defaults: VISSL's solver and grid on SwAV's features, see above."""
    dataset: str = "VOC2007"            # folder under the data root
    # eval_resnet_8gpu_transfer_voc07_svm.yaml:69
    costs: tuple[float, ...] = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)
    positive_weight: float = 2.0        # negatives have 1
    tolerance: float = 1e-4             # liblinear's stopping rule
    max_iterations: int = 2000
    norm_epsilon: float = 1e-5          # added to each feature's L2 norm before dividing by it
    image_size: int = 224
    precision: str = "float32"          # of the backbone; bfloat16 moves features by 4e-3
    resize: str = "crop"                # to image_size x 256 / 224, centre crop (SwAV A.5, VICReg C.3)
    pooling: str = "average"            # of res5; "res5": 6 x 6 windows, 8192 values
    # "mixed" is exact; "liblinear", VISSL's, may stop at max_iterations at high costs (told in the log).
    solver: str = "mixed"
    preset: str = "default"

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline(self.image_size, self.resize, self.pooling, self.precision)

    def check(self) -> None:
        """ValueError for values that no fit can have."""
        self.pipeline.check()
        if self.solver not in SOLVERS:
            raise ValueError(f"solver: expected one of {', '.join(SOLVERS)}, found {self.solver!r}")

    def settings(self, folds: int, seed: int) -> Settings:
        """What the solver is told."""
        return Settings(self.costs, folds, self.positive_weight, self.tolerance, self.max_iterations,
                        self.solver, seed)


@dataclass(frozen=True)
class Config(SVMConfig):
    """Defaults: VISSL's."""
    folds: int = 3

    PRESETS: ClassVar[dict] = {
        "default": {},
        "vissl": {"resize": "squash", "pooling": "res5"},  # eval_resnet_8gpu_transfer_voc07_svm.yaml
        # The grid of fair_self_supervision_benchmark (GETTING_STARTED.md), Goyal et al., arXiv 1905.01235.
        "goyal": {"costs": (*(10.0 ** power for power in range(-7, 3)), *HALVINGS)},
        # svm_voc07.py and eval_svm_full.sh of mmselfsup; its fifth feature, the last layer.
        "mmselfsup": {"resize": "squash", "pooling": "res5", "costs": (1.0, 10.0, 100.0, *HALVINGS)},
    }


def data(config: Config, conditions: Conditions) -> dict:
    """Name, counts, fingerprint of trainval and test; ValueError for a class too rare to learn or score."""
    trainval, test = trainval_test(config, conditions)
    return {"name": config.dataset, "counts": {"train": len(trainval), "test": len(test)},
            "fingerprint": layouts.fingerprint(trainval, test, also=",".join(trainval.classes))}


def trainval_test(config: Config, conditions: Conditions) -> list[layouts.Samples]:
    """[trainval, test], with an image of each class for every fold."""
    config.check()
    return layouts.voc_pair(conditions.data / config.dataset, config.folds)


def run(backbone: Backbone, config: Config, context: Context) -> dict[str, float]:
    """{"mAP", "mAP_11point"} in percent, means over classes. The ranks share the images, then the classes."""
    device, journal = local_device(context.device), Journal(context)
    trainval, test = trainval_test(config, context)
    pairs = collect_all(backbone, [trainval, test], config.pipeline, context, device)
    keep_rank(images.part(pairs[0][0]), len(trainval), context, journal)
    (train, labels), (held_out, test_labels) = [[rows.numpy() for rows in pair] for pair in pairs]
    own = images.part(range(len(trainval.classes)))
    train, held_out = (normalised(rows, config.norm_epsilon) for rows in (train, held_out))
    found = solve(train, labels[:, own], held_out, config.settings(config.folds, context.seed),
                  context.workers)
    table = torch.zeros(len(trainval.classes), 4, dtype=torch.float64)
    for column, (cost, scores, unfinished) in zip(own, found):
        truth = test_labels[:, column]
        precisions = [average_precision(scores, truth, method) for method in ("area", "11point")]
        table[column] = torch.tensor([*precisions, cost, unfinished], dtype=torch.float64)
    all_reduce_sum(table)
    rows = list(zip(trainval.classes, table.tolist()))
    for name, (ap, ap11, cost, unfinished) in rows:
        journal.line(show=False, image_class=name, AP=ap, AP_11point=ap11, cost=cost,
                     fits_at_max_iterations=int(unfinished))
    keep(context, "per_class.json", {name: {"AP": ap, "AP_11point": ap11} for name, (ap, ap11, *_) in rows})
    return {"mAP": table[:, 0].mean().item(), "mAP_11point": table[:, 1].mean().item()}
