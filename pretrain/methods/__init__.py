"""The objectives, one file each. To add one: a file with a Method and its Recipe, and an entry here."""
from pretrain.methods.barlow_twins import BarlowTwins
from pretrain.methods.hsic import HSIC
from pretrain.methods.method import Method
from pretrain.methods.vicreg import VICReg
from pretrain.recipe import Recipe

METHODS: dict[str, type[Method]] = {kind.Recipe.method: kind for kind in (BarlowTwins, VICReg, HSIC)}


def method_named(name: str) -> type[Method]:
    """The class of a method. ValueError for an unknown name."""
    if name not in METHODS:
        raise ValueError(f"--method expected one of {', '.join(METHODS)}, found {name!r}")
    return METHODS[name]


def recipe(preset: str = "code", method: str = "barlow_twins", **changes) -> Recipe:
    """A method's recipe: its preset with single values changed. ValueError for unknown names and impossible
    values."""
    kind = method_named(method)
    if preset not in kind.PRESETS:
        raise ValueError(f"--preset expected one of {', '.join(kind.PRESETS)}, found {preset!r}")
    return kind.Recipe(**(kind.PRESETS[preset] | changes))


def build(recipe: Recipe) -> Method:
    """The recipe's network, freshly initialised from torch's global generator, on the CPU."""
    return method_named(recipe.method)(recipe)
