"""Linear evaluation: one linear layer on the frozen average-pooled features of a ResNet.

ImageNet (Barlow Twins, arXiv 2103.03230, Table 1, appendix B.1): SGD 0.9, learning rate 0.3 at batch 256,
cosine per epoch to 0 over 100 epochs, weight decay 1e-6, random resized crops and flips; backbone in eval
mode throughout (barlowtwins evaluate.py). Expected: 73.2 top-1, 91.0 top-5.

Places205 and iNat18 (Table 3, appendix C.1): batch norm without scale and shift before the layer, Nesterov,
learning rate 0.01 with three drops, weight decay 5e-4, 14 and 84 epochs (VISSL's schedule with the paper's
epochs and weight decay; the paper's own two drops are `preset paper`). Expected: 54.1 and 46.5 top-1.

The small sets have their own protocols (Small): CIFAR-10, CIFAR-100, Tiny-ImageNet and STL-10 that of Mixed
Barlow Twins (linear.py of wgcban/mix-bt; arXiv 2312.02151): Adam, 200 epochs at batch 512, rate 0.01 falling
to 1e-6 by a factor an epoch, training images cropped and coloured as in pretraining. There the backbone is
in train mode meanwhile; here it is frozen. Expected with its own ResNet-18: 92.58, 69.31, 51.67 and 91.02.
ImageNet-100: solo-learn's scripts/linear/imagenet-100. A set of one's own (folder_linear): FOLDER, below.

    python transfer/run.py --task imagenet_linear --weights bt.pth --data /data
    python transfer/run.py --task imagenet_linear --weights bt.pth --data /data preset moco
    python transfer/run.py --task imagenet_linear --weights bt.pth --data /data \\
        sweep_learning_rates 0.1,0.3,1 sweep_weight_decays 0,1e-6

The last epoch is the number; the best one stands beside it, labelled. Every validation image is passed
through the backbone once, since frozen features of a centre crop never change. Ranks together see one
process's batches and add up its gradient, so the number does not depend on how many there are.

A sweep (heads.py) costs about one run and is another result than the protocol's: its figures are swept_top1
and swept_top5 of the head that was best on a held-out part of train, held_out_top1; record/sweep.json lists
all heads. The network is not compiled: kernels of the compiler's own would round differently from version to
version and cost each process 38 s, for 1.13 times the speed (both seen on one CPU core).
"""
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from parallel import signals
from parallel.collectives import all_gather_rows, local_device, world_size
from transfer.classification import images, own_sets, training
from transfer.classification.cache import collect
from transfer.classification.datasets import halves, stated
from transfer.classification.features import Pipeline, assert_frozen, features_of, freeze
from transfer.classification.heads import Heads, choose, make_heads, score
from transfer.classification.health import keep_rank_of
from transfer.classification.journal import Journal, keep, keep_predictions
from transfer.classification.layouts import hold_out
from transfer.precision import tf32
from transfer.settings import Conditions, Context, TaskConfig
from transfer.weights.backbone import Backbone

# linear.py of yaohungt/Barlow-Twins-HSIC, which mix-bt's keeps as a comment: a constant rate.
HSIC = {"learning_rate": 1e-3, "weight_decay": 1e-6, "schedule": "step", "drop_epochs": ()}
# The command of vturrisi/solo-learn issue 216, main_linear.py, which gave 91.56 for 92.10 online.
SOLO = {"epochs": 100, "batch_size": 128, "optimiser": "sgd", "learning_rate": 0.1, "weight_decay": 0.0,
        "schedule": "step", "drop_factor": 0.1, "augmentation": "crop"}
# What a preset does not name is as in the default of its task; so are features, the average pool. One
# that names nothing is another name of the default.
PRESETS: dict[str, dict] = {
    # P B.1, SwAV's eval_linear.py (but for 0.228 as the std of red) and mmselfsup agree.
    "imagenet": {
        "default": {}, "paper": {}, "swav": {}, "mmselfsup": {},
        "first_release": {"learning_rate": 0.1},  # README of facebookresearch/barlowtwins at f13c949
        # main_lincls.py of facebookresearch/moco
        "moco": {"learning_rate": 30.0, "weight_decay": 0.0, "schedule": "step", "drop_epochs": (60, 80)},
        # arXiv 2105.04906, appendix C; README of facebookresearch/vicreg, whose code crops from 0.08
        "vicreg": {"learning_rate": 0.02, "crop_scale": (0.2, 1.0)},
        # scripts/linear/imagenet/barlow.yaml of vturrisi/solo-learn
        "solo": {"weight_decay": 1e-5, "schedule": "step", "drop_epochs": (60, 80)},
        # benchmarks/imagenet/resnet50/linear_eval.py of lightly-ai/lightly; its cosine falls by the step
        "lightly": {"epochs": 90, "learning_rate": 0.1, "weight_decay": 0.0},
        # imagenet1k/eval_resnet_8gpu_transfer_in1k_linear.yaml; its batch norm has scale and shift
        "vissl": {"epochs": 28, "learning_rate": 0.01, "nesterov": True, "weight_decay": 5e-4,
                  "schedule": "step", "drop_epochs": (8, 16, 24), "batch_norm": True},
    },
    # SwAV: arXiv 2006.09882, A.5. VICReg: C.3. mmselfsup: benchmarks/classification/places205. VISSL's rates,
    # drops, epochs and weight decay are the default (its batch norm has scale and shift, and on Places205 it
    # pools to more than 2048 values); its yaml remarks that Caffe2's decay was 1e-4 for ResNet-50. P C.1 has
    # two equally spaced drops, which we take for thirds of the epochs, rounded, and names no Nesterov.
    "places205": {
        "default": {}, "vissl": {},
        "paper": {"drop_epochs": (5, 9), "nesterov": False},
        "swav": {"epochs": 28, "drop_epochs": (7, 14, 21), "weight_decay": 1e-4, "nesterov": False},
        "vicreg": {"epochs": 28, "learning_rate": 0.003, "weight_decay": 1e-4, "nesterov": False},
        "mmselfsup": {"epochs": 28, "drop_epochs": (7, 14, 21), "weight_decay": 1e-4},
        "vissl_caffe2": {"weight_decay": 1e-4},
    },
    "inat18": {
        "default": {}, "vissl": {},
        "paper": {"drop_epochs": (28, 56), "nesterov": False},
        "swav": {"drop_epochs": (21, 42, 63), "weight_decay": 1e-4, "nesterov": False},
        "vicreg": {"learning_rate": 0.005, "weight_decay": 1e-4, "nesterov": False},
        "mmselfsup": {"weight_decay": 1e-4},
        "vissl_caffe2": {"weight_decay": 1e-4},
    },
    **dict.fromkeys(("cifar10", "cifar100"), {"default": {}, "mixed_bt": {}, "hsic": HSIC, "solo": SOLO}),
    **dict.fromkeys(("tiny_imagenet", "stl10"), {"default": {}, "mixed_bt": {}, "hsic": HSIC}),
    # scripts/linear/imagenet-100/*.yaml of vturrisi/solo-learn: one rate a method
    "imagenet100": {
        "default": {}, "barlow": {},
        **dict.fromkeys(("byol", "dino", "mocov3", "nnclr", "vibcreg", "vicreg"), {"learning_rate": 0.3}),
        **dict.fromkeys(("deepclusterv2", "swav"), {"learning_rate": 0.15}),
        **dict.fromkeys(("mocov2plus", "ressl"), {"learning_rate": 3.0}),
        "simclr": {"learning_rate": 1.0}, "simsiam": {"learning_rate": 30.0},
    },
}


@dataclass(frozen=True)
class Config(TaskConfig):
    """Defaults: ImageNet, P B.1 (the paper's appendix) and evaluate.py of facebookresearch/barlowtwins."""
    dataset: str = "imagenet"              # folder under the data root
    epochs: int = 100                      # P B.1
    batch_size: int = 256                  # over all processes, P B.1
    learning_rate: float = 0.3             # at this batch size, never rescaled; P B.1 (first README: 0.1)
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-6             # P B.1; on weights and bias
    schedule: str = "cosine"               # per epoch, evaluate.py:104; or "step", "exponential"
    drop_epochs: tuple[int, ...] = (60, 80)  # of "step" only: solo-learn's
    drop_factor: float = 0.1               # of "step", at each; of "exponential", over all epochs
    batch_norm: bool = False               # before the layer, no scale and shift, joint over processes
    initial_std: float = 0.01              # of the layer's weights, evaluate.py:85
    image_size: int = 224                  # tests resize to this x 256 / 224
    crop_scale: tuple[float, ...] = (0.08, 1.0)  # share of the area, evaluate.py:126 (torchvision's default)
    precision: str = "float32"             # of the backbone; bfloat16 moves features by 4e-3
    sweep_learning_rates: tuple[float, ...] = ()  # a head for each; none: learning_rate
    sweep_weight_decays: tuple[float, ...] = ()   # times one for each; none: weight_decay
    held_out: float = 0.1                  # of each class of train, of a sweep only: our number
    preset: str = "default"
    # Settings of Small: all other protocols have these values.
    optimiser, augmentation, resize, normalisation = "sgd", "crop", "crop", "imagenet"

    @property
    def PRESETS(self) -> dict:
        """Those of the task's data set."""
        return PRESETS.get(self.dataset, {})

    @property
    def is_sweep(self) -> bool:
        return bool(self.sweep_learning_rates or self.sweep_weight_decays)

    @property
    def grid(self) -> list[tuple[float, float]]:
        """(learning rate, weight decay) of each head; one head where nothing is swept."""
        return [(rate, decay) for rate in self.sweep_learning_rates or (self.learning_rate,)
                for decay in self.sweep_weight_decays or (self.weight_decay,)]

    @property
    def pipeline(self) -> Pipeline:
        """Of the validation images."""
        return Pipeline(self.image_size, self.resize, precision=self.precision,
                        normalisation=self.normalisation)


@dataclass(frozen=True)
class Small(Config):
    """Defaults: CIFAR-10, linear.py of wgcban/mix-bt at e2c6af0."""
    dataset: str = "cifar10"
    epochs: int = 200
    batch_size: int = 512
    learning_rate: float = 0.01            # its scheduler's, from 1e-2 to 1e-6
    weight_decay: float = 5e-6
    schedule: str = "exponential"
    drop_factor: float = 1e-4
    image_size: int = 32
    optimiser: str = "adam"                # with momentum as its first beta; or sgd
    augmentation: str = "colour"           # of training images, one of images.AUGMENTATIONS
    resize: str = "stretch"                # of tested images, which does nothing at their own size
    normalisation: str = "imagenet"        # that of the weights' pretraining: images.NORMALISATIONS


IMAGENET = Config()
# Nesterov, batch norm and three drops are VISSL's, epochs and weight decay P C.1.
PLACES205 = Config(dataset="places205", epochs=14, learning_rate=0.01, nesterov=True, weight_decay=5e-4,
                   schedule="step", drop_epochs=(4, 8, 12), batch_norm=True)
INAT18 = Config(dataset="inat18", epochs=84, learning_rate=0.01, nesterov=True, weight_decay=5e-4,
                schedule="step", drop_epochs=(24, 48, 72), batch_norm=True)
CIFAR10, CIFAR100 = Small(), Small(dataset="cifar100")
TINY_IMAGENET = Small(dataset="tiny_imagenet", image_size=64, augmentation="colour_bicubic",
                      crop_scale=(0.2, 1.0))
STL10 = Small(dataset="stl10", image_size=64, augmentation="colour_bicubic", crop_scale=(0.2, 1.0),
              resize="bicubic_crop")
# barlow.yaml; images as on ImageNet.
IMAGENET100 = Small(dataset="imagenet100", epochs=100, batch_size=256, learning_rate=0.1, weight_decay=0.0,
                    schedule="step", drop_factor=0.1, image_size=224, optimiser="sgd", augmentation="crop",
                    resize="crop")
# Any number of pictures and any weights: batch norm, which does away with the scale of features, Nesterov,
# weight decay and rate as for Places205 and iNat18, the rate by the linear rule at a batch that gives some
# hundred pictures a few steps an epoch. Epochs and cosine as for ImageNet, tested pictures as in SimCLR B.8.
FOLDER = Small(own_sets.NAME, epochs=100, batch_size=64, learning_rate=0.0025, nesterov=True,
               weight_decay=5e-4, schedule="cosine", batch_norm=True, image_size=0, optimiser="sgd",
               augmentation="crop", resize="bicubic")


def data(config: Config, conditions: Conditions) -> dict:
    """Name, counts and fingerprint of the data set; ValueError or FileNotFoundError when it is incomplete."""
    check(config, conditions.gpus)
    return stated(config.dataset, halves(conditions.data, config.dataset))


def run(backbone: Backbone, config: Config, context: Context) -> dict[str, float]:
    """{"top1", "top5", "best_top1"} on the validation set, or a sweep's {"swept_top1", "swept_top5",
    "held_out_top1"}, percent. Resumes from context.out if asked to."""
    check(config, world_size())
    device, journal = local_device(context.device), Journal(context)
    train, val = halves(context.data, config.dataset).values()
    sets = [val]
    if config.is_sweep:
        train, held_out = hold_out(train, config.held_out, context.seed)
        sets.append(held_out)
    train_images = images.Images(train, config.image_size, augment=True, seed=context.seed,
                                 crop_scale=config.crop_scale, augmentation=config.augmentation)
    batches = images.TrainBatches(len(train), config.batch_size, context.seed, joined=config.batch_norm)
    if config.batch_norm and batches.size(len(batches) - 1) == 1:
        raise ValueError(f"batch_size {config.batch_size} leaves a last batch of one of {len(train)} images, "
                         "which has no variance for batch_norm; choose another batch_size")
    with tf32(allowed=False):
        network = freeze(backbone, device, config.precision)
        heads = make_heads(config, backbone.arch.width, len(train.classes), context.seed, device)
        optimizer = optimiser_of(heads, config)
        columns = "loss", "top1", "top5", *(["held_out_top1"] if config.is_sweep else [])
        checkpoint = training.Checkpoint(context, backbone, config, {"heads": heads}, optimizer, batches,
                                         len(heads.layers), columns)
        history = checkpoint.load()
        if not history:
            keep_rank_of(backbone, train, config.pipeline, context, device, journal)
        if len(history) < config.epochs:
            train_loader = images.loader(train_images, batches, context)
            features = collect(backbone, sets, config.pipeline, context, device)
        for epoch in range(len(history), config.epochs):
            batches.epoch, factor = epoch, training.schedule_factor(config, epoch)
            loss_sum = torch.zeros(len(heads.layers), dtype=torch.float64, device=device)
            steps = checkpoint.steps(train_loader, history, loss_sum)
            train_epoch(network, heads, optimizer, config, factor, steps, loss_sum, batches)
            losses = training.mean_losses(loss_sum, batches)
            chosen, row, predicted = judge(heads, losses, features, config, context, device)
            history.append(row)
            # Before the checkpoint: a finished run must have them.
            training.keep_history(context, history)
            keep_predictions(context, train.classes, *map(all_gather_rows, (features[0][1], predicted)))
            checkpoint.save(history)
            rate, decay = config.grid[chosen]
            journal.line(epoch=epoch + 1, learning_rate=factor * rate, weight_decay=decay, **row)
        assert_frozen(network, backbone, config.precision)
    if not config.is_sweep:
        return training.accuracies(history)
    last = history[-1]
    return {"swept_top1": last["top1"], "swept_top5": last["top5"], "held_out_top1": last["held_out_top1"]}


def check(config: Config, processes: int) -> None:
    """ValueError for values that no training on so many processes can have."""
    training.check_training(config, processes)
    if config.optimiser not in ("sgd", "adam"):
        raise ValueError(f"optimiser: expected sgd or adam, found {config.optimiser!r}")
    if config.nesterov and (config.optimiser == "adam" or not config.momentum):
        raise ValueError(f"nesterov: expected sgd and a momentum above 0 with it, found {config.optimiser} "
                         f"and {config.momentum:g}; pass nesterov false")
    if len(set(config.grid)) < len(config.grid):
        raise ValueError(f"sweep: expected each learning rate and weight decay once, found "
                         f"{config.sweep_learning_rates} and {config.sweep_weight_decays}")
    config.pipeline.check()
    images.require_known(augmentation=config.augmentation)


def optimiser_of(heads: Heads, config: Config) -> torch.optim.Optimizer:
    """The optimiser with a group of parameters for each head, in the order of config.grid."""
    groups = [{"params": list(layer.parameters()), "lr": rate, "weight_decay": decay}
              for layer, (rate, decay) in zip(heads.layers, config.grid, strict=True)]
    if config.optimiser == "adam":
        return torch.optim.Adam(groups, betas=(config.momentum, 0.999))
    return torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.nesterov)


def judge(heads: Heads, losses: list[float], features: list[tuple[torch.Tensor, torch.Tensor]],
          config: Config, context: Context, device: torch.device) -> tuple[int, dict[str, Any], torch.Tensor]:
    """(number of a head, its row {"loss", "top1", "top5"} of the epoch, its predictions on this rank).

    features: this rank's [(features, labels)] of the validation set and, in a sweep, of the held-out images,
    which then decide the head; its row has their "held_out_top1", and sweep.json is kept.
    """
    chosen, figures = choose(heads, losses, *features[1], device) if config.is_sweep else (0, [])
    (top1, top5), predicted = score(heads, chosen, *features[0], device)
    row = {"loss": losses[chosen], "top1": top1, "top5": top5}
    if config.is_sweep:
        row["held_out_top1"] = figures[chosen]
        keep(context, "sweep.json", [
            {"learning_rate": rate, "weight_decay": decay, "held_out_top1": figure, "chosen": place == chosen}
            for place, ((rate, decay), figure) in enumerate(zip(config.grid, figures, strict=True))])
    return chosen, row, predicted


def train_epoch(network: nn.Module, heads: Heads, optimizer: torch.optim.Optimizer, config: Config,
                factor: float, steps: Iterable[tuple[int, images.Batch]], loss_sum: torch.Tensor,
                batches: images.TrainBatches) -> None:
    """One pass over the training images at constant rates. steps: of Checkpoint; loss_sum (heads,): each
    head's losses on this rank are added."""
    for group, (rate, _) in zip(optimizer.param_groups, config.grid, strict=True):
        group["lr"] = factor * rate
    heads.train()
    with signals.deferred():
        for step, (pictures, labels, _) in steps:
            features = features_of(network, pictures, loss_sum.device, config.precision, config.normalisation)
            loss_sum += train_step(heads, optimizer, features, labels.to(loss_sum.device), batches.size(step))


def train_step(heads: Heads, optimizer: torch.optim.Optimizer, features: torch.Tensor, labels: torch.Tensor,
               count: int) -> torch.Tensor:
    """One step of every head on this rank's features (n, width); returns the summed losses (heads,).

    count: images of the batch over all ranks, which may hold different numbers of them.
    """
    features = features.clone()  # autograd keeps no inference tensor
    losses = torch.stack([functional.cross_entropy(logits, labels, reduction="sum")
                          for logits in heads(features)])
    optimizer.zero_grad()
    (losses.sum() / count).backward()  # no head's gradient depends on another's loss
    training.sum_gradients(list(heads.parameters()))
    optimizer.step()
    return losses.detach()
