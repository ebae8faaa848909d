"""kNN on ImageNet's features: time and memory of all similarities at once, over ours, one block at a time.

    python -m benchmarks.knn [--images 40000] [--queries 512] [--device cuda]

It measures one rank's work: `images` training features of 2048 values (ImageNet has 1.28 million over all
ranks), 20 and 200 neighbours. Both find the same neighbours. Memory is what is needed above the features. The
plain side's grows with the bank; ours is one block of any bank, and the queries. Exits with 1 if ours takes
more than `BOUND` above the queries.
"""
import sys

import torch
from torch.nn import functional

from benchmarks import common
from transfer.classification import knn

FLAGS = {"images": 40_000, "queries": 512, "device": "cpu"}
DIMENSIONS, CLASSES, KS, TEMPERATURE = 2048, 1000, (20, 200), 0.07
BOUND = 256  # MiB: a block of the bank, normalised, and its similarities; the allocator's and libraries' own


def problem(images, queries):
    """Return bank (images, 2048), labels (images,) and queries (queries, 2048): features of 1000 classes."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, DIMENSIONS, generator=draw)
    labels = torch.arange(images) % CLASSES
    bank = torch.empty(images, DIMENSIONS)
    for rows, own in zip(bank.split(4096), labels.split(4096)):
        rows.normal_(generator=draw).mul_(4).add_(centres[own])
    return bank, labels, centres[:queries % CLASSES or CLASSES].repeat(-(-queries // CLASSES), 1)[:queries] \
        + 4 * torch.randn(queries, DIMENSIONS, generator=draw)


def plain(bank, labels, queries, device):
    """Return the votes, computed from whole matrices and in chunks of the queries alone."""
    bank, labels = functional.normalize(bank, dim=1).to(device), labels.to(device)
    votes = {k: [] for k in KS}
    for chunk in functional.normalize(queries, dim=1).split(knn.QUERIES):
        near, places = (bank @ chunk.to(device).T).topk(max(KS), dim=0)
        weights = (near / TEMPERATURE).exp()
        for k, found in votes.items():
            totals = weights.new_zeros(CLASSES, len(chunk)).scatter_add_(0, labels[places[:k]], weights[:k])
            found.append(totals.argmax(0).cpu())
    return {k: torch.cat(found) for k, found in votes.items()}


def ours(bank, labels, queries, device):
    votes = knn.predict(bank, labels, queries, CLASSES, KS, (TEMPERATURE,), device)
    return {k: votes[k, TEMPERATURE] for k in KS}


FORMULATIONS = {"plain": plain, "ours": ours}


def peak(name, images, queries, device):
    """Return the bytes above the features on the CPU, where the bank is."""
    data = problem(images, queries)
    FORMULATIONS[name](data[0][:1000], data[1][:1000], data[2][:10], torch.device(device))  # loads libraries
    return common.peak_bytes(lambda: FORMULATIONS[name](*data, torch.device(device)), torch.device(device))


def measure(args):
    device, sizes = torch.device(args.device), (args.images, args.queries)
    mib = {name: common.in_fresh_process(peak, name, *sizes, args.device) / common.MIB
           for name in FORMULATIONS}
    data, found = problem(*sizes), {}
    seconds = common.compare({name: lambda name=name: found.update({name: FORMULATIONS[name](*data, device)})
                              for name in FORMULATIONS}, rounds=3, synchronise=common.synchroniser(device))
    bound = BOUND + 4 * args.queries * DIMENSIONS / common.MIB
    case = f"{args.images} images, {args.queries} queries"
    return [common.Row(case, "time, plain over ours", common.ratio(seconds["plain"], seconds["ours"])),
            common.Row(case, "MiB of ours above the features", mib["ours"], f"{bound:.0f} at most",
                       f"{mib['plain']:.0f} MiB plain", mib["ours"] > bound),
            *(common.Row(f"k = {k}", "percent of votes that are the same",
                         100 * (found["plain"][k] == votes).double().mean().item())
              for k, votes in found["ours"].items())]


if __name__ == "__main__":
    sys.exit(common.main(__doc__, FLAGS, measure))
