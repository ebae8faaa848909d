"""The small sets of Kornblith et al. (arXiv 1805.08974, table 1), read where torchvision.datasets puts them,
and the small benchmarks of self-supervised learning: STL-10, Tiny-ImageNet and ImageNet-100.

Eleven of the twelve: torchvision has no Birdsnap. Nothing is downloaded; an error names the command that
does. A set may also lie as folders of images, ROOT/NAME/{train,test}/CLASS/IMAGE (or `val` for `test`), or
as npz or parquet files below ROOT/NAME (packed_sets.py).
"""
import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torchvision

from parallel.listing import ENDINGS, lines_of, require_files
from parallel.packed import Pixels
from transfer.classification import layouts, own_sets, packed_sets
from transfer.classification.layouts import Samples


@dataclass(frozen=True)
class SmallSet:
    """Where a set is under the data root, how it is read, and where it comes from.

    folder: the official download's. read(root) -> (train, val, test): val None where the set has no official
    one. metric: the one that Kornblith et al. report. fetch: what the error for a missing folder says, with
    {root}. scored: what the set calls the part that is scored.
    """
    folder: str
    read: Callable
    metric: str
    fetch: str
    scored: str = "test"


def read_small_set(name: str, root: Path) -> tuple[Samples, Samples | None, Samples]:
    """(train, val or None, test), all of the same classes. ValueError for an unknown name or a damaged set,
    FileNotFoundError for a missing one or missing images."""
    if name not in SMALL_SETS:
        raise ValueError(f"dataset: expected one of {', '.join(SMALL_SETS)}, found {name!r}")
    small = SMALL_SETS[name]
    if name == own_sets.NAME:
        train, val, test = own_sets.read(root)
    elif (root / name / "train").is_dir():
        train, val, test = own_sets.from_folders(root / name)
    elif files := packed_sets.files_of(root / name):
        train, val, test = packed_sets.from_files(files)
    elif (root / small.folder).is_dir():
        train, val, test = small.read(root) if small.read in BY_LAYOUT else from_torchvision(small, root)
    else:
        raise FileNotFoundError(f"{root / small.folder}: no such folder, nor {name}/train, nor npz or "
                                f"parquet files in {name}; {small.fetch.format(root=root)}")
    for other in (val, test):
        if other is not None:
            layouts.require_classes(train, other)
    return train, val, test


def from_torchvision(small: SmallSet, root: Path) -> tuple[Samples, Samples | None, Samples]:
    """What the set's reader gives; ValueError where torchvision finds it damaged."""
    for folder, _, files in os.walk(root / small.folder):  # torchvision would wait for a pipe's writer
        for file in files:
            if not file.lower().endswith(ENDINGS) and not os.path.isfile(os.path.join(folder, file)):
                raise ValueError(f"{os.path.join(folder, file)}: expected a file, found none that can be "
                                 "read; fetch it again")
    try:
        return small.read(root)
    except (RuntimeError, KeyError, IndexError) as error:  # torchvision's "not found or corrupted"
        raise ValueError(f"{root / small.folder}: torchvision cannot read it ({str(error).splitlines()[0]}); "
                         f"{small.fetch.format(root=root)}") from None


def samples(root: Path, paths: Iterable[str | Path], labels: Sequence[int], classes: Iterable[str],
            source: str) -> Samples:
    """From what a torchvision data set lists: paths below root and labels. torchvision takes the word of the
    set's lists; here each image is looked for."""
    names = [os.path.relpath(path, root) for path in paths]
    require_files(root, names, source)
    return Samples(root, np.array([os.fsencode(name) for name in names]), np.array(labels, dtype=np.int64),
                   tuple(classes), source)


def splits(build: Callable, attributes: tuple[str, str] = ("_image_files", "_labels"),
           names: tuple[str, ...] = ("train", "val", "test"),
           ) -> Callable[[Path], tuple[Samples, Samples | None, Samples]]:
    """A reader of the data sets that build(root, split) gives, with paths and labels as `attributes`."""
    def read_splits(root: Path):
        found = []
        for name in names:
            data = build(root, name)
            paths, labels = (getattr(data, attribute) for attribute in attributes)
            found.append(samples(root, paths, labels, data.classes, f"{root} {type(data).__name__} {name}"))
        return (*found[:-1], *([None] if len(found) == 2 else []), found[-1])

    return read_splits


def cifar(kind: type[torchvision.datasets.CIFAR10],
          ) -> Callable[[Path], tuple[Samples, Samples | None, Samples]]:
    """A reader of torchvision's CIFAR10 or CIFAR100, whose images are together in one file."""
    def read_cifar(root: Path):
        found = []
        for train in (True, False):
            data = kind(root, train=train)
            source = f"{root} {kind.__name__} {'train' if train else 'test'}"
            found.append(packed_sets.samples(Pixels(data.data, source), data.targets, data.classes, source))
        return found[0], None, found[1]

    return read_cifar


def sun397(root: Path) -> tuple[Samples, Samples | None, Samples]:
    """The first of the ten official splits, Training_01.txt and Testing_01.txt in SUN397/."""
    data = torchvision.datasets.SUN397(root)
    labels = dict(zip((os.path.relpath(path, data._data_dir) for path in data._image_files), data._labels))
    found = []
    for file in ("Training_01.txt", "Testing_01.txt"):
        path = root / "SUN397" / file
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; put the lists of Partitions.zip there, from "
                                    "vision.princeton.edu/projects/2010/SUN/download/Partitions.zip")
        listed = [line.lstrip("/") for line in lines_of(path)]
        missing = [name for name in listed if name not in labels]
        if missing:
            raise ValueError(f"{path}: {len(missing)} of {len(listed)} listed images are missing, first "
                             f"{missing[0]}; complete the set")
        found.append(samples(root, [data._data_dir / name for name in listed],
                             [labels[name] for name in listed], data.classes, str(path)))
    return found[0], None, found[1]


def cars(root: Path) -> tuple[Samples, Samples | None, Samples]:
    """Cars keeps pairs of path and label."""
    found = []
    for split in ("train", "test"):
        data = torchvision.datasets.StanfordCars(root, split)
        paths, labels = zip(*data._samples)
        found.append(samples(root, paths, labels, data.classes, f"{root} StanfordCars {split}"))
    return found[0], None, found[1]


def caltech101(root: Path) -> tuple[Samples, Samples | None, Samples]:
    """30 random images of each class train, always the same; the rest tests. (Kornblith et al., A.1; they
    count the background as a 102nd class, which torchvision leaves out.)"""
    data = torchvision.datasets.Caltech101(root)
    paths = [Path(data.root, "101_ObjectCategories", data.categories[label], f"image_{number:04d}.jpg")
             for label, number in zip(data.y, data.index)]
    whole = samples(root, paths, data.y, data.categories, f"{root} Caltech101")
    train = layouts.stratified(whole.labels, lambda count: min(30, count - 1), seed=0)
    return (whole.subset(np.flatnonzero(train), f"{whole.source} train"), None,
            whole.subset(np.flatnonzero(~train), f"{whole.source} test"))


def voc2007(root: Path) -> tuple[Samples, Samples | None, Samples]:
    """VOC2007 with its official train, val and test; labels as of layouts.voc."""
    trainval, test = layouts.voc_pair(root / "VOC2007", 2)
    path = root / "VOC2007" / "ImageSets" / "Main" / "train.txt"
    ids = set(path.read_text().split())
    train = np.array([trainval.path(row).stem in ids for row in range(len(trainval))])
    return (trainval.subset(np.flatnonzero(train), f"{root}/VOC2007 train"),
            trainval.subset(np.flatnonzero(~train), f"{root}/VOC2007 val"), test)


def tiny_imagenet(root: Path) -> tuple[Samples, Samples | None, Samples]:
    """The archive as it is unpacked: train/WNID/images/*.JPEG, val/images/*.JPEG with val_annotations.txt."""
    train, val = layouts.split_pair(root / "tiny-imagenet-200")
    return train, None, val


def imagenet100(root: Path) -> tuple[Samples, Samples | None, Samples]:
    """The 100 classes of IMAGENET100 out of the whole ImageNet."""
    found = []
    for part in layouts.split_pair(root / "imagenet"):
        missing = sorted(set(IMAGENET100) - set(part.classes))
        if missing:
            raise ValueError(f"{part.source}: expected the 100 classes of ImageNet-100, {len(missing)} are "
                             f"missing, first {missing[0]}; put the set into {root / 'imagenet100'}")
        new = np.full(len(part.classes), -1)
        new[[part.classes.index(wnid) for wnid in IMAGENET100]] = range(100)
        own = part.subset(np.flatnonzero(new[part.labels] >= 0), f"{part.source}, ImageNet-100")
        found.append(dataclasses.replace(own, labels=new[own.labels], classes=IMAGENET100))
    return found[0], None, found[1]


# Of contrastive multiview coding (arXiv 1906.05849), by solo/data/dataset_subset/imagenet100_classes.txt of
# vturrisi/solo-learn.
IMAGENET100 = tuple(sorted("""
    n02869837 n01749939 n02488291 n02107142 n13037406 n02091831 n04517823 n04589890 n03062245 n01773797
    n01735189 n07831146 n07753275 n03085013 n04485082 n02105505 n01983481 n02788148 n03530642 n04435653
    n02086910 n02859443 n13040303 n03594734 n02085620 n02099849 n01558993 n04493381 n02109047 n04111531
    n02877765 n04429376 n02009229 n01978455 n02106550 n01820546 n01692333 n07714571 n02974003 n02114855
    n03785016 n03764736 n03775546 n02087046 n07836838 n04099969 n04592741 n03891251 n02701002 n03379051
    n02259212 n07715103 n03947888 n04026417 n02326432 n03637318 n01980166 n02113799 n02086240 n03903868
    n02483362 n04127249 n02089973 n03017168 n02093428 n02804414 n02396427 n04418357 n02172182 n01729322
    n02113978 n03787032 n02089867 n02119022 n03777754 n04238763 n02231487 n03032252 n02138441 n02104029
    n03837869 n03494278 n04136333 n03794056 n03492542 n02018207 n04067472 n03930630 n03584829 n02123045
    n04229816 n02100583 n03642806 n04336792 n03259280 n02116738 n02108089 n03424325 n01855672 n02090622
""".split()))
BY_LAYOUT = tiny_imagenet, imagenet100  # layouts.py refuses what is no file


def _command(kind: str) -> str:
    return (f"fetch it with: python -c \"import torchvision.datasets as sets; "
            f"sets.{kind}('{{root}}', download=True)\"")


SMALL_SETS = {
    "food101": SmallSet("food-101", splits(torchvision.datasets.Food101, names=("train", "test")), "top1",
                        _command("Food101")),
    "cifar10": SmallSet("cifar-10-batches-py", cifar(torchvision.datasets.CIFAR10), "top1",
                        _command("CIFAR10")),
    "cifar100": SmallSet("cifar-100-python", cifar(torchvision.datasets.CIFAR100), "top1",
                         _command("CIFAR100")),
    "sun397": SmallSet("SUN397", sun397, "top1", _command("SUN397")),
    "cars": SmallSet("stanford_cars", cars, "top1", "its home is gone: put cars_train, cars_test, devkit and "
                     "cars_test_annos_withlabels.mat there, as torchvision.datasets.StanfordCars needs them"),
    "aircraft": SmallSet("fgvc-aircraft-2013b", splits(torchvision.datasets.FGVCAircraft), "mean_per_class",
                         _command("FGVCAircraft")),
    "dtd": SmallSet("dtd", splits(torchvision.datasets.DTD), "top1", _command("DTD")),
    "pets": SmallSet("oxford-iiit-pet", splits(torchvision.datasets.OxfordIIITPet, ("_images", "_labels"),
                                               ("trainval", "test")), "mean_per_class",
                     _command("OxfordIIITPet")),
    "caltech101": SmallSet("caltech101", caltech101, "mean_per_class", _command("Caltech101")),
    "flowers102": SmallSet("flowers-102", splits(torchvision.datasets.Flowers102), "mean_per_class",
                           _command("Flowers102")),
    "stl10": SmallSet("stl10_binary", packed_sets.stl10, "top1", _command("STL10")),
    "tiny_imagenet": SmallSet(
        "tiny-imagenet-200", tiny_imagenet, "top1", "fetch it with: cd {root} && curl -O http://cs231n.stanford."
        "edu/tiny-imagenet-200.zip && unzip -q tiny-imagenet-200.zip", "val"),
    "imagenet100": SmallSet(
        "imagenet", imagenet100, "top1", "put ImageNet there, as docs/data.md says, or its 100 classes into "
        "{root}/imagenet100/train and val", "val"),
    "voc2007": SmallSet("VOC2007", voc2007, "mAP_11point", "put the data set there"),
    own_sets.NAME: SmallSet("", own_sets.read, "top1", ""),
}
