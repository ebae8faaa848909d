"""The objectives, one file each. To add one: a file with a Method and its Recipe, and an entry here."""
from typing import Any

from pretrain.methods.amcl import AMCLBarlowTwins, AMCLSimCLR
from pretrain.methods.barlow_twins import BarlowTwins
from pretrain.methods.barlow_twins_ablated import BarlowTwinsAblated
from pretrain.methods.byol import BYOL
from pretrain.methods.hsic import HSIC
from pretrain.methods.method import Method
from pretrain.methods.mixed_barlow_twins import MixedBarlowTwins
from pretrain.methods.moco import MoCo
from pretrain.methods.regularised import BYOLRegularised, SimSiamRegularised
from pretrain.methods.simclr import SimCLR
from pretrain.methods.simsiam import SimSiam
from pretrain.methods.supcon import SupCon
from pretrain.methods.supervised import Supervised
from pretrain.methods.swav import SwAV
from pretrain.methods.vicreg import VICReg
from pretrain.methods.vicreg_ablated import VICRegAblated
from pretrain.recipe import Recipe, Value

# The last line has what only the papers' ablations need (pretrain/experiments.py).
METHODS: dict[str, type[Method]] = {kind.Recipe.method: kind for kind in (
    BarlowTwins, VICReg, HSIC, SimSiam, BYOL, SimCLR, SupCon, MixedBarlowTwins, MoCo, SwAV, Supervised,
    AMCLSimCLR, AMCLBarlowTwins,
    BarlowTwinsAblated, VICRegAblated, SimSiamRegularised, BYOLRegularised)}


def method_named(name: str) -> type[Method]:
    """Return the class of a method. Raises ValueError for an unknown name."""
    if name not in METHODS:
        raise ValueError(f"--method expected one of {', '.join(METHODS)}, found {name!r}")
    return METHODS[name]


def recipe(preset: str = "code", method: str = "barlow_twins", **changes: Value) -> Recipe:
    """Return a method's preset with single values changed. Raises ValueError for unknown names and impossible
    values."""
    kind = method_named(method)
    if preset not in kind.PRESETS:
        raise ValueError(f"--preset expected one of {', '.join(kind.PRESETS)}, found {preset!r}")
    settings: dict[str, Any] = kind.PRESETS[preset] | changes
    return kind.Recipe(**settings)


def build(recipe: Recipe) -> Method:
    """Return the recipe's network, freshly initialised from torch's global generator, on the CPU."""
    return method_named(recipe.method)(recipe)
