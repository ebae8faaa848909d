"""What every part would take on the machines of the papers: computed here, from the real code, not measured.

    python -m benchmarks.scale                      # the tables; about two minutes on any machine
    python -m benchmarks.scale --write docs/speed.md    # and into the blocks of that file

Operations, memory and collectives are those of the real step on tensors without values (parallel/ledger.py,
pretrain/upkeep/forecast.py, benchmarks/detection_costs.py). Seconds follow from the rates below: a kernel
takes the longer of its operations and its bytes, collectives go round a ring. Gradients travel beside the
computation, everything else before it goes on. Kernel launches, stragglers and the host are not in it.
"""
import dataclasses
import functools
import sys
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import tabulate
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import common, detection_costs, detection_step, svm
from parallel.collectives import rehearsing
from parallel.files import write_whole
from parallel.ledger import Ledger, renewed
from pretrain.methods import recipe
from pretrain.upkeep.dryrun import duration
from pretrain.upkeep.forecast import forecast
from results.make import fill_blocks
from transfer.classification import knn, linear, svm_solver
from transfer.classification.features import features_of, freeze
from transfer.classification.heads import make_heads
from transfer.detection import configuration
from transfer.tasks import TASKS
from transfer.weights.readers import read

RANKS, BATCHES = (1, 8, 32, 256), (256, 512, 1024, 2048, 4096)
TRAIN, VALIDATION, CLASSES, WIDTH = 1_281_167, 50_000, 1000, 2048  # ImageNet, a ResNet-50's features
GIB = 2 ** 30


@dataclass(frozen=True)
class Rates:
    """What a GPU and its surroundings do in a second. Defaults: an H100 SXM in hosts of eight."""
    matrix: float = 800.0     # TFLOP/s of 16-bit matrix products, measured with large ones
    tf32: float = 400.0       # TFLOP/s of TF32's
    float32: float = 50.0     # TFLOP/s of exact ones
    share: float = 0.4        # of these three that the products and convolutions of a network reach
    memory: float = 3.0       # TB/s
    inside: float = 300.0     # GB/s of each GPU to others in its host (NVLink)
    between: float = 50.0     # GB/s of each GPU to other hosts
    host: int = 8             # GPUs in a host
    room: float = 80.0        # GiB of a GPU
    latency: float = 20.0     # microseconds that a collective takes at least
    views: float = 700.0      # of 224 pixels that one core makes: `fast` (benchmarks/views.py)
    disk: float = 1.0         # GB/s of a checkpoint's folder

    def computing(self, kernels, tf32=False) -> float:
        """Return the seconds of kernels one after the other."""
        exact = self.tf32 if tf32 else self.float32
        rates = [self.matrix if kernel.dtype.itemsize == 2 else exact for kernel in kernels]
        return sum(max(kernel.flops / rate / self.share, kernel.bytes / self.memory) / 1e12
                   for kernel, rate in zip(kernels, rates))

    def sending(self, messages, ranks) -> float:
        """Return the seconds of collectives one after the other; each process sends and receives its part of
        a ring."""
        rate = 1e9 * (self.inside if ranks <= self.host else self.between)
        rounds = {"all-reduce": 2, "all-gather": 1, "broadcast": 1}
        return sum(rounds[message.kind] * message.bytes * (ranks - 1) / ranks / rate + self.latency / 1e6
                   for message in messages)

    def step(self, cost, ranks) -> tuple[float, float, float, float]:
        """Return the seconds of a forecast step: computing, collectives that it waits for, those of the
        gradients, and the whole."""
        sent = {kind: self.sending(messages, ranks) for kind, messages in cost.traffic.items()}
        gradients, computing = sent.pop("gradients"), self.computing(cost.kernels)
        waiting = sum(sent.values())
        return computing, waiting, gradients, max(computing, gradients) + waiting


@dataclass(frozen=True)
class Sheet:
    """A table: name of its block, what it shows, and its rows."""
    name: str
    title: str
    columns: tuple[str, ...]
    rows: list[tuple]

    def text(self, form: str) -> str:
        """Return title and rows in a format of tabulate."""
        sides = ("left", *["right"] * (len(self.columns) - 1))
        table = tabulate.tabulate(self.rows, self.columns, form, disable_numparse=True, colalign=sides)
        return f"{self.title}\n\n{table}\n"


def pretraining(rates: Rates, batches=BATCHES, ranks=RANKS, **changes) -> list[Sheet]:
    """Return the tables of the paper's pretraining: cost and time of a step, bytes of its collectives, the
    checkpoint."""
    steps, traffic = [], []
    for batch in batches:
        for processes in ranks:
            cost = forecast(recipe("code", batch_size=batch, precision="bf16", **changes), processes)
            *_, seconds = parts = rates.step(cost, processes)
            cores = 2 * batch / processes / seconds / rates.views
            peak = f"{cost.peak_bytes / GIB:.1f}"
            steps.append((batch, processes, f"{cost.flops / 1e12:.2f}",
                          peak if cost.fits(rates.room) else f"too much: {peak}",
                          *(f"{1e3 * part:.1f}" for part in parts), f"{batch / seconds:,.0f}",
                          f"{cores:.1f}"))
            if processes > 1:
                traffic.append((batch, processes, *(
                    f"{sum(one.bytes for one in messages) / 1e6:.1f} in {len(messages)}"
                    for messages in cost.traffic.values())))
    size = cost.checkpoint_bytes
    return [Sheet("pretraining", "ResNet-50, 224 px, projector 8192-8192-8192, bfloat16, one step",
                  ("batch", "GPUs", "TFLOP a GPU", "peak GiB", "computing ms", "waiting ms", "gradients ms",
                   "step ms", "images/s", "cores a GPU"), steps),
            Sheet("collectives", "Megabytes of its collectives, and how many they are",
                  ("batch", "GPUs", *cost.traffic), traffic),
            Sheet("checkpoint", f"A checkpoint of it: {size / GIB:.2f} GiB, weights, statistics and momenta",
                  ("GB/s of the folder", "seconds"), [(rates.disk, f"{size / rates.disk / 1e9:.1f}")])]


def tasks(rates: Rates, batch=2048, ranks=8) -> Sheet:
    """Return the table of whole tasks by the paper's protocol on one host."""
    shared = recipe("code", batch_size=batch, precision="bf16")
    *_, seconds = rates.step(forecast(shared, ranks), ranks)
    rows = [("pretraining", f"{shared.epochs} epochs of batch {batch}, bfloat16",
             TRAIN // batch * shared.epochs * seconds)]
    image = rates.computing(linear_costs(ranks).kernels) / linear.IMAGENET.batch_size
    for name, config in (("imagenet_linear", linear.IMAGENET), ("places205_linear", linear.PLACES205),
                         ("inat18_linear", linear.INAT18)):
        images = TASKS[name].counts["train"]
        rows.append((name, f"{config.epochs} epochs of {images:,} images", config.epochs * images * image))
    _, gpu = nearest_costs(ranks)
    rows.append(("imagenet_knn", f"features of {TRAIN + VALIDATION:,} images, and the search",
                 (TRAIN + VALIDATION) * image + rates.computing(gpu.kernels)))
    for name, yaml in zip(("voc_det", "coco_det"), detection_step.YAMLS):
        solver = configuration.build(yaml, ()).SOLVER
        for precision, pairs in detection_step.PRECISIONS.items():
            costs = detection_costs.step_costs(yaml, pairs, solver.IMS_PER_BATCH // ranks)
            what = f"{solver.MAX_ITER:,} iterations of {solver.IMS_PER_BATCH} images, {precision}"
            rows.append((name, what,
                         solver.MAX_ITER * rates.computing(costs.kernels, tf32=precision != "float32")))
    return Sheet("tasks", f"Whole tasks on {ranks} GPUs; float32 unless it says more",
                 ("task", "what", "at least"), [(*row, duration(seconds)) for *row, seconds in rows])


def detection(rates: Rates, images=2) -> Sheet:
    """Return the table of both papers' detectors on one GPU."""
    rows = []
    for yaml in detection_step.YAMLS:
        for name, pairs in detection_step.PRECISIONS.items():
            costs = detection_costs.step_costs(yaml, pairs, images)
            seconds = rates.computing(costs.kernels, tf32=name != "float32")
            rows.append((yaml.removesuffix(".yaml"), name, f"{costs.flops / 1e12:.2f}",
                         f"{costs.peak / GIB:.1f}", f"{1e3 * seconds:.0f}", f"{1 / seconds:.1f}"))
    return Sheet("detection", f"Detectors, {images} images of the largest size on one GPU, one iteration",
                 ("config", "precision", "TFLOP", "peak GiB", "computing ms", "iterations/s"), rows)


def features(rates: Rates, ranks=(1, 8, 32)) -> Sheet:
    """Return the table of the classification tasks: memory of kNN and linear evaluation on ImageNet, of the
    SVMs on VOC07."""
    rows = []
    for processes in ranks:
        host, gpu = nearest_costs(processes)
        rows.append((f"kNN, {processes} GPUs", f"{host.peak / GIB:.2f}", f"{gpu.peak / GIB:.2f}",
                     f"{rates.computing(gpu.kernels):.1f} s for all neighbours"))
    for processes in ranks:
        step = linear_costs(processes)
        kept = 4 * WIDTH * -(-VALIDATION // processes)  # features.extract, of the validation images
        rows.append((f"linear, {processes} GPUs", f"{kept / GIB:.2f}", f"{step.peak / GIB:.2f}",
                     f"{1e3 * rates.computing(step.kernels):.1f} ms a step of 256 images"))
    rows.append(("SVM of VOC07", f"{svm_bytes() / GIB:.2f}", "0", f"with {TRAIN:,} images the kernel matrix "
                 f"alone would take {8 * TRAIN ** 2 / GIB / 1024:.0f} TiB"))
    return Sheet("features", "Classification: memory of one process in GiB, and its computing",
                 ("task", "host", "GPU", "computing"), rows)


@functools.cache
def nearest_costs(processes, train=TRAIN, validation=VALIDATION):
    """Return the ledgers (host, GPU) of kNN's search in one of so many processes."""
    config = knn.Config()
    with (FakeTensorMode(), rehearsing(processes, lambda *_: None), Ledger("cpu") as host,
          Ledger("cuda") as gpu):
        rows = -(-train // processes)
        bank, labels = torch.empty(rows, WIDTH), torch.empty(rows, dtype=torch.int64)
        knn.predict(bank, labels, torch.empty(validation, WIDTH), CLASSES, config.k, config.temperature,
                    torch.device("cuda"))
    return host, gpu


@functools.cache
def linear_costs(processes):
    """Return the ledger of a step of linear evaluation in one of so many processes."""
    config, count = linear.IMAGENET, -(-linear.IMAGENET.batch_size // processes)
    device = torch.device("cpu")
    backbone = read("random")
    network, heads = freeze(backbone, device), make_heads(config, backbone.arch.width, CLASSES, 0, device)
    with FakeTensorMode(allow_non_fake_inputs=True), Ledger() as ledger:
        renewed(network)
        renewed(heads)
        sgd = linear.optimiser_of(heads, config)
        for _ in range(2):  # the first makes the momenta
            ledger.restart()
            pictures = torch.empty(count, 3, config.image_size, config.image_size, dtype=torch.uint8)
            labels = torch.empty(count, dtype=torch.int64)
            linear.train_step(heads, sgd, features_of(network, pictures, device, "float32"), labels, count)
    return ledger


def svm_bytes():
    """Return the most that NumPy allocates for a class of VOC07: features, kernel matrix, a fold at one cost
    that Newton's method solves."""
    tracemalloc.start()
    images, target = svm.problem()
    tracemalloc.reset_peak()
    svm_solver.fold_scores(images, svm_solver.gram(images), target, 0, svm.OURS._replace(costs=(100.0,)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def main(arguments=None) -> int:
    args = vars(common.options(__doc__, arguments, write="", **dataclasses.asdict(Rates())))
    path, rates = args.pop("write"), Rates(**args)
    sheets = [tasks(rates), *pretraining(rates), detection(rates), features(rates)]
    for sheet in sheets:
        print(sheet.text("simple"))
    if path:
        texts = {sheet.name: sheet.text("github") for sheet in sheets}
        write_whole(Path(path), fill_blocks(Path(path).read_text("utf-8"), texts, path, "scale"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
