"""The views by the official Pillow operations: the reference for the other backends."""
import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional

from parallel import pixels
from pretrain.pictures.augment import ViewParameters, Views, draws

ADJUST = {"brightness": functional.adjust_brightness, "contrast": functional.adjust_contrast,
          "saturation": functional.adjust_saturation, "hue": functional.adjust_hue}


def open_rgb(data: bytes | np.ndarray) -> Image.Image:
    """Return an RGB picture from an encoded file's bytes or an array (H, W, 3) uint8. Raises ValueError with
    the reason."""
    if isinstance(data, np.ndarray):
        return Image.fromarray(checked(data))
    try:
        return pixels.open_rgb(data)
    except ValueError as error:
        raise ValueError(f"not a readable picture ({error})") from None


def checked(array: np.ndarray) -> np.ndarray:
    """Return the array if it can be an RGB picture. Raises ValueError if not."""
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ValueError("not a picture (expected an array (height, width, 3) of uint8, found "
                         f"{array.shape} of {array.dtype})")
    return array


def apply(image: Image.Image, parameters: ViewParameters, size: int) -> Image.Image:
    """Turn an RGB picture into a view of size x size pixels, as drawn."""
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


class PillowViews(Views):
    """views: (3, size, size) uint8 each."""

    def decode(self, data: bytes | np.ndarray) -> Image.Image:
        return open_rgb(data)

    def views(self, picture: Image.Image, seed: int, epoch: int, index: int) -> tuple[torch.Tensor, ...]:
        drawn = draws(self.recipes, *picture.size, seed, epoch, index)
        pictures = [apply(picture, one, recipe.size) for recipe, one in zip(self.recipes, drawn)]
        return tuple(torch.from_numpy(np.array(one)).permute(2, 0, 1).contiguous() for one in pictures)
