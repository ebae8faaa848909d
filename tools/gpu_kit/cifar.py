"""Real numbers: CIFAR-10 with pictures and views on the device.

The preset cifar10, first a few epochs for its speed, beside the same steps fed in the style of solo-learn's
loader (Pillow in as many processes as there are cores); then two epochs of each other method; then as many
epochs as the budget allows, with the schedule stretched to that number, kNN over epochs, and a linear
classifier at the end. After a cut that run goes on from its checkpoint in a later call with the same --work.
"""
import io
import itertools
import json
import shutil
import tarfile
import time

import numpy as np
from PIL import Image

from benchmarks import common
from pretrain import trainer
from pretrain.methods import recipe as make_recipe
from pretrain.trainer import Run
from pretrain.upkeep.knn import Labelled
from tools.gpu_kit.job import Job, lines
from tools.gpu_kit.pack import CIFAR
from tools.gpu_kit.step import stepper
from transfer.execution import run as run_task
from transfer.request import Request

SMALL = {"batch_size": 10, "arch": "resnet18", "projector": "64-64-64", "stem": "small", "precision": "fp32"}
SMALL_COUNT = 3  # pictures of each class
# Of each class, for kNN: the run's own process decodes them after every epoch.
KNN_PARTS = {"train": ("train", 150), "test": ("val", 50)}
LINEAR_SECONDS = 30  # of the budget, kept for the end
SPREAD = 0.1  # of embeddings, at least: 0 if all are one point, about 1 if they point everywhere


def measure(job: Job) -> int:
    unpack(job)
    plan = job.work / "plan.json"
    if not plan.is_file():
        seconds = pace(job)
        for method, preset in (("vicreg", "cifar10"), ("hsic", "code")):
            short_run(job, method, preset)
        epochs = 2 if job.small else max(2, int((job.left() - LINEAR_SECONDS) / seconds))
        plan.write_text(json.dumps({"epochs": epochs}))
    epochs = json.loads(plan.read_text())["epochs"]
    stopped = long_run(job, epochs)
    bundle(job)  # without the record, which may be over the budget
    if not stopped:
        linear(job, epochs)
        bundle(job)
    return stopped


def unpack(job):
    """Write cifar10/{train,test}/CLASS/NAME, its training pictures as train.npz, and the part for kNN."""
    target = job.work / "train.npz"
    if target.is_file():
        return
    pixels, labels = [], []
    for name in CIFAR:
        path = job.pack / f"cifar10_{name}"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; run tools/gpu.py --pack first")
        part = name.split(".")[0]
        with tarfile.open(path) as archive:
            files = (member for member in archive if member.isfile())
            classes = itertools.groupby(files, lambda member: member.name.split("/")[1])
            for label, (folder, members) in enumerate(classes):
                for number, member in enumerate(members):
                    if job.small and number >= SMALL_COUNT:
                        continue
                    data = archive.extractfile(member).read()
                    keep(job.work / "cifar10" / part / folder, number, data)
                    place, count = KNN_PARTS[part]
                    if number < count:
                        keep(job.work / "knn" / place / folder, number, data)
                    if part == "train":
                        pixels.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
                        labels.append(label)
    np.savez(target, images=np.stack(pixels), labels=np.array(labels))


def keep(folder, number, data):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number:04d}.jpg").write_bytes(data)


def recipe_of(job, method="barlow_twins", preset="cifar10", **changes):
    return make_recipe(preset, method=method, **{"views": "device"} | changes | (SMALL if job.small else {}))


def run_of(job, name, **changes):
    return Run(job.work / "train.npz", job.work / name, device=job.device, workers=job.workers,
               print_freq=1 if job.small else 50, command=f"tools/gpu.py, cifar: {name}", **changes)


# Speed

def pace(job):
    """Note seconds per epoch, fed from the device and in solo-learn's style, and what 1000 would take.
    Returns those of an epoch as a run has it, with checkpoint and kNN."""
    fed = {}
    for name, views, place in (("Pillow in the loader", "pil", "host"),
                               ("on the device", "device", "device")):
        training = trainer.prepare(recipe_of(job, views=views), run_of(job, "pace", data_on=place))
        step = stepper(training)
        epoch_seconds(training, step, 0, 2 * job.workers)  # starts the loader's processes, chooses kernels
        fed[name] = epoch_seconds(training, step, 1)
        job.note(f"an epoch, pictures and views {name}", fed[name], "s")
    job.note("an epoch: Pillow in the loader over on the device",
             fed["Pillow in the loader"] / fed["on the device"], "times")
    training.run.checkpoint_dir.mkdir(exist_ok=True)
    began = time.perf_counter()
    trainer.train_epoch(training, 2, 0, None)
    whole = time.perf_counter() - began
    job.note("an epoch with its checkpoint", whole, "s")
    job.note("1000 such epochs, extrapolated", 1000 * whole / 3600, "hours", **job.goal(most=1))
    labelled = Labelled(job.work / "knn", training.recipe.image_size)
    began = time.perf_counter()
    labelled.accuracy(training.network, training.device)
    return whole + time.perf_counter() - began


def epoch_seconds(training, step, epoch, steps=None):
    """Return the seconds that the steps of an epoch, or its first ones, take, without checkpoint or kNN."""
    wait = common.synchroniser(training.device)
    wait()
    began = time.perf_counter()
    for views in itertools.islice(training.feed.batches(epoch, 0), steps):
        step(views)
    wait()
    return time.perf_counter() - began


# Runs

def stats(folder):
    """Return the figures of a run's stats.txt."""
    lines = (folder / "stats.txt").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def short_run(job, method, preset):
    """Two epochs of another method: does it learn, and has it not collapsed?"""
    recipe = recipe_of(job, method, preset, epochs=2, **({"warmup_epochs": 1} if method == "vicreg" else {}))
    run = run_of(job, method, data_on="device", knn_data=job.work / "knn")
    trainer.train(recipe, run)
    found = stats(run.checkpoint_dir)
    steps, judged = ([line for line in found if key in line] for key in ("loss", "knn"))
    for place, line in (("first", steps[0]), ("last", steps[-1])):
        job.note(f"{method}, 2 epochs: {place} loss", line["loss"], "")
        job.note(f"{method}, 2 epochs: {place} effective rank", line["effective_rank"], "")
    job.note(f"{method}, 2 epochs: last spread of embeddings", steps[-1]["embedding_spread"], "",
             least=SPREAD)
    job.note(f"{method}, 2 epochs: steps skipped", steps[-1]["skipped"], "", most=0)
    for place, line in (("untrained", judged[0]), ("trained", judged[-1])):
        job.note(f"{method}, 2 epochs: kNN, {place}", line["knn"], "%")


def long_run(job, epochs):
    """Train for all epochs, with kNN after each. Returns the signal that stopped it, or 0."""
    recipe = recipe_of(job, epochs=epochs, warmup_epochs=min(10, max(1, epochs // 5)))
    run = run_of(job, "barlow_twins", data_on="device", knn_data=job.work / "knn")
    goes_on, began = run.checkpoint.exists(), time.monotonic()
    outcome = trainer.train(recipe, run)
    seconds = time.monotonic() - began
    whole = f"{epochs} epochs: an epoch with checkpoint and kNN"
    if outcome.signal:
        job.cannot(whole, "stopped; a call with the same --work goes on from the checkpoint")
        return outcome.signal
    if not goes_on:
        job.note(whole, seconds / epochs, "s")
    elif not any(line.get("name") == whole and "value" in line for line in lines(job.out)):
        job.cannot(whole, "the run was stopped on its way, and went on")
    found = stats(run.checkpoint_dir)
    judged = [line["knn"] for line in found if "knn" in line]
    job.note(f"{epochs} epochs: kNN, untrained", judged[0], "%")
    for share in (0.1, 0.25, 0.5, 0.75, 1):
        epoch = max(1, round(share * epochs))
        job.note(f"{epochs} epochs: kNN after {epoch}", judged[epoch], "%")
    last = [line for line in found if "loss" in line][-1]
    for key in ("loss", "effective_rank", "embedding_spread", "skipped"):
        job.note(f"{epochs} epochs: last {key.replace('_', ' ')}", last[key], "")
    return 0


def linear(job, epochs):
    """The task cifar10_probe at 32 pixels, with a coarser grid of penalties than the protocol's 45."""
    strengths, iterations = ("2", "20") if job.small else ("8", "300")
    for folder in ("linear", "records"):  # of an earlier call
        shutil.rmtree(job.work / folder, ignore_errors=True)
    record = run_task(Request(
        task="cifar10_probe", weights=job.work / "barlow_twins" / "resnet18.pth", name="bt_cifar10_gpu",
        stem=recipe_of(job).stem, data=job.work, output=job.work / "linear",
        results=job.work / "records", cache=None, workers=job.workers, device=job.device, rerun=True,
        pairs=("image_size", "32", "strengths", strengths, "max_iterations", iterations)))
    job.note(f"{epochs} epochs: linear accuracy", record.metrics["top1"], "%")
    job.note(f"{epochs} epochs: kNN of all test pictures by all of train", record.metrics["knn20"], "%")


def bundle(job):
    """Put curves and records into cifar.tar of the results folder."""
    with tarfile.open(job.out / "cifar.tar", "w") as archive:
        for method in ("barlow_twins", "vicreg", "hsic"):
            for name in ("stats.txt", "correlation.npz"):
                if (path := job.work / method / name).is_file():
                    archive.add(path, f"{method}/{name}")
        if (job.work / "records").is_dir():
            archive.add(job.work / "records", "records")
