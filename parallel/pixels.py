"""Picture files as RGB, by one rule for pretraining and classification (docs/data.md):
torchvision's, Pillow's convert("RGB"), but for grey pictures of more than 8 bits. Needs no torch.
"""
import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

# ImageNet's mean and standard deviation, RGB in 0-1, by which all pictures are normalised (barlowtwins
# evaluate.py:120-121).
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LARGEST_PICTURE = 2 ** 28  # bytes of a file

warnings.filterwarnings("ignore", "Palette images with Transparency")  # which is left out, as any


def read_picture(path: str | Path) -> bytes:
    """Return a picture file's bytes. Raises OSError, or ValueError for a file larger than any picture."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST_PICTURE:
            raise ValueError(f"expected at most {LARGEST_PICTURE >> 20} MiB, found {size >> 20} MiB")
        return file.read()


def open_rgb(data: bytes) -> Image.Image:
    """Return the RGB picture of a file's bytes. Raises ValueError with the reason, one line."""
    try:
        with Image.open(io.BytesIO(data)) as file:
            return _rgb(file)
    except Exception as error:  # Pillow raises many types for broken files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "unknown format"  # Pillow's message names our buffer
        raise ValueError(f"{reason}, {len(data)} bytes") from None


def _rgb(file: Image.Image) -> Image.Image:
    """Pillow cuts levels above 255 off, so that deep grey turns white. Taken are the upper 8 of 16 bits, as
    Pillow does with 16-bit colour. Some of its versions open 16-bit PNG, and all 16-bit PGM, as I. Files of
    32 bits often keep fewer: the fewest of 8, 16 and 32 count that hold their largest level."""
    if file.mode.startswith("I"):
        levels = np.asarray(file).astype(np.int64)
        if levels.min() < 0:
            raise ValueError(f"expected levels from 0, found {levels.min()}")
        deep = file.mode == "I" and file.format not in ("PNG", "PPM")
        bits = next(bits for bits in (8, 16, 32) if levels.max() < 2 ** bits) if deep else 16
        return Image.fromarray((levels >> bits - 8).astype(np.uint8)).convert("RGB")
    if file.mode == "F":
        levels = np.asarray(file)
        if not (0 <= levels.min() and levels.max() <= 1):  # not a number, too
            raise ValueError(f"expected fractions from 0 to 1, found {levels.min():g} to {levels.max():g}")
        return Image.fromarray(np.round(255 * levels).astype(np.uint8)).convert("RGB")
    return file.convert("RGB")
