"""The standing test of every method: the same step on any number of processes and micro-batches, and losses
against formulations of others."""
import dataclasses
import math

import pytest
import torch
import torchvision
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from parallel.batchnorm import convert_sync_batchnorm
from parallel.collectives import rank, world_size
from parallel.launch import launch
from pretrain import backbones, methods, trainer
from pretrain.methods import METHODS, contrast, mixed_barlow_twins, recipe
from pretrain.methods.swav import sinkhorn
from pretrain.methods.vicreg import vicreg_terms
from pretrain.optim import build_optimizer, learning_rates
from pretrain.pictures.batches import epoch_batches
from pretrain.pictures.feed import Feed
from pretrain.pictures.sources import open_source
from pretrain.upkeep import checkpoint
from pretrain.upkeep.online import OnlineProbe
from tests.pretrain_toys import lines, start, toy_backbone, toy_recipe, toy_run, write_pictures
from transfer.weights.readers import recognised

BATCH = 16
TOYS = {"moco": dict(group=2, queue=24),  # changes for small batches
         # Biases before a batch norm have a gradient of rounding only, which LARS would magnify.
         "swav": dict(prototypes=5, freeze=0, queue=BATCH, queue_start=0, adapt_biases=False,
                      small_crops=3, small_size=12),
         "supervised": dict(projector="none", classes=5)}


def views(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(BATCH, 3, size, size, dtype=torch.float64, generator=generator)
            for size in sizes or (24, 24)]


def rows(name):
    """This process's share of the batch, dealt out in turn as the loader does; of another size in each
    process, but MoCo's groups need equal ones."""
    if name == "moco":
        return list(range(rank(), BATCH, world_size()))
    ends = [math.floor(BATCH * (part / world_size()) ** 1.3) for part in range(world_size() + 1)]
    dealt = sorted((turn, process) for process in range(world_size())
                   for turn in range(ends[process + 1] - ends[process]))
    return [place for place, (_, process) in enumerate(dealt) if process == rank()]


def one_step(name, accumulate=1):
    """Loss, weights and buffers of a method after one step in float64, and its figures."""
    backbones.build_backbone = toy_backbone
    changes = dict(projector="10-7", precision="fp32", accumulate=accumulate, batch_size=BATCH,
                   image_size=24, learning_rate_weights=0.5, learning_rate_biases=0.5, warmup_epochs=0,
                   optimizer="lars")  # Adam's first step would magnify rounding where a gradient is zero
    one = recipe(method=name, **changes | TOYS.get(name, {}))
    torch.manual_seed(5)
    network = convert_sync_batchnorm(methods.build(one).double())
    training, probe = attached(one, network)
    given, own = views(*(view.size for view in one.view_recipes())), rows(name)
    labels = torch.arange(BATCH) % 5
    given += [labels] * one.labelled
    loss, figures, outputs = trainer.backward(training, 3, [one[own] for one in given])
    probe.learn(labels[own], 3, 10, torch.tensor(False))
    training.optimizer.step()
    network.after_step(3, torch.tensor(True))
    assert all(not output.requires_grad and len(output) == len(own) for output in outputs)
    return (loss, [p.detach() for part in (network, probe.classifier) for p in part.parameters()],
            [b.double() for b in network.buffers()], {name: value.item() for name, value in figures.items()})


def attached(one, network):
    """What the trainer makes of a float64 network, at rate 0.1, and an online probe of five classes."""
    model = network if world_size() == 1 else DistributedDataParallel(network)
    optimizer = build_optimizer(one, network)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    probe = OnlineProbe(network, one, None, 5, torch.device("cpu"))
    probe.classifier.double()
    for parameter in probe.classifier.parameters():
        probe.optimizer.state[parameter][probe.momentum] = torch.zeros_like(parameter)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return trainer.Training(one, None, torch.device("cpu"), None, network, model, optimizer, scaler,
                            None), probe


def one_step_each():
    return {name: one_step(name) for name in METHODS}


@pytest.fixture
def _restored(monkeypatch):
    monkeypatch.setattr(backbones, "build_backbone", backbones.build_backbone)


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_do_what_one_does(processes):
    many_each = launch(one_step_each, processes)
    for name, one in one_step_each().items():
        many = many_each[name]
        assert abs(one[0] - many[0]) < 1e-10 and many[3] == pytest.approx(one[3], rel=1e-8, abs=1e-10), name
        for a, b in zip([*one[1], *one[2]], [*many[1], *many[2]], strict=True):
            assert (a - b).abs().max() < 1e-9, name


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"moco", "amcl_barlow_twins"}))
def test_micro_batches_are_exact_but_for_batch_norm(name, monkeypatch):
    """On one process, with the network's batch norms frozen."""
    monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", lambda layer, x: x)
    monkeypatch.setattr(torch.nn.BatchNorm1d, "forward", lambda layer, x: x)
    whole, parts = one_step(name), one_step(name, accumulate=3)
    assert abs(whole[0] - parts[0]) < 1e-10
    for a, b in zip(whole[1], parts[1], strict=True):
        assert (a - b).abs().max() < 1e-10


@pytest.mark.parametrize("name", METHODS)
def test_a_run_of_each_method_learns_its_names_and_resumes(name, tmp_path, monkeypatch):
    monkeypatch.setattr(backbones, "build_backbone", toy_backbone)
    write_pictures(tmp_path)
    changes = dict(method=name, epochs=2, **TOYS.get(name, {}))
    start(tmp_path, "whole", **changes)
    start(tmp_path, "parts", **changes, run={"keep": 2})
    folder = tmp_path / "parts"
    first = min(checkpoint.earlier(folder / "checkpoint.pth"))
    first.replace(folder / "checkpoint.pth")
    start(tmp_path, "parts", **changes)
    whole, parts = (torch.load(tmp_path / one / "checkpoint.pth", weights_only=True)
                    for one in ("whole", "parts"))
    assert whole["config"]["method"] == name
    assert all(torch.equal(whole["model"][key], parts["model"][key]) for key in whole["model"])
    assert lines(tmp_path / "whole") == lines(folder)
    assert all(line["effective_rank"] > 1 for line in lines(folder))


def test_the_names_of_hsic_are_its_codes():
    """model.py of yaohungt/Barlow-Twins-HSIC: numbered children, without a max pooling for CIFAR."""
    network = methods.build(recipe(method="hsic", arch="resnet18"))
    names = {name.rsplit(".", 1)[0] for name in network.state_dict()}
    assert {"f.0", "f.1", "f.3.0.conv1", "f.6.1.bn2", "g.0", "g.1", "g.3"} <= names
    assert "g.3.bias" in network.state_dict() and "g.0.bias" not in network.state_dict()
    resnet, _ = backbones.build_backbone("resnet18", "cifar")
    assert network.torchvision_state().keys() == resnet.state_dict().keys()
    larger = methods.build(recipe(method="hsic", arch="resnet18", stem="imagenet"))
    assert {"f.4.0.conv1.weight", "f.7.1.bn2.weight"} <= larger.state_dict().keys()


def vicreg_by_the_book(x, y):
    """forward of main_vicreg.py in facebookresearch/vicreg, restated."""
    invariance = functional.mse_loss(x, y)
    x, y = x - x.mean(0), y - y.mean(0)
    variance = sum(functional.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() / 2 for z in (x, y))
    covariance = 0
    for z in (x, y):
        c = z.T @ z / (len(z) - 1)
        covariance += (c - torch.diag(c.diagonal())).square().sum() / z.size(1)
    return invariance, variance, covariance


@pytest.mark.parametrize("count, width", [(2, 3), (6, 4), (5, 9), (16, 2)])
def test_vicreg_terms_are_the_codes(count, width):
    torch.manual_seed(count)
    z1, z2 = (torch.randn(count, width, dtype=torch.float64).mul(0.7).requires_grad_() for _ in range(2))
    for ours, theirs in zip(vicreg_terms(z1, z2).values(), vicreg_by_the_book(z1, z2), strict=True):
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
        for a, b in zip(torch.autograd.grad(ours, (z1, z2), retain_graph=True, allow_unused=True),
                        torch.autograd.grad(theirs, (z1, z2), retain_graph=True, allow_unused=True)):
            assert torch.allclose(a, b, atol=1e-12)


LIGHTLYS = {  # method -> the loss of its outputs
    "vicreg": lambda lightly, z1, z2, *_: lightly.VICRegLoss()(z1, z2),
    "simclr": lambda lightly, z1, z2, *_: lightly.NTXentLoss(temperature=0.1)(z1, z2),
    "simsiam": lambda lightly, z1, z2, p1, p2: sum(
        lightly.NegativeCosineSimilarity()(p, z.detach()) for p, z in ((p1, z2), (p2, z1))) / 2,
}


@pytest.mark.parametrize("name", LIGHTLYS)
def test_loss_is_lightlys(name):
    lightly = pytest.importorskip("lightly.loss", reason="lightly is not installed")
    torch.manual_seed(0)
    outputs = [torch.randn(9, 5, dtype=torch.float64).requires_grad_()
               for _ in range(4 if name == "simsiam" else 2)]
    theirs = LIGHTLYS[name](lightly, *outputs)
    network = methods.build(recipe(method=name, arch="resnet18", projector="8-5"))
    ours, _ = network.loss(tuple(outputs), (), 0)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    moved = outputs[-2:]
    for a, b in zip(torch.autograd.grad(ours, moved), torch.autograd.grad(theirs, moved)):
        assert torch.allclose(a, b, atol=1e-12)


def cosine_by_the_book(p, z):
    return sum((a @ b) / (a @ a).sqrt() / (b @ b).sqrt() for a, b in zip(p, z)) / len(p)


def test_simsiams_loss_is_its_papers():
    torch.manual_seed(0)
    z1, z2, p1, p2 = (torch.randn(5, 4, dtype=torch.float64).requires_grad_() for _ in range(4))
    network = methods.build(recipe(method="simsiam", arch="resnet18", projector="8-4"))
    ours, _ = network.loss((z1, z2, p1, p2), (), 0)
    theirs = -cosine_by_the_book(p1, z2.detach()) / 2 - cosine_by_the_book(p2, z1.detach()) / 2
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    found = torch.autograd.grad(ours, (z1, z2, p1, p2), allow_unused=True)
    assert found[:2] == (None, None)  # no gradient flows to what is predicted
    for a, b in zip(found[2:], torch.autograd.grad(theirs, (p1, p2))):
        assert torch.allclose(a, b, atol=1e-12)


def test_simsiams_network_is_its_codes():
    """simsiam/builder.py of facebookresearch/simsiam."""
    one = recipe(method="simsiam", arch="resnet18")
    network = methods.build(one)
    state = network.state_dict()
    assert {"encoder.layer4.1.bn2.weight", "encoder.fc.0.weight", "encoder.fc.7.running_mean",
            "predictor.0.weight", "predictor.3.bias"} <= state.keys()
    assert not {"encoder.fc.0.bias", "encoder.fc.7.weight", "predictor.0.bias"} & state.keys()
    assert not network.encoder.fc[6].bias.requires_grad
    resnet, width = backbones.build_backbone("resnet18", "imagenet")
    assert network.torchvision_state().keys() == resnet.state_dict().keys()
    assert network.eval().backbone(torch.zeros(2, 3, 32, 32)).shape == (2, width)
    assert recognised({"model": state, "epoch": 1}, "").format == "simsiam"
    groups = build_optimizer(one, network).param_groups
    predictor = {id(p) for p in network.predictor.parameters()}
    apart = [all(id(p) in predictor for p in group["params"]) for group in groups]
    assert apart == [False, False, True, True]
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters())) - 1


def test_byols_loss_is_its_papers():
    torch.manual_seed(0)
    p1, p2, t1, t2 = (torch.randn(5, 4, dtype=torch.float64).requires_grad_() for _ in range(4))
    network = methods.build(recipe(method="byol", arch="resnet18", projector="8-4", predictor="8"))
    ours, _ = network.loss((p1, p2, p1, p2), (t1, t2), 0)
    theirs = sum((a / a.norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True)).square().sum(1).mean()
                 for a, b in ((p1, t2), (p2, t1)))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    for a, b in zip(torch.autograd.grad(ours, (p1, p2)), torch.autograd.grad(theirs, (p1, p2))):
        assert torch.allclose(a, b, atol=1e-12)


def test_byols_target_follows_the_steps_that_count():
    network = methods.build(recipe(method="byol", arch="resnet18", projector="8-4", predictor="8", epochs=10))
    network.steps_per_epoch = 4
    assert not {id(p) for p in network.target_encoder.parameters()} & {
        id(p) for group in build_optimizer(recipe(method="byol"), network).param_groups
        for p in group["params"]}
    for step, tau in ((0, 0.996), (20, 0.998), (40, 1.0)):  # 1 - (1 - tau) (cos(pi k / K) + 1) / 2
        before = [p.clone() for p in network.target_encoder.parameters()]
        online = [p.detach().clone() for p in network.online_encoder.parameters()]
        network.after_step(step, torch.tensor(False))
        assert all(map(torch.equal, before, network.target_encoder.parameters()))
        network.after_step(step, torch.tensor(True))
        for old, new, found in zip(before, online, network.target_encoder.parameters()):
            assert torch.allclose(found, tau * old + (1 - tau) * new, atol=1e-7)
        assert all(map(torch.equal, online, network.online_encoder.parameters()))


def test_byols_names_are_its_ports():
    """byol_pytorch/byol_pytorch.py of lucidrains/byol-pytorch."""
    network = methods.build(recipe(method="byol", arch="resnet18"))
    assert {"online_encoder.net.conv1.weight", "online_encoder.projector.0.bias", "online_predictor.3.weight",
            "target_encoder.net.layer4.1.bn2.weight"} <= network.state_dict().keys()
    found = recognised({"model": network.state_dict(), "epoch": 1}, "")
    assert (found.format, list(found.encoders)) == ("byol_lucidrains", ["online", "target"])
    assert found.encoders["online"].keys() == network.torchvision_state().keys()


def contrast_by_the_book(z1, z2, temperature, labels):
    """Row by row: Khosla et al., eq. 2 (arXiv 2004.11362); eq. 1 of SimCLR if all labels differ."""
    z = torch.cat([z1, z2])
    z = z / z.norm(dim=1, keepdim=True)
    labels, total = [*labels, *labels], 0
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        normaliser = sum((z[i] @ z[k] / temperature).exp() for k in others)
        positives = [k for k in others if labels[k] == labels[i]]
        total -= sum((z[i] @ z[k] / temperature - normaliser.log()) for k in positives) / len(positives)
    return total / len(z)


@pytest.mark.parametrize("strip", [3, 1024])
@pytest.mark.parametrize("labels", [None, [0, 1, 0, 2, 0, 1, 1]], ids=["SimCLR", "SupCon"])
def test_contrast_is_the_papers(labels, strip, monkeypatch):
    monkeypatch.setattr(contrast, "STRIP", strip)
    torch.manual_seed(0)
    z1, z2 = (torch.randn(7, 4, dtype=torch.float64).requires_grad_() for _ in range(2))
    classes = None if labels is None else torch.tensor(labels)
    ours, _ = contrast.contrastive_loss(z1, z2, 0.2, classes)
    theirs = contrast_by_the_book(z1, z2, 0.2, labels or range(7))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    for a, b in zip(torch.autograd.grad(ours, (z1, z2)), torch.autograd.grad(theirs, (z1, z2))):
        assert torch.allclose(a, b, atol=1e-12)


def test_the_nearest_row_is_judged():
    """At 0, 90 and 174 degrees, and at 5.7, 84 and 5.1: only the second image finds its other view."""
    z1 = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.1]])
    z2 = torch.tensor([[1.0, 0.1], [0.1, 1.0], [1.0, 0.09]])
    loss, share = contrast.contrastive_loss(z1.half(), z2.half(), 0.1)
    assert loss.dtype == torch.float32 and share.item() == pytest.approx(2 / 6)


def test_simclrs_network_is_its_codes():
    """The projection head of model_util.py, and solo-learn's; names of Spijkervet/SimCLR."""
    network = methods.build(recipe(method="simclr", arch="resnet18"))
    assert [type(one).__name__ for one in network.projector] == 2 * ["Linear", "BatchNorm1d", "ReLU"] + [
        "Linear", "BatchNorm1d"]
    assert not network.projector[-1].bias.requires_grad and network.projector[0].bias is None
    state = network.state_dict()
    found = recognised({"model": state, "epoch": 1}, "")
    assert found.format == "simclr_spijkervet"
    assert found.encoders["backbone"].keys() == network.torchvision_state().keys()
    network = methods.build(recipe("cifar10", method="simclr"))
    assert [type(one).__name__ for one in network.projector] == ["Linear", "ReLU", "Linear"]
    assert network.projector[2].bias is not None


def test_labels_are_those_of_the_pictures_used(tmp_path):
    """Picture 3 is damaged; what replaces it brings its own class."""
    write_pictures(tmp_path, 10)
    names = sorted((tmp_path / "train" / "a").iterdir())
    names[3].write_bytes(b"damaged")
    (tmp_path / "list.txt").write_text("".join(f"{name} {number}\n" for number, name in enumerate(names)))
    run = dataclasses.replace(toy_run(tmp_path, "run"), data=tmp_path / "list.txt")
    feed = Feed(toy_recipe(method="supcon", batch_size=10), run, torch.device("cpu"))
    (y1, y2, labels), = feed.batches(0, 0)
    order = [index for _, index in next(iter(feed.loader.batch_sampler))]
    assert labels.dtype == torch.int64 and len(y1) == len(y2) == 10
    assert [one for one in zip(order, labels.tolist()) if one[0] != one[1]] == [(3, labels[order.index(3)])]
    (tmp_path / "bare.txt").write_text("".join(f"{name}\n" for name in names))
    with pytest.raises(ValueError, match="--method supcon expected pictures with labels"):
        epoch_batches(open_source(tmp_path / "bare.txt"), toy_recipe(method="supcon"), 1)


def test_supcons_names_are_its_codes():
    """networks/resnet_big.py of HobbitLong/SupContrast, whose loss has the factor of losses.py."""
    one = recipe(method="supcon", arch="resnet18")
    network = methods.build(one)
    assert {"encoder.layer4.1.bn2.weight", "head.0.bias", "head.2.bias"} <= network.state_dict().keys()
    assert recognised({"model": network.state_dict(), "epoch": 1}, "").format == "supcontrast"
    assert one.loss_scale * 0.07 == pytest.approx(one.temperature)


def test_supervised_is_torchvisions_network_and_loss():
    """The scores are those of torchvision's network with the state dict, which transfer reads, too."""
    torch.manual_seed(0)
    network = methods.build(recipe(method="supervised", arch="resnet18", classes=7)).double()
    theirs = torchvision.models.resnet18(num_classes=7).double()
    theirs.load_state_dict(network.state_dict())
    y, labels = torch.randn(6, 3, 32, 32, dtype=torch.float64), torch.tensor([6, 0, 3, 3, 1, 5])
    outputs = network(y, labels)
    scores = theirs(y)
    assert torch.allclose(outputs[1], scores, rtol=0, atol=1e-12)
    loss, figures = network.loss(outputs, network.targets(y, labels), 0)
    wanted = -sum(row[label] - row.exp().sum().log() for row, label in zip(scores, labels)) / len(y)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-12)
    assert figures["training_accuracy"] == (scores.argmax(1) == labels).double().mean()
    found = recognised({"model": network.state_dict(), "epoch": 1}, "")
    assert (found.format, found.encoders["backbone"].keys()) == ("torchvision",
                                                                 network.torchvision_state().keys())
    assert network.eval().backbone(y).shape == (6, network.width) and "fc.weight" in network.state_dict()


@pytest.mark.parametrize("labels, found", [("0 5", "0 to 5"), ("-1 4", "-1 to 4")])
def test_labels_that_are_no_classes_are_refused(labels, found, tmp_path):
    write_pictures(tmp_path, 2)
    pictures = zip(sorted((tmp_path / "train" / "a").iterdir()), labels.split())
    (tmp_path / "list.txt").write_text("".join(f"{name} {label}\n" for name, label in pictures))
    one = toy_recipe(method="supervised", batch_size=2, **TOYS["supervised"])
    with pytest.raises(ValueError, match=f"--classes 5: expected labels from 0 to 4, found {found}"):
        epoch_batches(open_source(tmp_path / "list.txt"), one, 1)


def mixing_by_the_book(z1, z2, zm, partners, share):
    """main.py of wgcban/mix-bt, restated: four D x D matrices."""
    a, b, m = ((z - z.mean(0)) / z.std(0) for z in (z1, z2, zm))
    return sum(((m.T @ v - share * (a.T @ v) - (1 - share) * (b[partners].T @ v)) / len(v)).square().sum()
               for v in (a, b))


@pytest.mark.parametrize("count, width", [(5, 9), (9, 4)])
def test_mixing_is_its_codes(count, width):
    torch.manual_seed(count)
    views = [torch.randn(count, width, dtype=torch.float64).requires_grad_() for _ in range(3)]
    partners, share = torch.randperm(count), torch.full((count,), 0.3, dtype=torch.float64)
    ours = mixed_barlow_twins.mixing_terms(*views, partners, share)
    theirs = mixing_by_the_book(*views, partners, 0.3)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    for x, y in zip(torch.autograd.grad(ours, views), torch.autograd.grad(theirs, views)):
        assert torch.allclose(x, y, rtol=1e-10, atol=1e-12)


def test_the_weight_of_mixing_rises():
    """w = mixing x lambd x share of the warm-up, beside Barlow Twins' loss with the unbiased variance."""
    one = recipe(method="mixed_barlow_twins", arch="resnet18", projector="8-4")
    network = methods.build(one)
    network.steps_per_epoch = 4
    views = [torch.randn(9, 4, dtype=torch.float64) for _ in range(3)]
    given = torch.randperm(9), torch.full((9,), 0.3, dtype=torch.float64)
    z1, z2 = ((z - z.mean(0)) / z.std(0) for z in views[:2])
    c = z1.T @ z2 / 9
    plain = (c.diagonal() - 1).square().sum() + one.lambd * (c.square().sum() - c.diagonal().square().sum())
    mixing = mixing_by_the_book(*views, given[0], 0.3)
    for step, share in ((0, 0), (10, 0.25), (40, 1), (400, 1)):
        found, _ = network.loss(views, given, step)
        assert found.item() == pytest.approx((plain + share * 0.5 * 0.0051 * mixing).item(), rel=1e-10)


def test_mixtures_are_of_the_views_and_redrawn_each_step():
    network = methods.build(recipe(method="mixed_barlow_twins", arch="resnet18", projector="8-4"))
    y1, y2 = views()
    shares = set()
    for step in range(3):
        given = network.inputs((y1, y2), trainer.draw_of(0, step))
        _, _, mixed, partners, share = given
        assert sorted(partners.tolist()) == list(range(BATCH)) and len(set(share.tolist())) == 1
        assert torch.allclose(mixed, share[0] * y1 + (1 - share[0]) * y2[partners])
        shares.add(share[0].item())
        assert all(map(torch.equal, given, network.inputs((y1, y2), trainer.draw_of(0, step))))
    assert len(shares) == 3


def test_a_picture_has_the_same_partner_on_any_number_of_processes():
    def partners(counts):
        """{picture: its partner}, pictures numbered as the loader deals them out."""
        places = [(turn, process) for process, count in enumerate(counts) for turn in range(count)]
        picture = {place: number for number, place in enumerate(sorted(places))}
        found = mixed_barlow_twins.permuted(counts, torch.Generator().manual_seed(3)).tolist()
        return {picture[place]: picture[places[row]] for place, row in zip(places, found)}

    assert partners([12]) == partners([6, 6]) == partners([1, 3, 4, 4]) == partners([3, 3, 3, 3])


def test_mixed_barlow_twins_names_are_its_codes():
    network = methods.build(recipe(method="mixed_barlow_twins", arch="resnet18"))
    assert recognised({"model": network.state_dict(), "epoch": 1}, "").format == "mixbt_checkpoint"
    network = methods.build(recipe("cifar10", method="mixed_barlow_twins"))
    assert network.projector[3].bias is not None
    assert recognised({"model": network.state_dict(), "epoch": 1}, "").format == "mixbt_checkpoint"
    outputs = network(*(view.float() for view in views()), views()[0].float())
    assert all(torch.allclose(z.norm(dim=1), torch.ones(BATCH)) for z in outputs)


def toy_moco(**changes):
    one = recipe(method="moco", projector="10-7", batch_size=BATCH, **TOYS["moco"] | changes)
    torch.manual_seed(5)
    network = methods.build(one).double()
    return trainer.Training(one, None, torch.device("cpu"), None, network, network,
                            build_optimizer(one, network), torch.amp.GradScaler("cpu", enabled=False), None)


class MoCoByTheBook:
    """moco/builder.py of facebookresearch/moco in 8 processes of two images each, restated in one."""

    def __init__(self, state):
        self.q, self.k = self.encoder(state, "encoder_q."), self.encoder(state, "encoder_k.")
        self.queue, self.pointer = state["queue"].clone(), 0

    def encoder(self, state, prefix):
        network, width = toy_backbone("", "")
        network.fc = torch.nn.Sequential(torch.nn.Linear(width, 10), torch.nn.ReLU(), torch.nn.Linear(10, 7))
        network.double().load_state_dict({name.removeprefix(prefix): value.clone()
                                          for name, value in state.items() if name.startswith(prefix)})
        return network

    def step(self, y1, y2, order, rate):
        q = torch.empty(BATCH, 7, dtype=torch.float64)
        k, shuffled = torch.empty_like(q), torch.empty_like(q)
        for process in range(8):
            q[process::8] = functional.normalize(self.q(y1[process::8]), dim=1)
            with torch.no_grad():
                shuffled[process::8] = functional.normalize(self.k(y2[order][process::8]), dim=1)
        for place, image in enumerate(order.tolist()):
            k[image] = shuffled[place]
        loss = 0
        for i in range(BATCH):
            logits = torch.stack([q[i] @ k[i], *(q[i] @ one for one in self.queue.T)]) / 0.2
            loss = loss + functional.cross_entropy(logits[None], torch.tensor([0])) / BATCH
        gradients = torch.autograd.grad(loss, list(self.q.parameters()))
        with torch.no_grad():
            for p, old, gradient in zip(self.q.parameters(), self.k.parameters(), gradients):
                p -= rate * gradient
                old.copy_(0.999 * old + 0.001 * p)
        for key in k:
            self.queue[:, self.pointer] = key
            self.pointer = (self.pointer + 1) % self.queue.size(1)
        return loss.item()


def test_moco_is_its_code(monkeypatch):
    """Three steps, in which the queue of 24 wraps around."""
    monkeypatch.setattr(backbones, "build_backbone", toy_backbone)
    training = toy_moco()
    network, book = training.network, MoCoByTheBook(training.network.state_dict())
    for step in range(3):
        y1, y2 = (view + step for view in views())
        training.optimizer.zero_grad()
        loss, figures, _ = trainer.backward(training, step, (y1, y2))
        with torch.no_grad():
            for p in network.encoder_q.parameters():
                p -= 0.5 * p.grad
        network.after_step(step, torch.tensor(True))
        order = torch.randperm(BATCH, generator=trainer.draw_of(0, step))
        assert loss.item() == pytest.approx(book.step(y1, y2, order, 0.5), rel=1e-12)
        assert 0 <= figures["nearest_is_positive"].item() <= 1
    for ours, theirs in ((network.encoder_q, book.q), (network.encoder_k, book.k)):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-12)
    assert torch.allclose(network.queue, book.queue, atol=1e-12) and network.queue_ptr.item() == 0
    before = [p.clone() for p in network.encoder_k.parameters()]
    network.after_step(3, torch.tensor(False))
    assert all(map(torch.equal, before, network.encoder_k.parameters()))


def test_mocos_network_is_its_codes():
    one = recipe(method="moco", arch="resnet18")
    network = methods.build(one)
    state = network.state_dict()
    assert {"encoder_q.fc.0.weight", "encoder_q.fc.2.bias",
            "encoder_k.layer4.1.bn2.running_var"} <= state.keys()
    assert state["queue"].shape == (128, 65536) and torch.equal(state["queue_ptr"], torch.tensor([0]))
    assert torch.allclose(state["queue"].norm(dim=0), torch.ones(1))
    assert (state["encoder_q.layer4.1.bn2.weight"] == 1).all()  # no residual branch starts at zero
    assert all(torch.equal(value, state[name.replace("encoder_q", "encoder_k")])
               for name, value in state.items())
    found = recognised({"model": state, "epoch": 1}, "")
    assert (found.format, list(found.encoders)) == ("moco", ["query", "key"])
    resnet, width = backbones.build_backbone("resnet18", "imagenet")
    assert network.torchvision_state().keys() == resnet.state_dict().keys()
    assert network.eval().backbone(torch.zeros(3, 3, 32, 32)).shape == (3, width)
    trained = {id(p) for group in build_optimizer(one, network).param_groups for p in group["params"]}
    assert trained == {id(p) for p in network.encoder_q.parameters()}


def test_moco_wants_whole_groups():
    network = toy_moco(group=4).network
    with pytest.raises(ValueError, match="--group 4: expected whole groups.* found \\[6\\]"):
        network.inputs((torch.zeros(6, 3, 8, 8), torch.zeros(6, 3, 8, 8)), torch.Generator())


class SwAVByTheBook:
    """train and distributed_sinkhorn of main_swav.py in facebookresearch/swav, restated for one process."""

    def __init__(self, prototypes, queue, first):
        """first: the step from which prototypes move and the queue is filled."""
        self.prototypes, self.first = prototypes.clone(), first
        self.queue, self.filled = [torch.zeros(queue, prototypes.size(1)).double() for _ in range(2)], 0

    def assign(self, scores):
        q = (scores / 0.05).exp().T
        q = q / q.sum()
        for _ in range(3):
            q = q / q.sum(1, keepdim=True) / q.size(0)
            q = q / q.sum(0, keepdim=True) / q.size(1)
        return (q / q.sum(0)).T

    def step(self, embeddings, number, rate):
        weight = self.prototypes.detach()
        weight = (weight / weight.norm(dim=1, keepdim=True)).requires_grad_()
        scores, loss = [z @ weight.T for z in embeddings], 0
        for view, z in enumerate(embeddings[:2]):
            with torch.no_grad():
                given = scores[view]
                if self.filled >= len(self.queue[view]):
                    given = torch.cat([self.queue[view] @ weight.T, given])
                q = self.assign(given)[-len(z):]
                if number >= self.first:
                    self.queue[view] = torch.cat([z, self.queue[view]])[:len(self.queue[view])]
            others = [(s / 0.1).softmax(1).log() for number, s in enumerate(scores) if number != view]
            loss = loss - sum((q * log).sum(1).mean() for log in others) / len(others) / 2
        gradients = torch.autograd.grad(loss, (weight, *embeddings))
        self.prototypes = weight.detach()
        if number >= self.first:
            self.filled += len(z)
            self.prototypes -= rate * gradients[0]
        return loss.item(), gradients[1:]


@pytest.mark.parametrize("count", [2, 5])
def test_swav_is_its_code(count, monkeypatch):
    """Two steps with frozen prototypes, two that fill the queue, two that use it; one that is skipped."""
    monkeypatch.setattr(backbones, "build_backbone", toy_backbone)
    network = methods.build(recipe(method="swav", projector="8-7", prototypes=5, batch_size=BATCH, freeze=2,
                                   queue=2 * BATCH, queue_start=1)).double()
    network.steps_per_epoch = 2
    weight, generator = network.prototypes.weight, torch.Generator().manual_seed(0)
    book = SwAVByTheBook(weight.detach(), 2 * BATCH, first=2)
    network.after_step(0, torch.tensor(True))  # length 1 in float64, too
    for step in range(6):
        z = [functional.normalize(torch.randn(BATCH, 7, dtype=torch.float64, generator=generator), dim=1)
             .requires_grad_() for _ in range(count)]
        ours, _ = network.loss((*z, *(one @ weight.T for one in z)), (), step)
        theirs, gradients = book.step(z, step, 0.5)
        assert ours.item() == pytest.approx(theirs, rel=1e-12)
        *found, moves = torch.autograd.grad(ours, (*z, weight))
        for a, b in zip(found, gradients):
            assert torch.allclose(a, b, rtol=0, atol=1e-12)
        with torch.no_grad():
            weight.sub_(0.5 * moves)
        network.after_step(step, torch.tensor(True))
        new = book.prototypes / book.prototypes.norm(dim=1, keepdim=True)
        assert torch.allclose(weight, new, rtol=0, atol=1e-12)
        assert (moves == 0).all() == (step < 2)
    assert torch.allclose(network.prototypes.queue, torch.stack(book.queue), rtol=0, atol=1e-12)
    weight.data.mul_(2)
    before = weight.clone()
    network.after_step(6, torch.tensor(False))
    assert torch.equal(weight, before)


@pytest.mark.parametrize("small", [0, 4])
def test_swavs_loss_is_lightlys(small, monkeypatch):
    lightly = pytest.importorskip("lightly.loss", reason="lightly is not installed")
    monkeypatch.setattr(backbones, "build_backbone", toy_backbone)
    network = methods.build(recipe(method="swav", projector="8-7", prototypes=5, freeze=0)).double()
    torch.manual_seed(0)
    z = [functional.normalize(torch.randn(BATCH, 7, dtype=torch.float64), dim=1) for _ in range(2 + small)]
    scores = [(one @ network.prototypes.weight.T).detach().requires_grad_() for one in z]
    ours, _ = network.loss((*z, *scores), (), 0)
    theirs = lightly.SwaVLoss()(scores[:2], scores[2:])
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    for a, b in zip(torch.autograd.grad(ours, scores), torch.autograd.grad(theirs, scores)):
        assert torch.allclose(a, b, atol=1e-12)


def test_crops_of_one_size_go_through_the_network_together(monkeypatch):
    """forward of src/resnet50.py: batch statistics of two and of three views, then of all five."""
    seen = []

    def watched(layer, x):
        seen.append(tuple(x.shape[:1] + x.shape[2:]))
        return x
    monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", watched)
    monkeypatch.setattr(torch.nn.BatchNorm1d, "forward", watched)
    monkeypatch.setattr(backbones, "build_backbone", toy_backbone)
    network = methods.build(recipe(method="swav", projector="8-7", prototypes=5)).double()
    given = views(24, 24, 12, 12, 12)
    outputs = network(*given)
    assert seen == [(2 * BATCH, 5, 5), (3 * BATCH, 2, 2), (5 * BATCH,)]
    alone = [network(one) for one in given]
    for number, (z, scores) in enumerate(alone):
        assert torch.allclose(outputs[number], z) and torch.allclose(outputs[5 + number], scores)


def test_crops_of_the_code_and_of_its_other_scripts():
    def crops(preset):
        return [(one.size, one.scale, one.blur, one.hue) for one in recipe(preset, "swav").view_recipes()]
    multi = 2 * [(224, (0.14, 1.0), 0.5, 0.2)] + 6 * [(96, (0.05, 0.14), 0.5, 0.2)]
    assert crops("code") == crops("batch256") == multi
    assert crops("2x224") == 2 * [(224, (0.08, 1.0), 0.5, 0.2)]
    assert [size for size, *_ in crops("cifar10")] == [32, 32]
    for preset, first, peak, last in (("code", 0.3, 4.8, 0.0048), ("batch256", 0.6, 0.6, 0.0006)):
        one = recipe(preset, "swav")
        rates = [learning_rates(one, step, 100)[0] for step in (0, 1000, 100 * one.epochs - 1)]
        assert rates[0] == pytest.approx(first) and rates[2] == pytest.approx(last, rel=1e-3)
        assert rates[1] == pytest.approx(peak, rel=1e-2)


def assigned():
    """Where this process's rows go, without and with others; which rows they are; the scores of all."""
    generator = torch.Generator().manual_seed(2)
    scores, others = (torch.rand(count, 5, dtype=torch.float64, generator=generator) for count in (BATCH, 9))
    own = rows("swav")
    without, joined = (sinkhorn(scores[own], 0.05, 3, others, torch.tensor(one)) for one in (False, True))
    return without, joined, own, scores


def test_assignments_are_joint_and_lightlys():
    *one, _, scores = assigned()
    *two, own, _ = launch(assigned, 2)
    assert 0 < len(own) < BATCH / 2
    for whole, part in zip(one, two):
        assert torch.allclose(whole[own], part, rtol=0, atol=1e-12)
    assert (one[0] - one[1]).abs().max() > 1e-3
    assert torch.allclose(one[0], sinkhorn(scores, 0.05, 3), rtol=0, atol=1e-14)
    assert sinkhorn(scores.float(), 0.01, 3).isfinite().all()
    lightly = pytest.importorskip("lightly.loss.swav_loss", reason="lightly is not installed")
    assert torch.allclose(one[0], lightly.sinkhorn(scores), rtol=0, atol=1e-14)


def test_swavs_network_is_its_codes():
    """src/resnet50.py of facebookresearch/swav: bare names."""
    network = methods.build(recipe("cifar10", method="swav"))
    state = network.state_dict()
    assert {"conv1.weight", "layer4.1.bn2.weight", "projection_head.0.bias", "projection_head.3.bias",
            "prototypes.weight", "prototypes.queue"} <= state.keys() and "prototypes.bias" not in state
    found = recognised({"model": state, "epoch": 1}, "")
    assert (found.format, found.encoders["backbone"].keys()) == ("swav", network.torchvision_state().keys())
    assert torch.allclose(state["prototypes.weight"].norm(dim=1), torch.ones(1))
    resnet, width = backbones.build_backbone("resnet18", "cifar")
    assert network.torchvision_state().keys() == resnet.state_dict().keys()
    assert network.eval().backbone(torch.zeros(2, 3, 32, 32)).shape == (2, width)


@pytest.mark.parametrize("arguments, message", [
    (dict(method="swav", small_scale=(0.2, 0.1)), "--small-scale expected two shares"),
    (dict(method="swav", queue=100), "--queue expected a multiple of 4096 images"),
    (dict(method="swav", optimizer="adam"), "--optimizer expected lars or sgd"),
    (dict(method="mixed_barlow_twins", mixing=-1.0), "--mixing expected at least 0"),
    (dict(method="moco", accumulate=2), "--accumulate expected 1, since keys are shuffled"),
    (dict(method="moco", batch_size=100), "--group expected a divisor of the batch size 100"),
    (dict(method="moco", queue=128), "--queue expected at least the batch size 256"),
    (dict(method="simclr", temperature=0.0), "--temperature expected more than 0"),
    (dict(method="byol", tau=1.5), "--tau expected a share"),
    (dict(method="simsiam", spike_factor=10.0), "--spike-factor expected 0"),
    (dict(method="supervised", projector="8-8"), "--projector expected none"),
    (dict(method="supervised", classes=1), "--classes expected at least 2"),
    (dict(method="dino"), "--method expected one of .*vicreg.* found 'dino'"),
    (dict(method="vicreg", cov_coeff=-1.0), "--cov-coeff expected at least 0"),
    (dict(method="vicreg", preset="stl10"), "--preset expected one of .*found 'stl10'"),
], ids=["small crops", "whole queue", "decay", "mixing", "micro-batches", "groups", "queue", "temperature",
        "average", "spikes", "no projector", "classes", "method", "value", "preset"])
def test_what_a_method_does_not_know_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        recipe(**arguments)
