"""Semi-supervised ImageNet: fine-tune the whole network on 1 % or 10 % of the labels.

Barlow Twins, arXiv 2103.03230, Table 2, appendix B.2, with SimCLR's lists of labelled images: SGD 0.9,
batch 256, 20 epochs, no weight decay, head 0.5 and backbone 0.005 (the paper's text has 0.002, for
checkpoints of the first release), cosine per epoch as in barlowtwins evaluate.py:104 (the text says x0.2
after epochs 12 and 16: `schedule step`). Batch norm in train mode with each GPU's own statistics
(evaluate.py:154-155), so here the number of processes is part of the recipe. Expected: 55.0 top-1, 79.2
top-5 with 1 %; 69.7 top-1, 89.3 top-5 with 10 %.

    python transfer/run.py --task imagenet_semi1 --weights bt.pth --data /data --num-gpus 8
    python transfer/run.py --task imagenet_semi1 --weights bt.pth --data /data split my_list.txt

A list is looked for as DATA/imagenet/1percent.txt (or .txt.gz), else the official one is fetched, checked
against its sha256 and kept there. The last epoch is the number; the best one stands beside it, labelled.
"""
import gzip
import hashlib
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from torch import nn
from torch.nn import functional

from pretrain.distributed import barrier, is_main, local_device, world_size
from transfer.classification import data as images
from transfer.classification import layouts
from transfer.classification.features import BATCH_SIZE, DIMENSIONS, dtype_of, exact_float32
from transfer.classification.journal import Journal, bar
from transfer.classification.metrics import percent, topk_correct
from transfer.classification.training import (Checkpoint, accuracies, check_training, linear_head, mean_loss,
                                               schedule_factor, sum_gradients)
from transfer.weights.backbone import build

LIST_URL = "https://raw.githubusercontent.com/google-research/simclr/master/imagenet_subsets/"
OFFICIAL = {  # sha256 of the unpacked lists: 12,811 and 128,116 names
    "1percent": "71e82a48ba78252683ae334c4d019ebd5c6e855b9599c1389fbe83eb9549cf17",
    "10percent": "6d09de11e7bdaf5b1f3b1f249b6183695f97310cdd20f0c03e7235b6b9392091"}


@dataclass(frozen=True)
class Config:
    """Defaults: the same values for 1 % and 10 % (author in barlowtwins issue 14)."""
    dataset: str = "imagenet"              # folder under the data root
    split: str = "1percent"                # or "10percent", or the path of a list: lines WNID_NUMBER.JPEG
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


ONE_PERCENT, TEN_PERCENT = Config(), Config(split="10percent")


def data(config: Config, context) -> dict:
    """Name, counts of labelled and validation images, fingerprint (the list's sha256 in it). An
    unofficial list is named by its sha256, so that its records are told from the paper's even when the
    counts agree."""
    root = context.data / config.dataset
    if not root.is_dir():  # before a list is fetched for it
        raise FileNotFoundError(f"{root}: no such folder; put the data set there or pass --data ROOT")
    content, source = split_list(config.split, root, context.out)
    train, val = labelled_pair(content, source, root)
    sha256 = hashlib.sha256(content).hexdigest()
    official = OFFICIAL.get(config.split) == sha256
    return {"name": f"{config.dataset} {config.split if official else f'list {sha256[:12]}'}",
            "counts": {"train": len(train), "val": len(val)},
            "fingerprint": layouts.fingerprint(train, val, also=sha256)}


def split_list(split: str, root: Path, fallback: Path) -> tuple[bytes, str]:
    """The list's unpacked bytes and where they are from. A named list is looked for in `root` and, since data
    roots are often read-only, in `fallback`; the official one is fetched to the first that can be written."""
    if split not in OFFICIAL:
        if not Path(split).is_file():
            raise FileNotFoundError(f"split: expected {' or '.join(OFFICIAL)} or the path of a list, "
                                    f"found {split!r}")
        return _unpacked(Path(split)), split
    for folder in (root, fallback):
        for path in (folder / f"{split}.txt", folder / f"{split}.txt.gz"):
            if path.is_file():
                return _unpacked(path), str(path)
    return _fetch(split, root, fallback)


def _fetch(split, root, fallback):
    url = f"{LIST_URL}{split}.txt"
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            content = answer.read()
    except OSError as error:
        raise FileNotFoundError(f"{root / split}.txt: no such list, and fetching {url} failed ({error}); put "
                                "it there or pass split PATH") from None
    found = hashlib.sha256(content).hexdigest()
    if found != OFFICIAL[split]:
        raise ValueError(f"{url}: expected sha256 {OFFICIAL[split][:12]}..., found {found[:12]}...; the list "
                         "has changed, so put the official one into the data root")
    for folder in (root, fallback):
        draft = folder / f".{split}.{os.getpid()}"
        try:
            draft.write_bytes(content)
            draft.replace(folder / f"{split}.txt")
            return content, str(folder / f"{split}.txt")
        except OSError:
            continue
    raise ValueError(f"{root} and {fallback}: expected one that can be written, to keep {split}.txt; "
                     "pass split PATH")


def _unpacked(path):
    content = path.read_bytes()
    try:
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: not a gzip file ({error}); fetch it again") from None


def labelled_pair(content: bytes, source: str, root: Path) -> tuple[layouts.Samples, layouts.Samples]:
    """(the listed part of train, val). ValueError for names that train lacks, repeats and an empty list."""
    train, val = layouts.split_pair(root)
    index_of = {bytes(name).rpartition(b"/")[2]: index for index, name in enumerate(train.names)}
    listed = [line.strip() for line in content.splitlines() if line.strip()]
    if not listed:
        raise ValueError(f"{source}: expected image names, found none")
    missing = [name for name in listed if name not in index_of]
    if missing:
        raise ValueError(f"{source}: {len(missing)} of {len(listed)} names are not in {train.source}, first "
                         f"{os.fsdecode(missing[0])}; complete the data set or pass split PATH")
    if len(set(listed)) < len(listed):
        raise ValueError(f"{source}: {len(listed) - len(set(listed))} names are repeated; list each once")
    return train.subset(np.array(sorted(index_of[name] for name in listed)), source), val


def run(backbone, config: Config, context) -> dict[str, float]:
    """{"top1", "top5", "best_top1"} on the validation set, percent. Resumes from context.out if asked to."""
    check(config)
    device, journal = local_device(context.device), Journal(context)
    root = context.data / config.dataset
    if is_main():
        split_list(config.split, root, context.out)  # fetched once, not by every rank
    barrier()
    train, val = labelled_pair(*split_list(config.split, root, context.out), root)
    batches = images.TrainBatches(len(train), config.batch_size, context.seed, pad=True)
    if config.image_size <= 32 and batches.size(len(batches) - 1) == world_size():
        raise ValueError(f"batch_size {config.batch_size} leaves a last batch of one image a process, which "
                         f"at image_size {config.image_size} has no variance for batch norm; choose another")
    with exact_float32():
        dtype = dtype_of(config.precision)
        network = build(backbone).to(device, dtype, memory_format=torch.channels_last)
        head = linear_head(len(train.classes), DIMENSIONS, config.initial_std, context.seed).to(device, dtype)
        optimizer = torch.optim.SGD([
            {"params": list(head.parameters()), "lr": config.head_learning_rate},
            {"params": list(network.parameters()), "lr": config.backbone_learning_rate},
        ], momentum=config.momentum, weight_decay=config.weight_decay)
        checkpoint = Checkpoint(context, backbone, config, {"head": head, "network": network}, optimizer)
        history = checkpoint.load()
        train_loader = images.loader(images.Images(train, config.image_size, augment=True, seed=context.seed,
                                                   crop_scale=config.crop_scale), batches, context)
        val_images = images.Images(val, config.image_size, augment=False)
        val_loader = images.loader(val_images, images.OrderedBatches(len(val), BATCH_SIZE), context)
        for epoch in range(len(history), config.epochs):
            batches.epoch, factor = epoch, schedule_factor(config, epoch)
            loss = train_epoch(network, head, optimizer, config, factor, train_loader, device)
            history.append([loss, *validate(network, head, val_loader, device)])
            checkpoint.save(history)
            journal.line(epoch=epoch + 1, backbone_learning_rate=factor * config.backbone_learning_rate,
                         head_learning_rate=factor * config.head_learning_rate, loss=loss,
                         top1=history[-1][1], top5=history[-1][2])
    return accuracies(history)


def check(config: Config) -> None:
    """ValueError for values that no training can have."""
    check_training(config)
    if config.precision not in ("float32", "float64"):  # 16-bit training needs loss scaling: another recipe
        raise ValueError(f"precision: expected float32 or float64, found {config.precision!r}")


def train_epoch(network, head, optimizer, config, factor, train_loader, device) -> float:
    """One pass at constant rates, batch norm on this process's images; returns the mean loss of all ranks."""
    batches = train_loader.batch_sampler
    rates = config.head_learning_rate, config.backbone_learning_rate
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = factor * rate
    parameters = [*head.parameters(), *network.parameters()]
    network.train()
    head.train()
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    for step, (pictures, labels, _) in enumerate(bar(images.read(train_loader), f"epoch {batches.epoch + 1}",
                                                     len(batches))):
        logits = head(network(images.normalised(pictures, device, head.weight.dtype)))
        losses = functional.cross_entropy(logits, labels.to(device), reduction="sum")
        optimizer.zero_grad()
        (losses / batches.size(step)).backward()
        sum_gradients(parameters)
        optimizer.step()
        loss_sum += losses.detach()
    return mean_loss(loss_sum, sum(batches.size(step) for step in range(len(batches))), batches.epoch)


@torch.inference_mode()
def validate(network: nn.Module, head: nn.Module, val_loader, device) -> list[float]:
    """[top1, top5] in percent over all ranks, with rank 0's batch-norm statistics everywhere, as with DDP."""
    if world_size() > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)
    network.eval()
    head.eval()
    correct, count = torch.zeros(2, dtype=torch.int64, device=device), 0
    for pictures, labels, _ in bar(images.read(val_loader), "validation", len(val_loader)):
        logits = head(network(images.normalised(pictures, device, head.weight.dtype)))
        correct += topk_correct(logits, labels.to(device), (1, 5))
        count += len(labels)
    return percent(correct, count)
