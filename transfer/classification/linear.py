"""Linear evaluation: one linear layer on the frozen average-pooled features of a ResNet-50.

ImageNet (Barlow Twins, arXiv 2103.03230, Table 1, appendix B.1): SGD 0.9, learning rate 0.3 at batch 256,
cosine per epoch to 0 over 100 epochs, weight decay 1e-6, random resized crops and flips; backbone in eval
mode throughout (barlowtwins evaluate.py). Expected: 73.2 top-1, 91.0 top-5.

Places205 and iNat18 (Table 3, appendix C.1): batch norm without scale and shift before the layer, Nesterov,
learning rate 0.01 with three drops, weight decay 5e-4, 14 and 84 epochs (VISSL's schedule with the paper's
epochs and weight decay; the paper names two drops but not where). Expected: 54.1 and 46.5 top-1.

    python transfer/run.py --task imagenet_linear --weights bt.pth --data /data

The last epoch is the number; the best one stands beside it, labelled. Every validation image is passed
through the backbone once, since frozen features of a centre crop never change. Ranks together see one
process's batches and add up its gradient, so the number does not depend on how many there are.
"""
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from pretrain.distributed import convert_sync_batchnorm, local_device
from transfer.classification import data as images
from transfer.classification import layouts
from transfer.classification.features import (DIMENSIONS, assert_frozen, dtype_of, exact_float32, extract,
                                               features_of, freeze)
from transfer.classification.journal import Journal, bar
from transfer.classification.metrics import percent, topk_correct
from transfer.classification.training import (Checkpoint, accuracies, check_training, linear_head, mean_loss,
                                               schedule_factor, sum_gradients)


@dataclass(frozen=True)
class Config:
    """Defaults: ImageNet, P B.1 (the paper's appendix) and evaluate.py of facebookresearch/barlowtwins."""
    dataset: str = "imagenet"              # folder under the data root
    epochs: int = 100                      # P B.1
    batch_size: int = 256                  # over all processes, P B.1
    learning_rate: float = 0.3             # at this batch size, never rescaled; P B.1 (first README: 0.1)
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-6             # P B.1; on weights and bias
    schedule: str = "cosine"               # per epoch, evaluate.py:104; or "step"
    drop_epochs: tuple[int, ...] = (60, 80)  # of "step" only: solo-learn's
    drop_factor: float = 0.1               # of "step" only
    batch_norm: bool = False               # before the layer, no scale and shift, joint over processes
    initial_std: float = 0.01              # of the layer's weights, evaluate.py:85
    image_size: int = 224                  # tests resize to this x 256 / 224
    crop_scale: tuple[float, ...] = (0.08, 1.0)  # share of the area, evaluate.py:126 (torchvision's default)
    precision: str = "float32"             # of the backbone; bfloat16 moves features by 4e-3


IMAGENET = Config()
# Nesterov, batch norm and three drops are VISSL's, epochs and weight decay P C.1.
PLACES205 = Config(dataset="places205", epochs=14, learning_rate=0.01, nesterov=True, weight_decay=5e-4,
                   schedule="step", drop_epochs=(4, 8, 12), batch_norm=True)
INAT18 = Config(dataset="inat18", epochs=84, learning_rate=0.01, nesterov=True, weight_decay=5e-4,
                schedule="step", drop_epochs=(24, 48, 72), batch_norm=True)


def data(config: Config, context) -> dict:
    """Name, counts and fingerprint of the data set; ValueError or FileNotFoundError when it is incomplete."""
    train, val = layouts.split_pair(context.data / config.dataset)
    return {"name": config.dataset, "counts": {"train": len(train), "val": len(val)},
            "fingerprint": layouts.fingerprint(train, val)}


def run(backbone, config: Config, context) -> dict[str, float]:
    """{"top1", "top5", "best_top1"} on the validation set, percent. Resumes from context.out if asked to."""
    check_training(config)
    dtype_of(config.precision)
    device, journal = local_device(context.device), Journal(context)
    train, val = layouts.split_pair(context.data / config.dataset)
    train_images = images.Images(train, config.image_size, augment=True, seed=context.seed,
                                 crop_scale=config.crop_scale)
    batches = images.TrainBatches(len(train), config.batch_size, context.seed)
    if config.batch_norm and batches.size(len(batches) - 1) == 1:
        raise ValueError(f"batch_size {config.batch_size} leaves a last batch of one of {len(train)} images, "
                         "which has no variance for batch_norm; choose another batch_size")
    with exact_float32():
        network = freeze(backbone, device, config.precision)
        head = make_head(config, len(train.classes), context.seed, device)
        optimizer = torch.optim.SGD(head.parameters(), config.learning_rate, momentum=config.momentum,
                                    weight_decay=config.weight_decay, nesterov=config.nesterov)
        checkpoint = Checkpoint(context, backbone, config, {"head": head}, optimizer)
        history = checkpoint.load()
        if len(history) < config.epochs:
            train_loader = images.loader(train_images, batches, context)
            validation = extract(network, images.Images(val, config.image_size, augment=False), context,
                                 device, config.precision, "validation features")
        for epoch in range(len(history), config.epochs):
            batches.epoch, rate = epoch, config.learning_rate * schedule_factor(config, epoch)
            loss = train_epoch(network, head, optimizer, rate, train_loader, device, config.precision)
            history.append([loss, *validate(head, *validation, device)])
            checkpoint.save(history)
            journal.line(epoch=epoch + 1, learning_rate=rate, loss=loss, top1=history[-1][1],
                         top5=history[-1][2])
        assert_frozen(network, backbone, config.precision)
    return accuracies(history)


def make_head(config: Config, classes: int, seed: int, device) -> nn.Module:
    """features (n, 2048) -> logits (n, classes), float64 for that precision, else float32."""
    dtype = torch.float64 if config.precision == "float64" else torch.float32
    layers = [linear_head(classes, DIMENSIONS, config.initial_std, seed)]
    if config.batch_norm:
        layers.insert(0, nn.BatchNorm1d(DIMENSIONS, affine=False))
    return convert_sync_batchnorm(nn.Sequential(*layers).to(device, dtype))


def train_epoch(network, head, optimizer, rate, train_loader, device, precision) -> float:
    """One pass over the training images at a constant rate; returns the mean loss over all ranks."""
    batches = train_loader.batch_sampler
    optimizer.param_groups[0]["lr"] = rate
    head.train()
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    for step, (pictures, labels, _) in enumerate(bar(images.read(train_loader), f"epoch {batches.epoch + 1}",
                                                     len(batches))):
        # A clone, since autograd keeps no inference tensor.
        features = features_of(network, pictures, device, precision).clone()
        losses = functional.cross_entropy(head(features), labels.to(device), reduction="sum")
        optimizer.zero_grad()
        # Over the images of all ranks, which may hold different numbers of a last batch; then summed.
        (losses / batches.size(step)).backward()
        sum_gradients(list(head.parameters()))
        optimizer.step()
        loss_sum += losses.detach()
    return mean_loss(loss_sum, sum(batches.size(step) for step in range(len(batches))), batches.epoch)


@torch.inference_mode()
def validate(head, features, labels, device) -> list[float]:
    """[top1, top5] in percent over all ranks; features and labels are this rank's part."""
    head.eval()
    correct = torch.zeros(2, dtype=torch.int64, device=device)
    for chunk, truth in zip(features.split(8192), labels.split(8192)):
        correct += topk_correct(head(chunk.to(device)), truth.to(device), (1, 5))
    return percent(correct, len(labels))
