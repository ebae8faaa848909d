"""Toy data and a toy backbone for the tests of transfer/classification."""
import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from transfer.settings import Context
from transfer.weights.architectures import ARCHITECTURES
from transfer.weights.backbone import Backbone

CLASSES = ("apple", "boat", "cat")


@cache
def backbone(arch="resnet50") -> Backbone:
    """Random weights; batch-norm statistics and scales away from 0 and 1, so that folding them matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ARCHITECTURES[arch].network()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for tensor, low, high in ((module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 1.5),
                                          (module.weight.data, 0.3, 0.9), (module.bias.data, -0.2, 0.2)):
                    tensor.uniform_(low, high)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    return Backbone("toy", "torchvision", state, "0" * 64, "toy.pth", ARCHITECTURES[arch])


def context(data: Path, out: Path, **changes) -> Context:
    out.mkdir(parents=True, exist_ok=True)
    plain = Context(out=out, data=data, gpus=1, workers=0, seed=0, device="cpu")
    return dataclasses.replace(plain, **changes)


def picture(path: Path, label: int, number: int) -> None:
    """A small noisy image whose colour says the class; every fifth is greyscale, as some in ImageNet."""
    noise = np.random.default_rng((label, number))
    pixels = noise.integers(0, 120, (40, 48, 3)).astype(np.uint8)
    pixels[..., label % 3] += 120
    image = Image.fromarray(pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    (image.convert("L") if number % 5 == 4 else image).save(path)


def image_tree(root: Path, train: int = 5, val: int = 3, classes=CLASSES) -> Path:
    """root/{train,val}/CLASS/CLASS_<n>.JPEG; the last class has one image less in each split."""
    for split, count, offset in (("train", train, 0), ("val", val, 100)):
        for label, name in enumerate(classes):
            for number in range(count - (label == len(classes) - 1)):
                picture(root / split / name / f"{name}_{number}.JPEG", label, number + offset)
    return root


def voc_tree(root: Path, trainval: int = 18, test: int = 9, lists: bool = False) -> Path:
    """root/{Annotations,JPEGImages,ImageSets/Main} of CLASSES; image n holds class n % 3, every fourth a
    difficult object of the next class too."""
    for split, first, count in (("trainval", 0, trainval), ("test", 500, test)):
        ids = [f"{number:06d}" for number in range(first, first + count)]
        main = root / "ImageSets" / "Main"
        main.mkdir(parents=True, exist_ok=True)
        (main / f"{split}.txt").write_text("\n".join(ids) + "\n")
        labels = {name: {} for name in CLASSES}
        for number, image in enumerate(ids, first):
            objects = [(CLASSES[number % 3], 0)]
            if number % 4 == 0:
                objects.append((CLASSES[(number + 1) % 3], 1))
            picture(root / "JPEGImages" / f"{image}.jpg", number % 3, number)
            text = "".join(f"<object><name>{name}</name><difficult>{flag}</difficult></object>"
                           for name, flag in objects)
            (root / "Annotations").mkdir(exist_ok=True)
            (root / "Annotations" / f"{image}.xml").write_text(f"<annotation>{text}</annotation>")
            for name, flag in objects:
                labels[name][image] = 0 if flag else 1
        if lists:
            for name in CLASSES:
                rows = "".join(f"{image} {labels[name].get(image, -1):2d}\n" for image in ids)
                (main / f"{name}_{split}.txt").write_text(rows)
    return root


def plain_network(dtype=torch.float64, arch="resnet50"):
    """The backbone as torchvision runs it: nothing folded."""
    network = ARCHITECTURES[arch].network()
    network.load_state_dict(backbone(arch).state)
    return network.to(dtype)
