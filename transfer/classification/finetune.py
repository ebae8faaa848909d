"""Semi-supervised ImageNet: fine-tune the whole network on 1 % or 10 % of the labels.

Barlow Twins, arXiv 2103.03230, Table 2, appendix B.2, with SimCLR's lists of labelled images: SGD 0.9,
batch 256, 20 epochs, no weight decay, head 0.5 and backbone 0.005 (the paper's text has 0.002, for
checkpoints of the first release), cosine per epoch as in barlowtwins evaluate.py:104 (the text says x0.2
after epochs 12 and 16: `schedule step`). Batch norm in train mode with each GPU's own statistics
(evaluate.py:154-155), so here the number of processes is part of the recipe. Expected: 55.0 top-1, 79.2
top-5 with 1 %; 69.7 top-1, 89.3 top-5 with 10 %.

    python transfer/run.py --task imagenet_semi1 --weights bt.pth --data /data --num-gpus 8
    python transfer/run.py --task imagenet_semi1 --weights bt.pth --data /data preset paper
    python transfer/run.py --task imagenet_semi1 --weights bt.pth --data /data --split-file my_list.txt
    python transfer/run.py --task imagenet_semi1 --weights bt.pth --data /data --seeds 5 split draw:1%

A list is looked for as 1percent.txt or 1percent.txt.gz in DATA/imagenet and in --cache, and known as the
official one by its sha256; where there is none, the error says how to bring it. `draw:P%` takes P % of each
class, drawn by the seed. Several seeds are several draws, as in PIRL (arXiv 1912.01991, 3.3).
A preset's rates are those of the task's own list: `preset swav split draw:1%` has SwAV's rates for 1 % in
imagenet_semi1, and those for 10 % in imagenet_semi10.
The last epoch is the number; the best one stands beside it, labelled.
"""
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.nn import functional

from parallel import signals
from parallel.batchnorm import convert_sync_batchnorm
from parallel.collectives import all_gather_rows, local_device, world_size
from parallel.process import bar
from transfer.classification import images, lists, own_sets, training
from transfer.classification.datasets import halves, place, stated
from transfer.classification.features import BATCH_SIZE, Pipeline
from transfer.classification.health import keep_rank_of
from transfer.classification.journal import Journal, keep_predictions
from transfer.classification.metrics import percent, topk_correct
from transfer.precision import tf32
from transfer.settings import Conditions, Context, TaskConfig
from transfer.weights.backbone import Backbone, build

PAPER = {"backbone_learning_rate": 0.002, "schedule": "step"}  # P B.2; the rate is for the first release
# What a preset does not name is as in the default. SwAV: arXiv 2006.09882, A.4, and eval_semisup.py of
# facebookresearch/swav, which also joins the batch norms. VICReg: arXiv 2105.04906, C.2, and its README.
PRESETS: dict[str, dict] = {
    "1percent": {
        "default": {}, "paper": PAPER,
        "swav": {"backbone_learning_rate": 0.02, "head_learning_rate": 5.0, "schedule": "step",
                 "sync_batch_norm": True},
        "vicreg": {"backbone_learning_rate": 0.03, "head_learning_rate": 0.08},
    },
    "10percent": {
        "default": {}, "paper": PAPER,
        "swav": {"backbone_learning_rate": 0.01, "head_learning_rate": 0.2, "schedule": "step",
                 "sync_batch_norm": True},
        "vicreg": {"backbone_learning_rate": 0.01, "head_learning_rate": 0.1},
    },
    # Of Small
    **dict.fromkeys(("draw:1%", "draw:10%"), {"default": {}, "paper": PAPER}),
}


@dataclass(frozen=True)
class Config(TaskConfig):
    """Defaults: the same values for 1 % and 10 % (author in barlowtwins issue 14)."""
    dataset: str = "imagenet"              # folder under the data root
    split: str = "1percent"                # or "10percent", "draw:P%", the path of a list: WNID_NUMBER.JPEG
    epochs: int = 20
    batch_size: int = 256                  # over all processes
    backbone_learning_rate: float = 0.005  # barlowtwins README since 2021-06; 0.002 in P B.2
    head_learning_rate: float = 0.5
    momentum: float = 0.9
    weight_decay: float = 0.0              # evaluate.py's default 1e-6 is overridden by the README's command
    schedule: str = "cosine"               # per epoch; or "step"
    drop_epochs: tuple[int, ...] = (12, 16)  # of "step" only: P B.2
    drop_factor: float = 0.2               # of "step" only: P B.2
    initial_std: float = 0.01              # of the head's weights, evaluate.py:85
    image_size: int = 224                  # tests resize to this x 256 / 224
    crop_scale: tuple[float, ...] = (0.08, 1.0)  # share of the area, evaluate.py:126
    precision: str = "float32"             # or float64
    sync_batch_norm: bool = False          # statistics of all processes' images together
    preset: str = "default"
    # Settings of Small: ImageNet has these values.
    resize, normalisation = "crop", "imagenet"

    @property
    def PRESETS(self) -> dict:
        """Those of the task's list."""
        return PRESETS[self.split]


@dataclass(frozen=True)
class Small(Config):
    """CIFAR-10 at its own size: *ours*, no source has it. The draw is the seed's, of each class alike. Batch
    and rate of the head suit 500 images: with ImageNet's the loss rises for epochs."""
    dataset: str = "cifar10"
    split: str = "draw:1%"
    batch_size: int = 64
    head_learning_rate: float = 0.02
    image_size: int = 32
    resize: str = "stretch"                # of tested images, which does nothing at their own size
    normalisation: str = "imagenet"        # that of the weights' pretraining: images.NORMALISATIONS


ONE_PERCENT, TEN_PERCENT = Config(), Config(split="10percent")
# Small's batch and rates at the size of the weights, tested pictures as in SimCLR B.8 (bicubic, centre crop).
FOLDER = Small(own_sets.NAME, split="draw:10%", image_size=0, resize="bicubic")


def data(config: Config, conditions: Conditions) -> dict:
    """Name, counts of labelled and validation images, fingerprint (with the list's sha256). A list other than
    the official one is named by its sha256. If it has an official name, it also counts as "unofficial list",
    so its run is scaled even if it is as long as the official list. For `draw:P%` the fingerprint is that of
    all images, since the separately recorded seed makes the draw: the records of several draws are one
    row."""
    check(config, conditions.gpus)
    if lists.is_draw(config.split):
        parts = halves(conditions.data, config.dataset)
        found = stated(config.dataset, parts, config.split)
        found["counts"]["train"] = int(lists.draw(parts["train"], config.split, conditions.seed).sum())
        return found
    root = place(conditions.data, config.dataset)
    if not root.exists():  # before a list is looked for in it
        raise FileNotFoundError(f"{root}: no such folder; put the data set there or pass --data ROOT")
    content, source = lists.split_list(config.split, root, conditions.cache)
    parts = halves(conditions.data, config.dataset)
    parts["train"] = lists.listed_part(content, source, parts["train"])
    sha256 = hashlib.sha256(content).hexdigest()
    official = lists.OFFICIAL.get(config.split) == sha256
    found = stated(config.dataset, parts, config.split if official else f"list {sha256[:12]}", sha256)
    if config.split in lists.OFFICIAL and not official:
        found["counts"]["unofficial list"] = len(parts["train"])
    return found


def run(backbone: Backbone, config: Config, context: Context) -> dict[str, float]:
    """{"top1", "top5", "best_top1"} on the validation set, percent. Resumes from context.out if asked to."""
    check(config, world_size())
    device, journal = local_device(context.device), Journal(context)
    train, val = lists.chosen_pair(config.split, config.dataset, context)
    # Equal shares, as DistributedSampler makes them, matter only where each process has its own statistics.
    batches = images.TrainBatches(len(train), config.batch_size, context.seed, pad=not config.sync_batch_norm)
    alone = 1 if config.sync_batch_norm else world_size()
    if backbone.arch.side(config.image_size) == 1 and batches.size(len(batches) - 1) == alone:
        raise ValueError(f"batch_size {config.batch_size} leaves batch norm one image in the last batch, "
                         f"which at image_size {config.image_size} has no variance; choose another")
    with tf32(allowed=False):
        dtype = torch.float64 if config.precision == "float64" else torch.float32
        network = build(backbone).to(device, dtype).to(memory_format=torch.channels_last)
        if config.sync_batch_norm:
            network = convert_sync_batchnorm(network)
        head = training.linear_head(len(train.classes), backbone.arch.width, config.initial_std,
                                    context.seed).to(device, dtype)
        optimizer = torch.optim.SGD([
            {"params": list(head.parameters()), "lr": config.head_learning_rate},
            {"params": list(network.parameters()), "lr": config.backbone_learning_rate},
        ], momentum=config.momentum, weight_decay=config.weight_decay)
        ranks: dict[str, Any] = {} if config.sync_batch_norm else {"processes": world_size()}
        checkpoint = training.Checkpoint(context, backbone, config, {"head": head, "network": network},
                                         optimizer, batches, **ranks)
        history = checkpoint.load()
        if not history:
            frozen = Pipeline(config.image_size, config.resize, precision=config.precision,
                              normalisation=config.normalisation)
            keep_rank_of(backbone, train, frozen, context, device, journal)
        train_loader = images.loader(images.Images(train, config.image_size, augment=True, seed=context.seed,
                                                   crop_scale=config.crop_scale), batches, context)
        val_images = images.Images(val, config.image_size, augment=False, resize=config.resize)
        val_loader = images.loader(val_images, images.OrderedBatches(len(val), BATCH_SIZE), context)
        for epoch in range(len(history), config.epochs):
            batches.epoch, factor = epoch, training.schedule_factor(config, epoch)
            loss_sum = torch.zeros(1, dtype=torch.float64, device=device)
            steps = checkpoint.steps(train_loader, history, loss_sum)
            train_epoch(network, head, optimizer, config, factor, steps, loss_sum, batches)
            (loss,) = training.mean_losses(loss_sum, batches)
            (top1, top5), truth, predicted = validate(network, head, val_loader, device, config.normalisation)
            history.append({"loss": loss, "top1": top1, "top5": top5})
            # Before the checkpoint: a finished run must have them.
            training.keep_history(context, history)
            keep_predictions(context, train.classes, *map(all_gather_rows, (truth, predicted)))
            checkpoint.save(history)
            journal.line(epoch=epoch + 1, backbone_learning_rate=factor * config.backbone_learning_rate,
                         head_learning_rate=factor * config.head_learning_rate, **history[-1])
    return training.accuracies(history)


def check(config: Config, processes: int) -> None:
    """ValueError for values that no training on so many processes can have."""
    training.check_training(config, processes)
    if config.precision not in ("float32", "float64"):  # 16-bit training needs loss scaling: another recipe
        raise ValueError(f"precision: expected float32 or float64, found {config.precision!r}")
    images.require_known(resize=config.resize, normalisation=config.normalisation)


def train_epoch(network: nn.Module, head: nn.Linear, optimizer: torch.optim.Optimizer, config: Config,
                factor: float, steps: Iterable[tuple[int, images.Batch]], loss_sum: torch.Tensor,
                batches: images.TrainBatches) -> None:
    """One pass at constant rates. steps: of Checkpoint; loss_sum (1,): this rank's losses are added."""
    rates = config.head_learning_rate, config.backbone_learning_rate
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = factor * rate
    parameters = [*head.parameters(), *network.parameters()]
    network.train()
    head.train()
    with signals.deferred():
        for step, (pictures, labels, _) in steps:
            logits = head(network(images.normalised(pictures, loss_sum.device, head.weight.dtype,
                                                    config.normalisation)))
            losses = functional.cross_entropy(logits, labels.to(loss_sum.device), reduction="sum")
            optimizer.zero_grad()
            (losses / batches.size(step)).backward()
            training.sum_gradients(parameters)
            optimizer.step()
            loss_sum += losses.detach()


@torch.inference_mode()
def validate(network: nn.Module, head: nn.Linear, val_loader: torch.utils.data.DataLoader,
             device: torch.device,
             normalisation: str = "imagenet") -> tuple[list[float], torch.Tensor, torch.Tensor]:
    """([top1, top5] in percent over all ranks, this rank's labels (n,), its predictions (n,)), with rank 0's
    batch-norm statistics everywhere, as with DDP."""
    if world_size() > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)
    network.eval()
    head.eval()
    correct = torch.zeros(2, dtype=torch.int64, device=device)
    truth, predicted = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    for pictures, labels, _ in bar(images.batches_of(val_loader), "validation", len(val_loader)):
        logits = head(network(images.normalised(pictures, device, head.weight.dtype, normalisation)))
        correct += topk_correct(logits, labels.to(device), (1, 5))
        truth.append(labels)
        predicted.append(logits.argmax(1).cpu())
    answers = torch.cat(truth)
    return percent(correct, len(answers)), answers, torch.cat(predicted)
