"""Images per second of the view backends on one core, as ratios to the official Pillow pipeline.

    python -m benchmarks.views

Each image is decoded from JPEG and becomes two views of 224 pixels, float32 and ready for the network unless
the row says otherwise. "worker" rows are a loader process's part; the device does the rest. All backends get
the same draws. The photographs are scikit-learn's, cropped and resampled to about 500 x 375, JPEG quality 95.
"""
import io
import statistics
import sys

import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import default_collate
from torchvision.transforms import functional

from benchmarks import common
from benchmarks.common import compare, ratio
from parallel.pixels import MEAN, STD
from pretrain.pictures.augment import VIEWS, draws, make_backend
from pretrain.pictures.views_pil import apply

FLAGS = {}
SIZE = 224  # that of the default views


def photographs() -> list[bytes]:
    """Return eight JPEG files: four crops of each of two photographs, about 500 x 375 pixels."""
    files = []
    for photograph in load_sample_images().images:  # 640 x 427
        for left, top, width in ((0, 0, 569), (71, 0, 569), (20, 20, 500), (120, 40, 516)):
            cut = Image.fromarray(photograph).crop((left, top, left + width, top + width * 3 // 4))
            file = io.BytesIO()
            cut.resize((500, 375), Image.Resampling.LANCZOS).save(file, "JPEG", quality=95)
            files.append(file.getvalue())
    return files


def official(file, index, size=SIZE):
    """Compute the two views (3, size, size), float32, by the official pipeline: Pillow, to_tensor and
    normalize."""
    with Image.open(io.BytesIO(file)) as picture:
        image = picture.convert("RGB")
    return [functional.normalize(functional.to_tensor(apply(image, one, size)), MEAN, STD)
            for one in draws(VIEWS, *image.size, 0, 0, index)]


def worker(name):
    backend = make_backend(name)
    return lambda file, index: backend.views(backend.decode(file), 0, 0, index)


def whole(name):
    backend = make_backend(name)
    return lambda file, index: backend.finish(
        default_collate([backend.views(backend.decode(file), 0, 0, index)]), torch.device("cpu"))


def whole_batch(backend, files, first):
    items = [backend.views(backend.decode(file), 0, 0, first + number) for number, file in enumerate(files)]
    return backend.finish(default_collate(items), torch.device("cpu"))


def over(files, function, repeats):
    """Do one round's work: every file with `repeats` draws."""
    def work():
        for index in range(len(files) * repeats):
            function(files[index % len(files)], index)
    return work


def measure(args):
    torch.set_num_threads(1)
    files, repeats = photographs(), 4
    device = make_backend("device")
    competitors = {"official": over(files, official, repeats)}
    competitors |= {name: over(files, whole(name), repeats) for name in ("pil", "fast")}
    competitors["device, its part on this core, too"] = lambda: [
        whole_batch(device, files, number * len(files)) for number in range(repeats)]
    competitors |= {f"{name}, worker (8 bits)": over(files, worker(name), repeats)
                    for name in ("pil", "fast", "device")}
    seconds, images = compare(competitors), len(files) * repeats
    return [common.Row(name, "speed, official is 1", ratio(seconds["official"], own),
                       beside=f"{images / statistics.median(own):.0f} images/s")
            for name, own in seconds.items()]


if __name__ == "__main__":
    sys.exit(common.main(__doc__, FLAGS, measure))
