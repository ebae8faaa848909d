"""From labelled files to batches of pixels, the same whatever the number of processes that load them.

Sampling depends on (seed, epoch, index) alone: neither the number of loader processes nor the number of
ranks changes which crop an image gets or which images share a batch, so they do not change a number.
"""
import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms.functional import pil_to_tensor

from parallel import signals
from parallel.collectives import rank, world_size
from parallel.pixels import MEAN, STD, open_rgb
from transfer.classification.layouts import Samples
from transfer.settings import Context

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # of `batches_of`
Run = TypeVar("Run", range, list, torch.Tensor)

BICUBIC = transforms.InterpolationMode.BICUBIC

# How a whole image becomes a square of side S; bilinear unless the name says otherwise.
RESIZES = {
    # Shorter side to S x 256 / 224, centre crop: barlowtwins evaluate.py:132-136, SwAV A.5, VICReg C.3.
    "crop": lambda side: [transforms.Resize(round(side * 256 / 224)), transforms.CenterCrop(side)],
    # The same first step, then both sides to S: VISSL's VOC07 SVM, mmselfsup svm_voc07.py.
    "squash": lambda side: [transforms.Resize(round(side * 256 / 224)), transforms.Resize((side, side))],
    # Both sides to S at once: VISSL eval_resnet_8gpu_transfer_voc07_low_shot_svm.yaml.
    "stretch": lambda side: [transforms.Resize((side, side))],
    # Shorter side to S, centre crop: imagenet100_benchmark.py of lightly-ai/lightly.
    "bilinear": lambda side: [transforms.Resize(side), transforms.CenterCrop(side)],
    # The same: SimCLR (arXiv 2002.05709) B.8 on the sets of Kornblith et al.
    "bicubic": lambda side: [transforms.Resize(side, BICUBIC), transforms.CenterCrop(side)],
    # 70 and 64 pixels: mix-bt, utils.py StlPairTransform.
    "bicubic_crop": lambda side: [transforms.Resize(round(side * 70 / 64), BICUBIC),
                                  transforms.CenterCrop(side)],
}

# How a training image of side S is drawn; scale: the least and the largest share of its area.
AUGMENTATIONS: dict[str, Callable] = {
    "crop": lambda side, scale: [  # barlowtwins evaluate.py:126
        transforms.RandomResizedCrop(side, scale), transforms.RandomHorizontalFlip()],
    "colour": lambda side, scale: [  # mix-bt, utils.py CifarPairTransform, as in HSIC
        transforms.RandomResizedCrop(side, scale), transforms.RandomHorizontalFlip(), *_colour(0.2)],
    "colour_bicubic": lambda side, scale: [  # mix-bt, utils.py TinyImageNetPairTransform, StlPairTransform
        *_colour(0.1), transforms.RandomResizedCrop(side, scale, interpolation=BICUBIC),
        transforms.RandomHorizontalFlip()],
}

# Mean and standard deviation of RGB in 0-1. They belong to the weights: those that they were trained with.
NORMALISATIONS = {
    "imagenet": (MEAN, STD),  # of this suite and of lightly on any set; of solo-learn on ImageNet-100
    "solo_cifar": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),  # solo-learn; its STL-10 to 1e-4
    "cifar": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),    # mix-bt, HSIC
    "tiny_imagenet": ((0.480, 0.448, 0.398), (0.277, 0.269, 0.282)),  # mix-bt
    "stl10": ((0.43, 0.42, 0.39), (0.27, 0.26, 0.27)),                # mix-bt
}


def _colour(grey):
    jitter = transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)
    return [transforms.RandomApply([jitter], 0.8), transforms.RandomGrayscale(grey)]


def require_known(**settings: str) -> None:
    """ValueError for a name of a setting that is not in its table here."""
    tables: dict[str, Iterable[str]] = {"resize": RESIZES, "augmentation": AUGMENTATIONS,
                                        "normalisation": NORMALISATIONS}
    for name, value in settings.items():
        if value not in tables[name]:
            raise ValueError(f"{name}: expected one of {', '.join(tables[name])}, found {value!r}")


class Images(torch.utils.data.Dataset):
    """Item (epoch, index) -> (image (3, S, S) uint8 RGB, label, index), or the message of an unreadable file.

    augment: by one of AUGMENTATIONS (shares `crop_scale` of the area), drawn from (seed, epoch, index);
    else the whole image by one of RESIZES (barlowtwins evaluate.py:125-136).
    """

    def __init__(self, samples: Samples, image_size: int, *, augment: bool, seed: int = 0,
                 crop_scale: Sequence[float] = (0.08, 1.0), resize: str = "crop", augmentation: str = "crop"):
        self.samples, self.image_size, self.augment, self.seed = samples, image_size, augment, seed
        self.transform = transforms.Compose(
            AUGMENTATIONS[augmentation](image_size, tuple(crop_scale)) if augment else
            RESIZES[resize](image_size))

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, int] | str:
        epoch, index = key
        try:
            found = self.samples.read(index)
            image = open_rgb(found) if isinstance(found, bytes) else Image.fromarray(found)
        except (OSError, ValueError) as error:
            # A message, not an exception: the loader would wrap that in the worker's traceback.
            reason = getattr(error, "strerror", None) or error
            return f"{self.samples.place(index)}: unreadable image ({reason}); replace or remove it"
        if self.augment:
            with _drawn_from(self.seed, epoch, index):
                image = self.transform(image)
        else:
            image = self.transform(image)
        return pil_to_tensor(image), torch.as_tensor(self.samples.labels[index]), index


@contextlib.contextmanager
def _drawn_from(*key):
    """Inside, torch's CPU generator starts from the key; afterwards it continues from its state before."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(_seed(*key))  # torch.manual_seed would reach for the GPUs too
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _seed(*key):
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


class TrainBatches:
    """This rank's part of each batch of an epoch: lists of (epoch, index). Set `epoch` before iterating, and
    `start` to leave out the batches before it; len() is that of a whole epoch.

    A batch of `batch_size` (over all ranks) is a slice of the epoch's permutation, cut into one run per rank,
    so all ranks together see what one process would see. The last batch may be smaller. With `pad` it is
    padded from the permutation's start until it divides by the ranks (as DistributedSampler does). With
    `joined` one of a single image, which has no variance, is joined to the batch before it.
    """

    def __init__(self, count: int, batch_size: int, seed: int, *, pad: bool = False, joined: bool = False):
        self.count, self.batch_size, self.seed, self.pad = count, batch_size, seed, pad
        self.joined = joined and batch_size > 1 and count > batch_size and count % batch_size == 1
        self.epoch = self.start = 0

    def __len__(self):
        return -(-self.count // self.batch_size) - self.joined

    def size(self, step: int) -> int:
        """Images of batch `step` over all ranks."""
        last = step == len(self) - 1
        size = self.count - step * self.batch_size if last else self.batch_size
        return -(-size // world_size()) * world_size() if self.pad else size

    def __iter__(self):
        generator = torch.Generator()
        generator.manual_seed(_seed(self.seed, self.epoch))
        order = torch.randperm(self.count, generator=generator)
        for step in range(self.start, len(self)):
            places = torch.arange(self.size(step)) + step * self.batch_size
            batch = order[places % self.count].tolist()
            yield [(self.epoch, index) for index in part(batch)]


class OrderedBatches:
    """This rank's contiguous part of a set, in order, in batches: every index exactly once over all ranks."""

    def __init__(self, count: int, batch_size: int):
        self.own, self.batch_size = part(range(count)), batch_size

    def __len__(self):
        return -(-len(self.own) // self.batch_size)

    def __iter__(self):
        for start in range(0, len(self.own), self.batch_size):
            yield [(0, index) for index in self.own[start:start + self.batch_size]]


def part(sequence: Run) -> Run:
    """This rank's run of a sequence; the runs of all ranks, in order, make the sequence."""
    count, ranks, number = len(sequence), world_size(), rank() if world_size() > 1 else 0
    return sequence[count * number // ranks:count * (number + 1) // ranks]


def loader(images: Images, batches: TrainBatches | OrderedBatches,
           context: Context) -> torch.utils.data.DataLoader:
    """Loader of `batches`; its processes live as long as it does. Iterate it with `batches_of`."""
    workers = min(context.workers, len(batches))
    return torch.utils.data.DataLoader(images, batch_sampler=batches, num_workers=workers,
                                       collate_fn=functools.partial(_collate, images=images),
                                       pin_memory=context.device == "cuda", persistent_workers=workers > 0,
                                       worker_init_fn=signals.loader_worker)


def batches_of(batches: Iterable[Batch | str]) -> Iterator[Batch]:
    """Batches of a loader: images (n, 3, S, S) uint8, labels (n, ...), indices (n,); n may be 0 on a rank.
    ValueError that names the file when an image cannot be read."""
    for batch in batches:
        if isinstance(batch, str):
            raise ValueError(batch)
        yield batch


def _collate(items, images):
    message = next((item for item in items if isinstance(item, str)), None)
    if message is not None:
        return message
    if not items:
        size, labels = images.image_size, images.samples.labels
        return (torch.empty(0, 3, size, size, dtype=torch.uint8), torch.from_numpy(labels[:0]),
                torch.empty(0, dtype=torch.int64))
    pictures, labels, indices = zip(*items)
    return torch.stack(pictures), torch.stack(labels), torch.tensor(indices)


def normalised(images: torch.Tensor, device: torch.device, dtype: torch.dtype = torch.float32,
               normalisation: str = "imagenet") -> torch.Tensor:
    """images (n, 3, S, S) uint8 -> (x / 255 - mean) / std in dtype, channels_last, on the device.

    normalisation: of NORMALISATIONS.
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32  # 16 bits only for the result
    images = images.to(device, non_blocking=True).to(wide)
    mean, std = (images.new_tensor(value).view(1, 3, 1, 1) for value in NORMALISATIONS[normalisation])
    return images.div_(255).sub_(mean).div_(std).to(dtype).contiguous(memory_format=torch.channels_last)
