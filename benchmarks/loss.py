"""Each method's loss and gradient: time and memory of a plain formulation and of lightly's, over ours.

    python -m benchmarks.loss [--device cpu|cuda] [--rounds N]

A case is a method and the N x D of its embeddings. Those of supervised, AMCL and the ablations are left out:
they are the plain formulation. Without lightly its rows are left out, too. Exits with 1 when a target, the
least ratio, is missed. Targets are for a CPU.
"""
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from benchmarks import common, plain_losses
from pretrain import methods
from pretrain.methods import Method
from pretrain.recipe import Recipe

FLAGS = {"device": "cpu", "rounds": 3}
Tensors = tuple[torch.Tensor, ...]
Formulation = Callable[..., torch.Tensor]  # (recipe, *outputs, *targets) -> the loss


@dataclass(frozen=True)
class Loss:
    """A method's loss. outputs: how many embeddings (N, D) it compares; targets: makes what else it needs, of
    the network and N; complete: makes the method's outputs of the embeddings."""
    method: str
    plain: Formulation
    lightly: Formulation | None = None
    outputs: int = 2
    targets: Callable[[Method, int], Tensors] = lambda network, count: ()
    complete: Callable[[Method, Tensors], Tensors] = lambda network, embeddings: embeddings
    changes: dict = field(default_factory=dict)  # of the recipe


def of_lightly(name: str, call: Callable[..., torch.Tensor], **settings: str) -> Formulation:
    """Return a loss of lightly. settings: {its argument: the recipe's name for it}."""
    def loss(recipe: Recipe, *tensors: torch.Tensor) -> torch.Tensor:
        import lightly.loss

        given = {theirs: getattr(recipe, ours) for theirs, ours in settings.items()}
        return call(getattr(lightly.loss, name)(**given), *tensors)
    return loss


def scores(network: Method, embeddings: Tensors) -> Tensors:
    """SwAV's outputs: embeddings of length 1 and their cosines with the prototypes."""
    z = tuple(functional.normalize(one, dim=1) for one in embeddings)
    return *z, *(network.get_submodule("prototypes")(one) for one in z)


def mixture(network: Method, count: int) -> Tensors:
    """Mixed Barlow Twins' targets: partners, and the share of the first view."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0)), torch.full((count,), 0.3)


LOSSES = {
    "Barlow Twins": Loss("barlow_twins", plain_losses.barlow_twins, of_lightly(
        "BarlowTwinsLoss", lambda loss, *z: loss(*z), lambda_param="lambd")),
    "HSIC": Loss("hsic", plain_losses.hsic),
    "Mixed Barlow Twins": Loss("mixed_barlow_twins", plain_losses.mixed_barlow_twins, outputs=3,
                               targets=mixture, changes={"mixing_warmup_epochs": 0}),
    "VICReg": Loss("vicreg", plain_losses.vicreg, of_lightly("VICRegLoss", lambda loss, *z: loss(*z))),
    "SimSiam": Loss("simsiam", plain_losses.simsiam, of_lightly(
        "NegativeCosineSimilarity", lambda loss, z1, z2, p1, p2: (loss(p1, z2.detach())
                                                                  + loss(p2, z1.detach())) / 2), outputs=4),
    "BYOL": Loss("byol", plain_losses.byol, outputs=4, targets=lambda network, count: tuple(
        torch.randn(2, count, 256, generator=torch.Generator().manual_seed(1)))),
    "SimCLR": Loss("simclr", plain_losses.nt_xent, of_lightly(
        "NTXentLoss", lambda loss, *z: loss(*z), temperature="temperature")),
    "SupCon": Loss("supcon", plain_losses.supcon, targets=lambda network, count: (torch.arange(count) % 10,)),
    "MoCo": Loss("moco", plain_losses.info_nce, complete=lambda network, z: (z[0], z[1].detach()),
                 targets=lambda network, count: (network.get_buffer("queue").clone(),)),
    "SwAV": Loss("swav", plain_losses.swav, of_lightly(
        "SwaVLoss", lambda loss, z1, z2, s1, s2: loss([s1, s2], []), temperature="temperature",
        sinkhorn_epsilon="epsilon", sinkhorn_iterations="sinkhorn"),
        complete=scores, changes={"small_crops": 0, "freeze": 0}),
}
# (loss, N, D): least ratio of time, of peak memory, to the plain formulation
CASES: dict[tuple[str, int, int], tuple[float, float] | None] = {
    ("Barlow Twins", 256, 2048): (6, 6), ("Barlow Twins", 256, 8192): (35, 15),
    ("Barlow Twins", 1024, 8192): (5, 5), ("HSIC", 512, 2048): None, ("Mixed Barlow Twins", 256, 2048): None,
    ("VICReg", 256, 2048): None, ("SimSiam", 512, 2048): None, ("BYOL", 1024, 256): None,
    ("SimCLR", 1024, 128): None, ("SupCon", 1024, 128): None, ("MoCo", 256, 128): None,
    ("SwAV", 512, 128): None}


def formulations(name: str) -> tuple[str, ...]:
    """Return what a loss is measured in."""
    lightly = LOSSES[name].lightly and importlib.util.find_spec("lightly")
    return ("plain", "ours", "lightly") if lightly else ("plain", "ours")


def prepared(name: str, count: int, width: int, device: torch.device | str) -> tuple[Tensors, dict]:
    """Return embeddings (N, D) of a fixed seed, and for each formulation the function from them to the
    loss."""
    loss = LOSSES[name]
    recipe = methods.recipe(method=loss.method, arch="resnet18", projector=f"{width}", **loss.changes)
    network = methods.build(recipe).to(device)
    generator = torch.Generator(device).manual_seed(0)
    embeddings = tuple(torch.randn(count, width, device=device, generator=generator).requires_grad_()
                       for _ in range(loss.outputs))
    targets = tuple(one.to(device) for one in loss.targets(network, count))
    found = {"ours": lambda: network.loss(loss.complete(network, embeddings), targets, 1)[0]}
    for other, formulation in (("plain", loss.plain), ("lightly", loss.lightly)):
        if formulation:
            found[other] = lambda formulation=formulation: formulation(
                recipe, *loss.complete(network, embeddings), *targets)
    return embeddings, found


def steps(name: str, count: int, width: int, device: torch.device | str) -> dict[str, Callable[[], None]]:
    """Return for each formulation a function that computes loss and gradients, with gradients in place."""
    embeddings, found = prepared(name, count, width, device)
    for z in embeddings:
        z.grad = torch.ones_like(z)  # written to, so its memory is really allocated
    return {kind: lambda compute=found[kind]: compute().backward() for kind in formulations(name)}


def peak(kind: str, name: str, count: int, width: int, device: str) -> float:
    """Return the bytes above inputs and gradients. A small call first loads libraries and starts autograd's
    thread."""
    steps(name, 32, 256, device)[kind]()
    return common.peak_bytes(steps(name, count, width, device)[kind], torch.device(device))


def measure(args) -> list[common.Row]:
    device, rows = torch.device(args.device), []
    for (name, count, width), targets in CASES.items():
        kinds = formulations(name)
        # The smaller of two, since Linux sometimes counts a buffer that was just freed.
        mib = {kind: min(common.in_fresh_process(peak, kind, name, count, width, args.device)
                         for _ in range(2)) / common.MIB for kind in kinds}
        found = steps(name, count, width, device)
        seconds = common.compare(found, args.rounds, synchronise=common.synchroniser(device))
        for kind in kinds:
            if kind == "ours":
                continue
            least = targets if kind == "plain" and targets else ()
            time, memory = common.ratio(seconds[kind], seconds["ours"]), mib[kind] / mib["ours"]
            wanted = [f"{one}" for one in least] or ["", ""]
            case = f"{name}, {count} x {width}"
            rows += [common.Row(case, f"time, {kind} over ours", time, wanted[0],
                                missed=bool(least) and time.median < least[0]),
                     common.Row(case, f"memory, {kind} over ours", memory, wanted[1],
                                f"{mib[kind]:.0f} and {mib['ours']:.0f} MiB",
                                bool(least) and memory < least[1])]
    return rows


if __name__ == "__main__":
    sys.exit(common.main(__doc__, FLAGS, measure))
