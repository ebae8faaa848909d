"""One rule for pixels: every decoder of pretraining and of classification gives the same levels, by hand."""
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from parallel import pixels
from pretrain.pictures import resident, views_fast
from pretrain.pictures.sources import Files
from pretrain.pictures.views_pil import open_rgb
from transfer.classification.images import Images
from transfer.classification.layouts import image_folder

WIDE = np.array([[0, 255, 256, 1000, 32768, 65535]], np.uint16)


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def wide_png(colour, values):
    """A PNG file of one line with 16 bits a value."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    width = len(values) // {0: 1, 2: 3, 4: 2}[colour]
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, 16, colour, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(f">{len(values)}H", *values)))
            + chunk(b"IEND", b""))


def palette(**options):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    return encoded(image, "PNG", **options)


def frames(form):
    return encoded(Image.new("RGB", (2, 1), (250, 0, 0)), form, save_all=True, append_images=[
        Image.new("RGB", (2, 1), (0, 250, 0))], **({"lossless": True} if form == "WEBP" else {}))


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.new("RGB", (3, 1), (9, 9, 9)), "JPEG", exif=exif)


def greys(*levels):
    return [[level] * 3 for level in levels]


def array(values, kind):
    return Image.fromarray(np.array(values, kind))


UPPER = greys(0, 0, 1, 3, 128, 255)  # of WIDE
# name: file, levels of its first row
LEVELS = {
    "png 16": (wide_png(0, WIDE[0]), UPPER),
    "png 16 colour": (wide_png(2, [0, 255, 256, 1000, 32768, 65535]), [[0, 0, 1], [3, 128, 255]]),
    "png 16 alpha": (wide_png(4, [1000, 0, 32768, 65535]), greys(3, 128)),
    "tiff 16": (encoded(Image.fromarray(WIDE), "TIFF"), UPPER),
    "tiff 16 big-endian": (
        encoded(Image.frombytes("I;16B", (6, 1), WIDE.byteswap().tobytes()), "TIFF"), UPPER),
    "tiff 32": (encoded(array([[0, 2 ** 24, 2 ** 31 - 1]], np.int32), "TIFF"), greys(0, 1, 127)),
    "tiff 32 of 16": (encoded(Image.fromarray(WIDE.astype(np.int32)), "TIFF"), UPPER),
    "tiff 32 of 8": (encoded(array([[0, 77, 255]], np.int32), "TIFF"), greys(0, 77, 255)),
    "tiff of floats": (encoded(array([[0, 0.5, 1]], np.float32), "TIFF"), greys(0, 128, 255)),
    "pgm 16": (b"P5 6 1 65535\n" + WIDE.byteswap().tobytes(), UPPER),
    "pgm 10": (b"P5 2 1 1023\n" + struct.pack(">HH", 512, 1023), greys(128, 255)),
    "one bit": (encoded(array([[True, False]], bool), "PNG"), greys(255, 0)),
    "grey alpha": (encoded(Image.merge("LA", [Image.new("L", (1, 1), 10), Image.new("L", (1, 1), 0)]), "PNG"),
                   greys(10)),
    "alpha": (encoded(Image.new("RGBA", (1, 1), (10, 20, 30, 0)), "PNG"), [[10, 20, 30]]),
    "palette": (palette(), [[10, 20, 30], [200, 100, 50]]),
    "palette with alpha": (palette(transparency=b"\x00\x80"), [[10, 20, 30], [200, 100, 50]]),
    "palette with a hole": (palette(transparency=1), [[10, 20, 30], [200, 100, 50]]),
    "cmyk": (encoded(Image.new("CMYK", (8, 8), (10, 20, 30, 40)), "TIFF"), [[207, 198, 190]] * 8),
    "adobe's inverted cmyk": (encoded(Image.new("CMYK", (8, 8), (10, 20, 30, 40)), "JPEG", quality=100),
                              [[207, 198, 190]] * 8),
    "gif": (frames("GIF"), [[250, 0, 0]] * 2), "apng": (frames("PNG"), [[250, 0, 0]] * 2),
    "webp": (frames("WEBP"), [[250, 0, 0]] * 2),
    "a turned camera": (rotated(), greys(9, 9, 9)),
    "jpeg": (encoded(Image.new("L", (8, 8), 77), "JPEG"), greys(*[77] * 8)),
}
PNG = encoded(Image.effect_noise((9, 9), 50), "PNG")
JPEG = encoded(Image.new("RGB", (8, 8)), "JPEG")
START = JPEG.index(b"\xff\xc0") + 5  # of height and width
REFUSED = {
    "negative levels": (encoded(array([[0, -1]], np.int32), "TIFF"), "expected levels from 0, found -1"),
    "floats above 1": (encoded(array([[0, 1.5]], np.float32), "TIFF"), "from 0 to 1, found 0 to 1.5"),
    "floats, one none": (encoded(array([[0, np.nan]], np.float32), "TIFF"), "from 0 to 1, found nan"),
    "empty": (b"", "unknown format, 0 bytes"), "text": (b"<html>", "unknown format, 6 bytes"),
    "cut png": (PNG[:-30], "truncated"), "cut jpeg": (JPEG[:-60], "runcated"),
    "a bomb": (PNG[:16] + struct.pack(">II", 60000, 60000) + PNG[24:], ""),
    "a jpeg bomb": (JPEG[:START] + struct.pack(">HH", 65000, 65000) + JPEG[START + 4:], "decompression bomb"),
    "no width": (JPEG[:START] + b"\0\0\0\0" + JPEG[START + 4:], ""),
}


def by_transfer(data, folder):
    """The item of a folder's only picture, left at its size."""
    (folder / "a").mkdir()
    (folder / "a" / "x.png").write_bytes(data)
    images = Images(image_folder(folder), 8, augment=False)
    images.transform = lambda image: image
    found = images[0, 0]
    return found if isinstance(found, str) else found[0].permute(1, 2, 0).numpy()


def by_device(data, folder):
    (folder / "x.png").write_bytes(data)
    _, found = resident.Pictures(Files.of_folder(folder))[0]
    return found if isinstance(found, str) else found.transpose(0, 2, 1)


def by(decode):
    def run(data, folder):
        try:
            return np.asarray(decode(data))
        except ValueError as error:
            return str(error)
    return run


DECODERS = {"pil": by(open_rgb), "fast": by(lambda data: views_fast.decode(data).permute(1, 2, 0)),
            "device": by_device, "transfer": by_transfer}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # as pixels.py does
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", LEVELS)
def test_levels(tmp_path, name, decoder):
    data, row = LEVELS[name]
    assert DECODERS[decoder](data, tmp_path)[0].tolist() == row


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_one_line(tmp_path, name, decoder):
    data, reason = REFUSED[name]
    found = DECODERS[decoder](data, tmp_path)
    assert isinstance(found, str) and "\n" not in found
    pytest.raises(ValueError, pixels.open_rgb, data).match(reason)


def test_a_file_larger_than_any_picture_is_not_read(tmp_path):
    with open(tmp_path / "x.png", "wb") as file:
        file.truncate(2 ** 40)
    with pytest.raises(ValueError, match="expected at most 256 MiB, found 1048576 MiB"):
        pixels.read_picture(tmp_path / "x.png")


@pytest.mark.parametrize("decoder", DECODERS)
def test_pillows_limit_holds_for_sound_pictures_and_each_decoder(tmp_path, monkeypatch, decoder):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8 * 8 / 2 - 1)
    assert "decompression bomb" in DECODERS[decoder](JPEG, tmp_path)
