"""The two asymmetric views (BYOL's, arXiv 2006.07733), numbers as main.py:290-321 of the official code.

`sample` draws what is to be done to a picture, `apply` does it with the official Pillow operations. A
picture's two draws depend on (seed, epoch, index) alone, so the number of workers changes nothing.
"""
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, RGB in 0-1


@dataclass(frozen=True)
class ViewRecipe:
    """Probabilities and ranges of one view."""
    blur: float  # probability
    solarise: float  # probability
    scale: tuple[float, float] = (0.08, 1.0)  # share of the picture's area
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grey: float = 0.2
    blur_radius: tuple[float, float] = (0.1, 2.0)  # Pillow's radius, in pixels of the view


VIEWS = (ViewRecipe(blur=1.0, solarise=0.0), ViewRecipe(blur=0.1, solarise=0.2))


@dataclass(frozen=True)
class ViewParameters:
    """What is done to one picture, in this order."""
    box: tuple[int, int, int, int]  # left, top, width, height in the picture's pixels
    flip: bool
    jitter: tuple[tuple[str, float], ...]  # operations with their factors, in their order; empty: none
    grey: bool
    blur: float | None  # Pillow's radius
    solarise: bool


def sample(recipe: ViewRecipe, width: int, height: int, draw: random.Random) -> ViewParameters:
    """Draw one view of a width x height picture. Everything is drawn whether used or not, so that a changed
    probability leaves the other operations as they were."""
    box = sample_box(recipe, width, height, draw)
    flip = draw.random() < recipe.flip
    jitter = [(name, draw.uniform(1 - reach, 1 + reach)) for name, reach in (
        ("brightness", recipe.brightness), ("contrast", recipe.contrast), ("saturation", recipe.saturation))]
    jitter.append(("hue", draw.uniform(-recipe.hue, recipe.hue)))
    draw.shuffle(jitter)
    jitter = tuple(jitter) if draw.random() < recipe.jitter else ()
    grey = draw.random() < recipe.grey
    radius = draw.uniform(*recipe.blur_radius)
    blur = radius if draw.random() < recipe.blur else None
    return ViewParameters(box, flip, jitter, grey, blur, draw.random() < recipe.solarise)


def sample_box(recipe, width, height, draw):
    """Ten tries for a box of a random area and aspect, then the largest central one: as torchvision's
    RandomResizedCrop."""
    found = None
    for _ in range(10):
        area = width * height * draw.uniform(*recipe.scale)
        aspect = math.exp(draw.uniform(math.log(recipe.ratio[0]), math.log(recipe.ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if found is None and 0 < w <= width and 0 < h <= height:
            found = draw.randint(0, width - w), draw.randint(0, height - h), w, h
    if found:
        return found
    low, high = recipe.ratio
    w = min(width, round(height * high))
    h = min(height, round(width / low))
    return (width - w) // 2, (height - h) // 2, w, h


ADJUST = {"brightness": functional.adjust_brightness, "contrast": functional.adjust_contrast,
          "saturation": functional.adjust_saturation, "hue": functional.adjust_hue}


def apply(image: Image.Image, parameters: ViewParameters, size: int) -> Image.Image:
    """An RGB picture and a draw -> an RGB view of size x size pixels."""
    left, top, width, height = parameters.box
    image = functional.resized_crop(image, top, left, height, width, [size, size],
                                    functional.InterpolationMode.BICUBIC)
    if parameters.flip:
        image = functional.hflip(image)
    for name, factor in parameters.jitter:
        image = ADJUST[name](image, factor)
    if parameters.grey:
        image = functional.rgb_to_grayscale(image, num_output_channels=3)
    if parameters.blur is not None:
        image = image.filter(ImageFilter.GaussianBlur(parameters.blur))
    return ImageOps.solarize(image) if parameters.solarise else image


def two_views(image: Image.Image, size: int, seed: int, epoch: int, index: int, views=VIEWS):
    """A picture -> its two views of this epoch, each (3, size, size) float32, normalised."""
    draw = random.Random(f"{seed} {epoch} {index}")  # hashed by Python, the same everywhere
    pictures = [apply(image, sample(recipe, *image.size, draw), size) for recipe in views]
    return tuple(functional.normalize(functional.to_tensor(picture), MEAN, STD) for picture in pictures)
