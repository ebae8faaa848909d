"""A step of pretraining on the released recipe: the official way and ours, and what limits both.

The official step is restated from main.py of facebookresearch/barlowtwins: float16 autocast with a scaler
around the network and the loss, contiguous images, LARS a parameter at a time, views by Pillow in the
loader's processes. On one GPU its DistributedDataParallel and SyncBatchNorm would change nothing and are left
out.
"""
import collections
import itertools
import shutil
import statistics
import tarfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import common, lars, plain_losses, views
from pretrain import methods, trainer
from pretrain.methods import recipe as make_recipe
from tools.gpu_kit.job import Job
from tools.gpu_kit.pack import PICTURES

SIZES = {"batch_size": 256}  # and the released recipe: resnet50, 224 pixels, 8192-8192-8192
SMALL = {"batch_size": 4, "arch": "resnet18", "image_size": 32, "projector": "64-64-64"}
COMPILING = 60  # seconds of the budget that the first compilation may need


@dataclass
class Competitor:
    """One way to take a step. step takes a pair of views; pair: random ones, in the right layout; training:
    of ours."""
    step: Callable
    pair: tuple[torch.Tensor, ...]
    training: trainer.Training | None = None

    def __call__(self):
        self.step(self.pair)


def measure(job: Job) -> int:
    device = trainer.local_device(job.device)
    torch.backends.cudnn.benchmark = True
    product = ceilings(job, device)
    pictures = photographs(job)
    ways = {"official": built(job, "official", device, lambda: official(job, device))}
    for precision in ("bf16", "fp16"):
        name = f"ours {precision}"
        ways[name] = built(job, name, device, lambda: ours(job, precision, pictures))
    with FlopCounterMode(display=False) as counter:
        ways["official"]()
    flops = counter.get_total_flops()
    job.note("arithmetic of a step", flops / 1e12, "TFLOP")

    def race(ways, new):
        """Time the ways side by side; note the speed of the new ones. Returns images per second."""
        seconds = common.compare(ways, *((1, 0) if job.small else (5, 0.5)), common.synchroniser(device))
        rates = {name: size_of(job)["batch_size"] / statistics.median(own) for name, own in seconds.items()}
        for name in new:
            job.note(f"{name}: on the device", rates[name], "images/s")
            share = flops / statistics.median(seconds[name]) / product
            job.note(f"{name}: model FLOP utilisation", 100 * share, "% of the measured product")
        first, *others = ways
        for name in others:
            ratio = common.ratio(seconds[first], seconds[name])
            job.note(f"{name} over {first}", ratio.median, f"times ({ratio.low:.2f}-{ratio.high:.2f})",
                     **job.goal(least=1.8) if first == "official" else {})
        return rates

    rates = race(ways, ways)
    for name in ("official", "ours bf16"):
        look_inside(job, name, ways[name], device)
        note_fed(job, name, ways[name], pictures, rates[name], device)
    needed = COMPILING
    for precision in ("bf16", "fp16"):
        eager, name = f"ours {precision}", f"ours {precision}, compiled"
        if job.small or job.left() < needed:
            job.cannot(f"{name}: on the device", "the miniature leaves the compiler out" if job.small else
                       f"{job.left():.0f} s were left, compiling may need {needed:.0f}")
            continue
        began = time.monotonic()
        way = built(job, name, device, lambda: ours(job, precision, pictures, compiled=True))
        job.note(f"{name}: seconds before it runs", time.monotonic() - began, "s")
        race({eager: ways[eager], name: way}, [name])
        needed = 1.2 * (time.monotonic() - began)
    return 0


def size_of(job):
    return SMALL if job.small else SIZES


def recipe_of(job, precision):
    return make_recipe("code", precision=precision, views="device", epochs=1, **size_of(job))


def built(job, name, device, make):
    """Return what `make` returns after its first steps, by when a scaler has found its factor; note the most
    memory that all this took, weights included."""
    way, most = common.built(make, device, 2 if job.small else 10)
    job.note(f"{name}: peak memory", most / 2**30, "GiB")
    return way


def random_views(recipe, device, memory_format):
    shape = recipe.batch_size, 3, recipe.image_size, recipe.image_size
    return tuple(torch.randn(shape, device=device).contiguous(memory_format=memory_format) for _ in range(2))


def ours(job, precision, pictures, compiled=False):
    """Our trainer's step; on a CPU in the layout of a GPU, too."""
    run = trainer.Run(pictures, job.work, device=job.device, workers=job.workers, compile=compiled,
                      channels_last=True, data_on="host")
    training = trainer.prepare(recipe_of(job, precision), run)
    return Competitor(stepper(training), random_views(training.recipe, training.device, run.memory_format),
                      training)


def stepper(training):
    """Return a function that takes the next step on a pair of views, with what the trainer's loop does after
    each: the processes' news, and the numbers of an earlier step."""
    count, unread = itertools.count(), collections.deque()
    training.network.train()

    def step(pair):
        seen = trainer.train_step(training, next(count), pair)
        unread.append(trainer.on_its_way(torch.cat([seen.numbers, trainer.news(training)])))
        while len(unread) > trainer.LATE[training.device.type]:
            unread.popleft()()
    return step


def official(job, device):
    """The official step. (A CPU computes float16 a hundred times slower; the miniature takes bfloat16.)"""
    recipe, dtype = recipe_of(job, "fp16"), torch.bfloat16 if job.small else torch.float16
    network = methods.build(recipe).to(device).train()
    optimizer, scaler = lars.Plain(list(network.parameters())), torch.amp.GradScaler(device.type)

    def step(pair):
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=dtype):
            z1, z2 = network(*pair)
            c = (network.bn(z1).T @ network.bn(z2)).div_(len(z1))
            value = plain_losses.redundancy(c, recipe.lambd)
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
    return Competitor(step, random_views(recipe, device, torch.contiguous_format))


# What limits a step

def ceilings(job, device):
    """Measure a matrix product and a copy, on random data. Returns the product's FLOP/s."""
    n, elements = (512, 2**20) if job.small else (8192, 2**30)
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randint(0, 255, (elements,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = common.compare({"product": lambda: a @ b, "copy": lambda: target.copy_(source)}, 5, 0.2,
                             common.synchroniser(device))
    product = 2 * n**3 / statistics.median(seconds["product"])
    job.note(f"bfloat16 product of {n} x {n} x {n}", product / 1e12, "TFLOP/s")
    job.note("copy, read and written", 2 * elements / statistics.median(seconds["copy"]) / 1e12, "TB/s")
    return product


def look_inside(job, name, step, device):
    """Count the waits of the host in a step, and keep a profile of three."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        count, places = host_waits(step, 3)
        job.note(f"{name}: waits of the host", count, "a step")
        print("\n".join(places), flush=True)
    else:
        job.cannot(f"{name}: waits of the host", "a CPU does its work at once")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        for _ in range(3):
            step()
        common.synchroniser(device)()
    averages = profiler.key_averages()
    order = f"self_{'device' if on_gpu else 'cpu'}_time_total"
    with open(job.out / "profile.txt", "a") as file:
        file.write(f"{name}, three steps\n{averages.table(sort_by=order, row_limit=25)}\n\n")
    if on_gpu:
        calls = {one.key: one.count for one in averages}
        launches = sum(count for key, count in calls.items() if key.startswith(("cudaLaunch", "cuLaunch")))
        job.note(f"{name}: kernels started", launches / 3, "a step")


def host_waits(step, steps):
    """Return the mean number of operations in a step for which the host waits, and a line for each place. An
    event that it waits for, as for the numbers of the step before, is not among them."""
    step()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(steps):
                step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [one for one in caught if "synchroniz" in str(one.message)]
    places = collections.Counter(f"{one.filename}:{one.lineno}" for one in waits)
    return len(waits) / steps, [f"{count / steps:g} waits a step at {place}"
                                for place, count in places.items()]


# Fed from files

def photographs(job):
    """Unpack the photographs and write a list that repeats them for as many batches as `note_fed` may take.
    Returns the list."""
    if not (job.pack / PICTURES).is_file():
        raise FileNotFoundError(f"{job.pack / PICTURES}: no such file; run tools/gpu.py --pack first")
    folder = job.work / "photographs"
    with tarfile.open(job.pack / PICTURES) as archive:
        archive.extractall(folder, filter="data")
    names = sorted(path.name for path in folder.glob("*.jpg"))
    needed = size_of(job)["batch_size"] * (sum(waves(job)) + 1)
    path = folder / "list.txt"
    path.write_text("".join(f"{name}\n" for name in itertools.islice(itertools.cycle(names), needed)))
    return path


def waves(job):
    """Return how many batches to leave out and to count: the loader's processes start together, so their
    batches come in waves of one from each."""
    return (1, 2) if job.small else (job.workers, 2 * job.workers)


class OfficialViews(Dataset):
    """Item index -> two views as the official loader makes them, float32."""

    def __init__(self, listed, size):
        self.files, self.size = [listed.parent / name for name in listed.read_text().split()], size

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return views.official(self.files[index].read_bytes(), index, self.size)


def official_batches(job, pictures, device):
    """Yield the official loader's batches. In float32 they are large: 308 MB of the released recipe, two for
    each process in shared memory."""
    recipe = recipe_of(job, "fp16")
    loader = DataLoader(OfficialViews(pictures, recipe.image_size), recipe.batch_size, shuffle=True,
                        num_workers=job.workers, drop_last=True, pin_memory=device.type == "cuda")
    for pair in loader:
        yield tuple(view.to(device, non_blocking=True) for view in pair)


def note_fed(job, name, way, pictures, on_device, device):
    """Note images per second of steps on what the way's own loader makes of the files."""
    needed = 2 * (job.workers + 1) * sum(view.nbytes for view in way.pair)
    if (free := shutil.disk_usage("/dev/shm").free) < needed:
        job.cannot(f"{name}: fed by {job.workers} cores", f"/dev/shm has {free / 2**30:.1f} GiB of the "
                   f"{needed / 2**30:.1f} that the batches of so many processes may take")
        return
    left_out, counted = waves(job)
    wait = common.synchroniser(device)
    batches = way.training.feed.batches(0, 0) if way.training else official_batches(job, pictures, device)
    for number, pair in enumerate(batches, 1):
        way.step(pair)
        if number == left_out:
            wait()
            began = time.perf_counter()
        if number == left_out + counted:
            break
    wait()
    rate = size_of(job)["batch_size"] * counted / (time.perf_counter() - began)
    job.note(f"{name}: fed by {job.workers} cores", rate, "images/s")
    job.note(f"{name}: fed, of the rate on the device", 100 * rate / on_device, "%",
             **job.goal(least=90) if way.training else {})
