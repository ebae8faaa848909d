"""Recipes: presets golden, refusals, and what reaches the views."""

import pytest

from pretrain.methods import METHODS, recipe
from pretrain.pictures.augment import VIEWS

# name: epochs, batch, rates of weights and biases, weight decay, lambda, projector, network, stem, pixels
GOLDEN = {
    "code": (1000, 2048, 0.2, 0.0048, 1e-6, 0.0051, "8192-8192-8192", "resnet50", "imagenet", 224),
    "paper": (1000, 2048, 0.2, 0.0048, 1.5e-6, 5e-3, "8192-8192-8192", "resnet50", "imagenet", 224),
    "ablation300": (300, 2048, 0.2, 0.0048, 1e-6, 0.0051, "8192-8192-8192", "resnet50", "imagenet", 224),
    "imagenet100": (400, 256, 0.3, 0.3, 1e-4, 0.0051, "2048-2048-2048", "resnet18", "imagenet", 224),
    "cifar10": (1000, 256, 0.3, 0.3, 1e-4, 0.0051, "2048-2048-2048", "resnet18", "solo", 32),
    "cifar100": (1000, 256, 0.3, 0.3, 1e-4, 0.0051, "2048-2048-2048", "resnet18", "solo", 32),
    "stl10": (1000, 256, 0.3, 0.3, 1e-4, 0.0051, "2048-2048-2048", "resnet18", "small", 64),
    "tiny-imagenet": (1000, 256, 0.3, 0.3, 1e-4, 0.0051, "2048-2048-2048", "resnet18", "small", 64),
    "batch128": (300, 128, 0.7, 0.0168, 1e-6, 0.0051, "8192-8192-8192", "resnet50", "imagenet", 224),
    "batch256": (300, 256, 0.4, 0.0096, 1e-6, 0.0051, "8192-8192-8192", "resnet50", "imagenet", 224),
    "batch512": (300, 512, 0.3, 0.0072, 1e-6, 0.0051, "8192-8192-8192", "resnet50", "imagenet", 224),
    "batch1024": (300, 1024, 0.25, 0.006, 1e-6, 0.0051, "8192-8192-8192", "resnet50", "imagenet", 224),
    "batch2048": (300, 2048, 0.2, 0.0048, 1e-6, 0.0051, "8192-8192-8192", "resnet50", "imagenet", 224),
    "batch4096": (300, 4096, 0.2, 0.0048, 1e-6, 0.0051, "8192-8192-8192", "resnet50", "imagenet", 224),
}


def test_presets_are_golden():
    assert set(METHODS["barlow_twins"].PRESETS) == set(GOLDEN)
    for name, wanted in GOLDEN.items():
        r = recipe(name)
        assert (r.epochs, r.batch_size, r.learning_rate_weights, r.learning_rate_biases, r.weight_decay,
                r.lambd, r.projector, r.arch, r.stem, r.image_size) == wanted, name


@pytest.mark.parametrize("method, epochs, rate, decay, projector, blur, own", [
    # scripts/pretrain/imagenet-100/*.yaml of vturrisi/solo-learn: 400 epochs
    ("vicreg", 400, 0.3, 1e-4, "2048-2048-2048", (0.5, 0.5), {"solarise": (0.1, 0.1)}),
    ("simclr", 400, 0.3, 1e-4, "4096-512", (0.5, 0.5), {"temperature": 0.2, "jitter": 2.0}),
    ("byol", 400, 0.5, 1e-6, "4096-256", (1.0, 0.1), {"predictor": "8192", "tau": 0.99}),
    ("simsiam", 400, 0.5, 1e-5, "2048-2048-2048", (1.0, 0.1), {"optimizer": "sgd"}),
    ("moco", 400, 0.3, 1e-4, "2048-256", (0.5, 0.5), {"queue": 65536, "optimizer": "sgd"}),
    ("swav", 400, 0.6, 1e-6, "2048-128", (0.5, 0.5), {"queue": 3840, "freeze": 988}),
    # scripts/pretrain/cifar/*.yaml, the same files for CIFAR-10 and CIFAR-100: 1000 epochs
    ("vicreg", 1000, 0.3, 1e-4, "2048-2048-2048", (0.0, 0.0), {"solarise": (0.1, 0.1)}),
    ("simclr", 1000, 0.4, 1e-4, "2048-256", (0.5, 0.5), {"temperature": 0.2, "jitter": 2.0}),
    ("byol", 1000, 1.0, 1e-5, "4096-256", (0.0, 0.0), {"predictor": "4096", "solarise": (0.0, 0.2)}),
    ("simsiam", 1000, 0.5, 1e-5, "2048-2048-2048", (0.5, 0.5), {"optimizer": "sgd"}),
    ("moco", 1000, 0.3, 1e-4, "2048-256", (0.5, 0.5), {"queue": 32768, "optimizer": "sgd"}),
    ("swav", 1000, 0.6, 1e-6, "2048-128", (0.5, 0.5), {"queue": 3840, "freeze": 390})])
def test_presets_of_solo_learn(method, epochs, rate, decay, projector, blur, own):
    r = recipe("imagenet100" if epochs == 400 else "cifar100", method=method)
    assert (r.epochs, r.batch_size, r.learning_rate_weights, r.learning_rate_biases, r.weight_decay,
            r.projector, r.blur, r.arch) == (epochs, 256, rate, rate, decay, projector, blur, "resnet18")
    assert (r.stem, r.image_size) == (("imagenet", 224) if epochs == 400 else ("solo", 32))
    assert r.warmup_epochs == 10 and {name: getattr(r, name) for name in own} == own


@pytest.mark.parametrize("name", ["imagenet100", "cifar10", "stl10", "tiny-imagenet"])
def test_small_data_has_solo_learns_optimiser(name):
    """scripts/pretrain/cifar/barlow.yaml of vturrisi/solo-learn."""
    r = recipe(name)
    assert (r.trust_coefficient, r.clip_ratio, r.loss_scale, r.reference_world_size) == (0.02, True, 0.1, 1)


def test_views_of_a_recipe():
    assert recipe().view_recipes() == VIEWS == recipe("imagenet100").view_recipes()
    one, two = recipe("cifar10").view_recipes()
    assert (one.blur, one.solarise, two.blur, two.solarise, two.scale) == (0, 0, 0, 0.2, (0.08, 1.0))
    one, two = recipe("stl10").view_recipes()
    assert one == two and (one.scale, one.saturation, one.grey) == ((0.2, 1), 0.4, 0.1)
    assert (one.blur, one.solarise) == (0, 0)
    one, = recipe(method="supervised").view_recipes()
    assert (one.jitter, one.grey, one.blur, one.solarise, one.flip, one.scale) == (0, 0, 0, 0, 0.5, (0.08, 1))
    one, two = recipe(method="simclr").view_recipes()
    assert one == two and (one.brightness, one.contrast, one.saturation, one.hue) == (0.8, 0.8, 0.8, 0.2)


def test_peak_rates_are_the_papers():
    assert recipe().peak_rates() == pytest.approx((1.6, 0.0384))  # arXiv 2103.03230, 2.2


@pytest.mark.parametrize("changes, message", [
    ({"blur": (0.5, 1.5)}, "--blur expected two probabilities"),
    ({"crop_scale": (0.5, 0.2)}, "--crop-scale expected two shares in rising order"),
    ({"jitter": 3.0}, "--jitter expected a factor"),
    ({"grey": -1.0}, "--grey expected a number from 0 to 1"),
    ({"views": "opencv"}, "--views expected one of pil, fast, device, found 'opencv'"),
    ({"accumulate": 3, "batch_size": 4}, "--accumulate expected micro-batches of at least 2 of the 4 images"),
    ({"accumulate": 0}, "--accumulate expected at least 1"),
    ({"spike_factor": 0.5}, "--spike-factor expected 0 or more than 1"),
    ({"loss_scale": 0.0}, "--loss-scale expected more than 0"),
], ids=str)
def test_impossible_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        recipe(**changes)
