"""Every table on one page: its title, the published tables that open it, and what its columns hold.

To add a table, add one `Table(...)` to TABLES, and its figures to published.json if they are not there yet.
What is measured here enters the columns of its task and metric; columns of tasks and metrics that this suite
does not have hold published figures only.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column of a table.

    header, group (several columns may share one): text in which `_` and `^` set the word after them low and
    high. task, metric: what its cells hold. align: "l", "r" or, for long text, a LaTeX width, "p{30mm}".
    arch: of the backbones in it, where it is not the table's.
    """

    header: str
    task: str = ""
    metric: str = ""
    group: str = ""
    align: str = "r"
    arch: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a paper. rows: the published tables, "<paper>, <table>", whose rows open it, in order.

    notes: remarks below it. arch: the architecture of its backbones, "A or B" for two; ours of another one do
    not enter it. ablation: whether its rows differ in pretraining, which no record knows: a
    backbone enters such a table only under the name of one of its rows.
    """

    name: str
    title: str
    paper: str
    rows: tuple
    columns: tuple
    notes: tuple = ()
    ablation: bool = False
    arch: str = "resnet50"

    @property
    def cells(self) -> set[tuple[str, str, str]]:
        """(architecture, task, metric) of what its columns hold."""
        return {(arch, column.task, column.metric) for column in self.columns
                for arch in (column.arch or self.arch).split(" or ")}


def _detection(group, task, prefix="", mark=""):
    names = (("AP", f"AP{mark}" if mark else "AP_all"), ("AP50", f"AP{mark}_50"), ("AP75", f"AP{mark}_75"))
    return tuple(Column(header, task, prefix + metric, group) for metric, header in names)


def _accuracies(group, task):
    return Column("Top-1", task, "top1", group), Column("Top-5", task, "top5", group)


BARLOW_TWINS = "Barlow Twins (arXiv 2103.03230, ICML 2021)"
VICREG = "VICReg (arXiv 2105.04906, ICLR 2022)"
SOLO = "solo-learn (vturrisi/solo-learn at 9187ea3, README)"
LIGHTLY = "lightly (lightly-ai/lightly at e8d317f, benchmarks.rst)"
TOP1 = Column("Top-1", "imagenet_linear", "top1")
LINEAR = _accuracies("", "imagenet_linear")
SEMI = (Column("1%", "imagenet_semi1", "top1", "Top-1"), Column("10%", "imagenet_semi10", "top1", "Top-1"),
        Column("1%", "imagenet_semi1", "top5", "Top-5"), Column("10%", "imagenet_semi10", "top5", "Top-5"))
FEATURES = (Column("Top-1", "places205_linear", "top1", "Places-205"),
            Column("mAP", "voc07_svm", "mAP", "VOC07"), Column("Top-1", "inat18_linear", "top1", "iNat18"))
KNN = (Column("20-NN", "imagenet_knn", "top1_k20"), Column("200-NN", "imagenet_knn", "top1_k200"))
COLLAPSE = "a dash: the training collapsed"
DEFAULTS = "this suite's default: the recipes of Barlow Twins, not VICReg's own"
HUNDRED = "linear evaluation on ImageNet after 100 epochs of pretraining: top-1 accuracy (%)"

TABLES = (
    Table("linear", "Linear evaluation on ImageNet: accuracy (%), ResNet-50",
          f"{BARLOW_TWINS}, Table 1", ("Barlow Twins, Table 1",), LINEAR),
    Table("semi", "Semi-supervised learning on ImageNet, 1% and 10% of the labels: accuracy (%), ResNet-50",
          f"{BARLOW_TWINS}, Table 2", ("Barlow Twins, Table 2",), SEMI,
          notes=("this suite's default: the released code's backbone learning rate 0.005 and cosine; the "
                 "paper prints 0.002 and a factor 0.2 after epochs 12 and 16 (preset paper)",)),
    Table("transfer", "Transfer: image classification on fixed features (%), ResNet-50",
          f"{BARLOW_TWINS}, Table 3", ("Barlow Twins, Table 3",), FEATURES,
          notes=("this suite's default on Places-205 and iNat18: VISSL's three drops of the learning rate "
                 "and Nesterov; the paper prints two drops, equally spaced",
                 "VOC07: the paper names neither layer nor crop nor costs; here they are the average pool, "
                 "256 and centre crop 224, VISSL's")),
    Table("detection", "Transfer: object detection and instance segmentation (%), fine-tuned ResNet-50 C4",
          f"{BARLOW_TWINS}, Table 4", ("Barlow Twins, Table 4",),
          (*_detection("VOC07+12 det", "voc_det"), *_detection("COCO det", "coco_det", "box_", "^bb"),
           *_detection("COCO instance seg", "coco_det", "mask_", "^mk")),
          notes=("VOC: the rows Supervised and MoCo v2 come from MoCo's recipe, learning rate 0.02, mean of "
                 "five trials; Barlow Twins and SwAV from learning rate 0.1. SimSiam's recipe is not known "
                 "here: learning rate and weight decay were searched (facebookresearch/simsiam issue 26)",)),
    Table("loss", "Ablation of the loss: linear evaluation on ImageNet (%), 300 epochs",
          f"{BARLOW_TWINS}, Table 5", ("Barlow Twins, Table 5",), LINEAR, ablation=True),
    Table("asymmetry", "Ablation of asymmetry: linear evaluation on ImageNet (%), 300 epochs",
          f"{BARLOW_TWINS}, Table 6", ("Barlow Twins, Table 6",), LINEAR, ablation=True),
    Table("byol_heads", "BYOL with larger heads: linear evaluation on ImageNet, top-1 accuracy (%)",
          f"{BARLOW_TWINS}, Table 7", ("Barlow Twins, Table 7",), (TOP1,), ablation=True),
    Table("batch_size", "Batch size: linear evaluation on ImageNet, top-1 accuracy (%), 300 epochs",
          f"{BARLOW_TWINS}, Figure 2", ("Barlow Twins, Figure 2",), (TOP1,), ablation=True,
          notes=("batch sizes: the author's figures in facebookresearch/barlowtwins issue 7, learning "
                 "rate searched for each; best of each method: the caption",
                 "BYOL and SimCLR: read by the authors from those papers' own figures; they do not compete")),
    Table("elsewhere", "Barlow Twins as others measured it, ResNet-50 (%)", "repositories and their issues",
          ("Barlow Twins repository, README", "Barlow Twins repository, issues", "VISSL, model zoo",
           "VISSL, pull request 230", "mmselfsup, README", "solo-learn, ImageNet", "lightly, ImageNet",
           "mix-bt, ImageNet", "FFCV-SSL, issue 13"),
          (Column("Top-1", "imagenet_linear", "top1", "linear"),
           Column("Top-5", "imagenet_linear", "top5", "linear"), *SEMI, FEATURES[1], *KNN), ablation=True,
          notes=("recipes, epochs and batch sizes differ: the figures show how far sources disagree",)),
    Table("repositories", "Other methods as their own and others' code measured them, ResNet-50 (%)",
          "repositories and their issues",
          tuple(f"{name}, repositories" for name in (
              "Supervised", "PIRL", "SimCLR", "MoCo", "SimSiam", "BYOL", "SwAV", "SupCon", "VICReg")),
          (Column("Top-1", "imagenet_linear", "top1", "linear"), FEATURES[1], *KNN,
           Column("AP_50", "voc_det", "AP50", "VOC07+12 det"),
           Column("AP^bb", "coco_det_fpn", "box_AP", "COCO det, FPN"),
           Column("AP^mk", "coco_det_fpn", "mask_AP", "COCO instance seg, FPN")), ablation=True,
          notes=("each row is a run of pretraining of its own; batch sizes and crops are in the CSV",
                 "mmselfsup: VOC07 of the best of five layers, which is the last in each row; detection with "
                 "MMDetection, VOC by MoCo's schedule of 24k iterations, COCO with FPN by the 1x schedule",
                 "SwAV has 6 small crops besides its 2, unless the row says otherwise")),
    Table("mixing", "Weight of the mixing terms of Mixed Barlow Twins: linear evaluation on ImageNet (%)",
          "wgcban/mix-bt at e2c6af0, README", ("mix-bt, weights of mixing",), LINEAR,
          ablation=True, notes=("without mixing 71.3 after 300 epochs (in the table 'elsewhere')",
                                "the best epoch of the linear probe on the validation set, not the last",
                                "weight: lambda_reg; --mixing is half of it")),
    Table("vicreg_imagenet", "Linear and semi-supervised evaluation on ImageNet: accuracy (%), ResNet-50",
          f"{VICREG}, Table 1", ("VICReg, Table 1",),
          (Column("Top-1", "imagenet_linear", "top1", "linear"),
           Column("Top-5", "imagenet_linear", "top5", "linear"), *SEMI), notes=(DEFAULTS,)),
    Table("vicreg_transfer", "Transfer: classification on fixed features, detection and segmentation (%)",
          f"{VICREG}, Table 2", ("VICReg, Table 2",),
          (*FEATURES, Column("AP_50", "voc_det", "AP50", "VOC07+12 det"),
           Column("AP^bb", "coco_det_fpn", "box_AP", "COCO det, FPN"),
           Column("AP^mk", "coco_det_fpn", "mask_AP", "COCO instance seg, FPN")),
          notes=("COCO here is Mask R-CNN with R50-FPN: not comparable with Table 4 of Barlow Twins (R50-C4)",
                 "VOC detection of VICReg weighs the RPN's loss by 0.2, which the other rows do not",
                 f"{DEFAULTS}, but for FPN")),
    Table("knn", "k nearest neighbours on ImageNet: top-1 accuracy (%), ResNet-50",
          f"{VICREG}, Table 11", ("VICReg, Table 11",), KNN),
    Table("vicreg_asymmetry", f"Regularisation and asymmetry: {HUNDRED}", f"{VICREG}, Table 4",
          ("VICReg, Table 4",),
          (Column("none", "imagenet_linear", "top1"), Column("variance", "imagenet_linear", "top1_variance"),
           Column("variance, covariance", "imagenet_linear", "top1_variance_covariance")),
          notes=(COLLAPSE, "columns: the regularisation that is added"), ablation=True),
    Table("vicreg_branches", f"Unlike branches: {HUNDRED}", f"{VICREG}, Table 5", ("VICReg, Table 5",),
          (Column("shared weights", "imagenet_linear", "top1"),
           Column("own weights", "imagenet_linear", "top1_different_weights"),
           Column("R50, R101", "imagenet_linear", "top1_r101"),
           Column("R50, ViT-S", "imagenet_linear", "top1_vit_s")),
          notes=("a dash: the method cannot be run so",), ablation=True),
    Table("vicreg_loss", f"Coefficients of the loss: {HUNDRED}", f"{VICREG}, Table 7",
          ("VICReg, Table 7",), (TOP1,), notes=(COLLAPSE, "third row: lambda and mu as printed"),
          ablation=True),
    Table("vicreg_normalisation", f"Normalisation: {HUNDRED}", f"{VICREG}, Table 8",
          ("VICReg, Table 8",), (TOP1,), ablation=True),
    Table("vicreg_dimension", f"Expander's dimension: {HUNDRED}", f"{VICREG}, Table 12",
          ("VICReg, Table 12",), (TOP1,), ablation=True),
    Table("vicreg_batch_size", f"Batch size: {HUNDRED}", f"{VICREG}, Table 13",
          ("VICReg, Table 13",), (TOP1,), ablation=True),
    Table("cifar", "CIFAR: linear evaluation (%), ResNet-18, 1000 epochs", SOLO,
          ("solo-learn, CIFAR", "solo-learn, issues"),
          (*_accuracies("CIFAR-10", "cifar10_online"), *_accuracies("CIFAR-100", "cifar100_online"),
           Column("Top-1", "cifar10_linear", "top1", "CIFAR-10, offline")),
          notes=("the classifier is trained beside the backbone (online), but for the last column, where "
                 "ours are by mix-bt's protocol; SupCon is supervised and does not compete, nor do the two "
                 "rows of users (issues 216 and 109)",), arch="resnet18-cifar or resnet18-solo"),
    Table("cifar_elsewhere", "CIFAR as others measured it: linear evaluation, top-1 accuracy (%)",
          "papers, repositories and their issues",
          ("SimCLR, CIFAR", "SimSiam, CIFAR", "SupContrast, CIFAR"),
          tuple(Column(name, f"{task}_linear", "top1")
                for name, task in (("CIFAR-10", "cifar10"), ("CIFAR-100", "cifar100"))), ablation=True,
          arch="resnet50-cifar",
          notes=("SupContrast: epochs are not in its table; its programs' defaults are 500 (supervised) and "
                 "1000",)),
    Table("imagenet100", "ImageNet-100: linear evaluation (%), ResNet-18, 400 epochs", SOLO,
          ("solo-learn, ImageNet-100",),
          tuple(Column(how, task, metric, header)
                for metric, header in (("top1", "Top-1"), ("top5", "Top-5"))
                for how, task in (("online", "imagenet100_online"), ("offline", "imagenet100_linear"))),
          notes=("other networks than ResNet-18 and the supervised SupCon do not compete",), arch="resnet18"),
    Table("small_sets", "Mixed Barlow Twins on small sets: top-1 accuracy (%), 200-NN and linear evaluation",
          "wgcban/mix-bt at e2c6af0, README", ("mix-bt, checkpoints",),
          tuple(Column(header, f"{task}_{how}", "top1", name, arch=f"resnet18-{stem}")
                for name, task, stem in (("CIFAR-10", "cifar10", "cifar"), ("CIFAR-100", "cifar100", "cifar"),
                                         ("Tiny-ImageNet", "tiny_imagenet", "small"),
                                         ("STL-10", "stl10", "small"))
                for header, how in (("kNN", "knn"), ("linear", "linear"))),
          notes=("epochs: 2000, for ResNet-50 on CIFAR-10 1000, on CIFAR-100 not clear; the repository's "
                 "README and scripts do not always agree on the embedding's dimension",
                 "ours: ResNet-18 with the published stems, 3 x 3, for 64 pixels with max pooling")),
    Table("small_knn", "k nearest neighbours while training: best top-1 accuracy (%), ResNet-18",
          f"{LIGHTLY}; MIFA-Lab/contrastive2021 at cc718ff, readme",
          ("lightly, CIFAR-10", "contrastive2021, CIFAR-10", "lightly, ImageNet-100"),
          (Column("CIFAR-10, 200-NN", "cifar10_knn", "top1_best", arch="resnet18-cifar"),
           Column("ImageNet-100, 20-NN", "imagenet100_knn", "top1_best", arch="resnet18")),
          notes=("the best epoch on the test set, which is a selection on it: no figure for comparison",)),
)

# Known standard deviations over seeds, in points: five trials of facebookresearch/moco, detection/README.md.
SPREADS = {("voc_det", "AP"): 0.2, ("voc_det", "AP50"): 0.2, ("voc_det", "AP75"): 0.4}
