"""The ablations of the papers as declarations: what is varied, by which settings, and what was published.

ablate.py runs them. Sources: Barlow Twins = arXiv 2103.03230, section 4; VICReg = arXiv 2105.04906, section 5
and appendix D. Where a paper leaves a value open, the one used here is in `notes`.

Not here, because they need networks that this suite does not have: VICReg's Table 5 with ViT-S branches, with
different branches for SimCLR and BYOL, and the modalities of its Table 6.
"""
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pretrain.methods import METHODS
from pretrain.methods.barlow_twins import SEARCHED_RATES
from pretrain.recipe import Value, show

Settings = Mapping[str, Value]


@dataclass(frozen=True)
class Scale:
    """Where an experiment runs. folder: of the pictures in the data root. task, pairs: of transfer/run.py,
    what top-1 is measured by. preset: of every method; None: the rows' own. knn: the part of the folder that
    shows kNN while training; "": none, where there are too many pictures for it."""
    folder: str
    task: str
    pairs: tuple[str, ...] = ()
    preset: str | None = None
    knn: str = ""


SCALES = {
    "paper": Scale("imagenet", "imagenet_linear"),
    "cifar10": Scale("cifar10", "cifar10_probe", (  # every tenth power of a narrower range, for speed
        "image_size", "32", "weakest", "1e-3", "strongest", "1e3", "strengths", "7"), "cifar10", "test"),
}


@dataclass(frozen=True)
class Row:
    """One pretraining run.

    label     of the row; of the published one, where `metric` says which figure of it
    settings  what differs from the preset, the method among it
    number    where a plot shows the row
    paper     what differs besides at the paper's scale, small: at any other
    preset    of the method at the paper's scale
    """
    label: str
    settings: Settings = field(default_factory=dict)
    number: float | None = None
    published: tuple[str, str] | None = None  # row and metric of the experiment's table
    paper: Settings = field(default_factory=dict)
    small: Settings = field(default_factory=dict)
    preset: str = "ablation300"

    @property
    def slug(self) -> str:
        """The name of the row's folder and of its backbone in records."""
        return re.sub(r"[^a-z0-9._]+", "-", self.label.lower()).strip("-")

    def flags(self, scale: Scale) -> list[str]:
        """Return what pretrain/main.py is asked for."""
        settings = {**self.settings, **(self.small if scale.preset else self.paper)}
        return ["--preset", scale.preset or self.preset,
                *(word for name, value in settings.items()
                  for word in (f"--{name.replace('_', '-')}", show(value)))]


@dataclass(frozen=True)
class Experiment:
    """Rows of one table or figure. table: of the published rows in results/published.json. varied: the axis
    of the rows' numbers, "" where they have none. log: whether that axis is logarithmic. notes: what differs
    from the paper, or had to be chosen."""
    title: str
    table: str
    rows: tuple[Row, ...]
    varied: str = ""
    log: bool = False
    notes: tuple[str, ...] = ()


ABLATED, VICREG = "barlow_twins_ablated", "vicreg_ablated"
SIMSIAM, BYOL = "simsiam_regularised", "byol_regularised"
PRESETS = {"barlow_twins": "ablation300", ABLATED: "ablation300", "vicreg": "ablation100",
           VICREG: "ablation100", SIMSIAM: "code", BYOL: "epochs100", "byol": "epochs300"}


def known(method: str, label: str, metric: str = "top1", shown: str = "", paper: Settings | None = None,
          small: Settings | None = None, number: float | None = None, **settings: Value) -> Row:
    """Return a row that is published under its label. shown: its label here, if another one."""
    return Row(shown or label, {"method": method} | settings, number, (label, metric), paper or {},
               small or {}, PRESETS[method])


WIDTHS = [2**power for power in range(4, 15)]  # Figure 4: 16 to 16384
OFF: Settings = {"blur": (0.0, 0.0), "solarise": (0.0, 0.0), "grey": 0.0, "jitter": 0.0, "flip": 0.0}
# Column of VICReg's Table 4 -> what is added there, and the weights of variance and covariance.
REGULARISED = {"top1": ("nothing", 0.0, 0.0), "top1_variance": ("variance", 1.0, 0.0),
               "top1_variance_covariance": ("variance and covariance", 1.0, 0.04)}
MEAN = "coefficients as in the released code, whose variance term is the mean of both views', not the sum"
COLLAPSED = "without a published figure: the training collapsed"


def regularised(method: str, label: str, factor: float = 1.0, **settings: Value) -> list[Row]:
    """Return the three columns of a row of VICReg's Table 4. factor: on the weights of both terms."""
    return [Row(f"{label}; adds {what}", {"method": method, "std_coeff": factor * variance,
                                          "cov_coeff": factor * covariance, **settings},
                published=(label, metric), preset=PRESETS[method])
            for metric, (what, variance, covariance) in REGULARISED.items()]


def wide(row: Row) -> Row:
    """Return a row with a predictor as wide as the projector."""
    return replace(row, paper={"predictor": "8192"}, small={"predictor": "2048"})


def coefficients(label: str, sim: float, std: float, cov: float) -> Row:
    return known("vicreg", label, sim_coeff=float(sim), std_coeff=float(std), cov_coeff=float(cov))


EXPERIMENTS: dict[str, Experiment] = {
    "table5": Experiment("Barlow Twins: ablation of the loss", "Barlow Twins, Table 5", (
        known("barlow_twins", "Baseline"),
        known(ABLATED, "Only invariance term (on-diagonal)", lambd=0.0),
        known(ABLATED, "Only redundancy-reduction term (off-diagonal)", on_diagonal=0.0),
        known(ABLATED, "Normalization along feature dimension", normalisation="features"),
        known(ABLATED, "No BN in MLP", hidden_norm=False),
        known(ABLATED, "No BN in MLP + no normalization", hidden_norm=False, normalisation="none"),
        known(ABLATED, "Cross-entropy with temperature", temperature=0.1, lambd=1.0),
    ), notes=("cross-entropy: the paper gives neither temperature nor lambda; here 0.1 and 1",)),
    "table6": Experiment("Barlow Twins: ablation of symmetry", "Barlow Twins, Table 6", (
        known("barlow_twins", "Baseline"),
        known(ABLATED, "(a) stop-gradient", stop_gradient=True),
        wide(known(ABLATED, "(b) predictor")),
        wide(known(ABLATED, "(c) stop-gradient + predictor", stop_gradient=True)),
    ), notes=("below the paper's scale the predictor is as wide as the projector is there, 2048",)),
    "table7": Experiment("BYOL with larger heads", "Barlow Twins, Table 7", tuple(
        known("byol", f"projector {projector}, predictor {predictor}", projector=projector,
              predictor=predictor.rpartition("-")[0])
        for projector, predictor in (
            ("4096-256", "4096-256"), ("4096-4096-256", "4096-256"), ("4096-4096-256", "4096-4096-256"),
            ("4096-4096-512", "4096-512"), ("4096-4096-512", "4096-4096-512"),
            ("8192-8192-8192", "8192-8192"))),
        notes=("the paper does not say the table's epochs; here 300, those of its other ablations",)),
    "fig2": Experiment("Barlow Twins: batch size, each with its own learning rate", "Barlow Twins, Figure 2",
                       tuple(
        Row(label, {}, size, (label, "top1"), small={
            "batch_size": size, "learning_rate_weights": round(0.3 * rate / SEARCHED_RATES[256], 6),
            "learning_rate_biases": round(0.3 * rate / SEARCHED_RATES[256], 6)}, preset=f"batch{size}")
        for size, rate in SEARCHED_RATES.items() for label in (f"Barlow Twins, batch size {size}",)),
        "batch size", True, ("below the paper's scale the rate is the preset's, times the authors' rate over "
                             "theirs for 256",)),
    "fig3": Experiment("Barlow Twins: views without one part after another", "Barlow Twins, Figure 3", (
        Row("baseline"),
        Row("no greyscale", {"grey": 0.0}),
        Row("nor colour jitter", {"grey": 0.0, "jitter": 0.0}),
        Row("crop and blur alone", OFF, paper={"blur": (1.0, 0.1)}, small={"blur": (0.5, 0.5)}),
        Row("crop alone", OFF),
    ), notes=("the paper prints no values",)),
    "fig4": Experiment("Barlow Twins: width of the projector", "Barlow Twins, Figure 4", tuple(
        Row(f"width {width}", {"projector": f"{width}-{width}-{width}"}, width) for width in WIDTHS),
        "width of the projector's three layers", True,
        ("the paper prints no values; all three layers are as wide as the last, as its author says "
         "(facebookresearch/barlowtwins issue 48)",)),
    "depth": Experiment("Barlow Twins: depth of the projector", "Barlow Twins, Figure 4", tuple(
        Row(f"layers: {depth}", {}, depth, paper={"projector": "-".join(["8192"] * depth)},
            small={"projector": "-".join(["2048"] * depth)}) for depth in (1, 2, 3, 4)),
        "layers of the projector", notes=("the paper prints no values, but says that three are best",)),
    "fig5": Experiment("Barlow Twins: weight of the redundancy term", "Barlow Twins, Figure 5", tuple(
        Row(f"lambda {lambd}", {"lambd": lambd}, lambd) for lambd in (0.002, 0.0051, 0.01, 0.015, 0.02)),
        "lambda", notes=("the paper prints no values; its axis goes from 0.002 to 0.020",)),
    "vicreg4": Experiment("VICReg: regularisation and asymmetry", "VICReg, Table 4", (
        *regularised(BYOL, "BYOL: momentum encoder, stop-gradient, predictor, BN"),
        *regularised(SIMSIAM, "SimSiam: stop-gradient, predictor, BN"),
        *regularised(SIMSIAM, "SimSiam: stop-gradient, predictor", projector_norm=False),
        *regularised(SIMSIAM, "SimSiam: stop-gradient", projector_norm=False, with_predictor=False),
        *map(wide, regularised(VICREG, "VICReg: predictor", 25.0, hidden_norm=False)),
        *map(wide, regularised(VICREG, "VICReg: predictor, BN", 25.0)),
        *regularised(VICREG, "VICReg: BN", 25.0),
        *regularised(VICREG, "VICReg: none of these", 25.0, hidden_norm=False),
    ), notes=("the terms' weights beside BYOL's and SimSiam's losses are not published; here 1 and 0.04, "
              "VICReg's proportion", COLLAPSED)),
    "vicreg5": Experiment("VICReg: unlike branches", "VICReg, Table 5", tuple(
        known(method, name, metric, f"{name}, {what}", paper={**epochs, "second": at_paper},
              small={"second": small})
        for method, name, epochs in ((ABLATED, "Barlow Twins", {"epochs": 100}), (VICREG, "VICReg", {}))
        for metric, what, at_paper, small in (
            ("top1", "shared weights", "shared", "shared"),
            ("top1_different_weights", "own weights", "resnet50", "resnet18"),
            ("top1_r101", "a deeper second network", "resnet101", "resnet34")))),
    "vicreg7": Experiment("VICReg: coefficients of the loss", "VICReg, Table 7", (
        coefficients("Inv: lambda 1, mu 0, nu 0", 1, 0, 0),
        coefficients("Inv + Cov: lambda 25, mu 0, nu 1", 25, 0, 1),
        coefficients("Inv + Cov: lambda 0, mu 25, nu 1", 0, 25, 1),
        coefficients("Inv + Var: lambda 1, mu 1, nu 0", 1, 1, 0),
        *(coefficients(f"VICReg: lambda {sim}, mu {std}, nu 1", sim, std, 1)
          for sim, std in ((1, 1), (1, 10), (10, 1), (5, 5), (10, 10), (25, 25), (50, 50))),
    ), notes=(MEAN, COLLAPSED, "third row: the coefficients as printed, which its name contradicts")),
    "vicreg8": Experiment("VICReg: normalisation", "VICReg, Table 8", tuple(
        known(VICREG, f"hidden layers {hidden}, embedding {norm}", hidden_norm=hidden == "std",
              normalisation=norm)
        for hidden, norm in (("std", "none"), ("std", "std"), ("none", "std"), ("none", "l2"))),
        notes=("the table's fourth row is left out: its label is that of the first",)),
    "vicreg12": Experiment("VICReg: dimension of the expander", "VICReg, Table 12", tuple(
        known("vicreg", f"expander dimension {width}", number=width, projector=f"{width}-{width}-{width}")
        for width in WIDTHS[4:]), "dimension of the expander", True),
    "vicreg13": Experiment("VICReg: batch size", "VICReg, Table 13", tuple(
        known("vicreg", f"batch size {size}", number=size, batch_size=size)
        for size in (128, 256, 512, 1024, 2048, 4096)), "batch size", True),
    "family": Experiment("All methods", "", tuple(
        Row(name, {"method": name}, preset="code") for name in METHODS
        if name not in (ABLATED, VICREG, SIMSIAM, BYOL)),
        notes=("no table of a paper: each method by its own preset",)),
}
