"""The catalogue against the sizes that the sets' own papers and lists state."""
import pytest

from transfer.classification.small_sets import SMALL_SETS
from transfer.tasks import TASKS

COCO = ("box_AP", "box_AP50", "box_AP75", "mask_AP", "mask_AP50", "mask_AP75")
PER_CLASS = ("mean_per_class", "top1")
LOW_SHOT = tuple(f"{name}_n{count}" for name in ("mAP", "std") for count in (1, 2, 4, 8, 16, 32, 64, 96))
# Metrics, the main one first; images to learn from; the split that is scored, and its images.
GOLDEN = {
    "imagenet_linear": (("top1", "top5"), 1_281_167, "val", 50_000),
    "imagenet_semi1": (("top1", "top5"), 12_811, "val", 50_000),
    "imagenet_semi10": (("top1", "top5"), 128_116, "val", 50_000),
    "imagenet_knn": (("top1_k20", "top1_k200"), 1_281_167, "val", 50_000),
    "places205_linear": (("top1", "top5"), 2_448_873, "val", 20_500),
    "inat18_linear": (("top1", "top5"), 437_513, "val", 24_426),
    "voc07_svm": (("mAP",), 5_011, "test", 4_952),
    "voc07_lowshot": (LOW_SHOT, 5_011, "test", 4_952),
    # Kornblith et al., table 1. Caltech101 without its background: 101 x 30 of 8,677 images.
    "food101_probe": (("top1",), 75_750, "test", 25_250),
    "cifar10_probe": (("top1",), 50_000, "test", 10_000),
    "cifar100_probe": (("top1",), 50_000, "test", 10_000),
    "sun397_probe": (("top1",), 19_850, "test", 19_850),
    "cars_probe": (("top1",), 8_144, "test", 8_041),
    "aircraft_probe": (PER_CLASS, 6_667, "test", 3_333),
    "dtd_probe": (("top1",), 3_760, "test", 1_880),
    "pets_probe": (PER_CLASS, 3_680, "test", 3_669),
    "caltech101_probe": (PER_CLASS, 101 * 30, "test", 8_677 - 101 * 30),
    "flowers102_probe": (PER_CLASS, 2_040, "test", 6_149),
    "voc2007_probe": (("mAP_11point",), 5_011, "test", 4_952),
    # mix-bt and solo-learn name no sizes: torchvision's lists, and those of each class in SimCLR's ImageNet.
    **{f"{name}_{how}": (metrics, train, scored, count)
       for name, train, scored, count in (
           ("cifar10", 50_000, "test", 10_000), ("cifar100", 50_000, "test", 10_000),
           ("stl10", 5_000, "test", 8_000), ("tiny_imagenet", 100_000, "val", 10_000),
           ("imagenet100", 126_689, "val", 5_000))
       for how, metrics in (("linear", ("top1", "top5")), ("knn", ("top1",)))},
    **{f"{name}_online": (("top1", "top5"), train, scored, count)
       for name, train, scored, count in (
           ("cifar10", 50_000, "test", 10_000), ("cifar100", 50_000, "test", 10_000),
           ("imagenet100", 126_689, "val", 5_000))},
    **{f"{name}_semi{share}": (("top1", "top5"), 500 * share, "test", 10_000)
       for name in ("cifar10", "cifar100") for share in (1, 10)},
    "voc_det": (("AP50", "AP", "AP75"), 5_011 + 11_540, "test", 4_952),
    "voc07_det": (("AP50", "AP", "AP75"), 5_011, "test", 4_952),
    "voc_det_fpn": (("AP50", "AP", "AP75"), 5_011 + 11_540, "test", 4_952),
    "coco_det": (COCO, 118_287, "test", 5_000),
    "coco_det_fpn": (COCO, 118_287, "test", 5_000),
    "coco_det_2x": (COCO, 118_287, "test", 5_000),
}


# On a set of one's own, which has no official sizes
OWN = {"folder_linear": ("top1", "top5"), "folder_knn": ("top1",), "folder_probe": ("top1",),
       "folder_semi": ("top1", "top5")}


def test_the_catalogue_is_golden():
    assert TASKS.keys() == GOLDEN.keys() | OWN.keys()
    assert {task.name: task.metrics for task in TASKS.values() if task.own} == OWN


@pytest.mark.parametrize("name", GOLDEN)
def test_metrics_and_sizes(name):
    metrics, train, scored, count = GOLDEN[name]
    assert TASKS[name].metrics == metrics
    assert TASKS[name].counts == {"train": train, scored: count}


def test_low_shot_metrics_are_those_of_its_default_shots():
    shots = TASKS["voc07_lowshot"].config.shots
    assert TASKS["voc07_lowshot"].metrics == tuple(f"{name}_n{n}" for name in ("mAP", "std") for n in shots)


def test_those_of_detection_alone_have_the_linear_rule():
    for task in TASKS.values():
        if task.detects:
            assert task.config.rescaled(4) != task.config
        else:
            with pytest.raises(ValueError, match="--rescale"):
                task.config.rescaled(4)


@pytest.mark.parametrize("name", sorted(SMALL_SETS.keys() - {"stl10", "tiny_imagenet", "imagenet100"}))
def test_a_probe_has_the_metric_of_its_set(name):
    assert SMALL_SETS[name].metric == TASKS[f"{name}_probe"].metrics[0]
