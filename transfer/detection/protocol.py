"""Detection transfer: fine-tune Faster or Mask R-CNN from a ResNet and report average precision.

Barlow Twins (arXiv 2103.03230) section 3.3 and C.2, Table 4: VOC07+12 AP50 82.6, AP 56.8, AP75 63.4; COCO
box 39.2 / 59.0 / 42.5, mask 34.3 / 56.0 / 36.5 (AP / AP50 / AP75). The settings are Detectron2 YAML in
detection_configs/; trailing KEY VALUE pairs change them as in Detectron2's own scripts, and the pair `preset
FILE` takes another YAML of that folder instead of the task's own, `dataset FILE` a data set of one's own. The
weights decide depth and width.

    python transfer/run.py --task voc_det --weights resnet50.pth --num-gpus 8 --seeds 5
    python transfer/run.py --task voc_det --weights moco.pth preset pascal_voc_R_50_C4_24k_moco.yaml
    python transfer/run.py --task voc_det --weights resnet50.pth SOLVER.ACCUMULATE 4  # one GPU
    python transfer/run.py --task voc_det --weights resnet50.pth --num-gpus 2 --rescale
    python transfer/run.py --task voc_det --weights resnet50.pth dataset cells.yaml  # docs/detection.md

Kept in context.out as Detectron2's users know them: metrics.json, model_final.pth, config.yaml, log.txt,
TensorBoard events; ours: detections.jpg, losses.png, precision.png (AP over iterations), per_class.png,
record/ (what is copied beside the record), proof.json (that the weights arrived, also in log.txt).
Detectron2 is imported only inside functions.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transfer.settings import Conditions, Context, TaskConfig, paired

if TYPE_CHECKING:
    from transfer.weights.backbone import Backbone


@dataclass(frozen=True)
class Config(TaskConfig):
    """A YAML of detection_configs/ and KEY VALUE pairs on top, (KEY, VALUE, KEY, VALUE, ...).

    own: a data set of the user's own, {name: Part} (sets.declared).
    """

    yaml: str
    options: tuple[str, ...] = ()
    own: dict = field(default_factory=dict, hash=False)

    def override(self, pairs: Sequence[str]) -> "Config":
        """Return a Config with more pairs; a later value replaces an earlier one, `preset` the YAML below.
        `dataset` stands for the pairs that follow from the set which a file declares (sets.settings), and,
        where no other pair says so, for a schedule that fits the size of DATASETS.TRAIN, other sets in it
        included (configuration.fitting).

        ValueError: unknown key (naming the nearest), value of another type than the default's, a key that a
        flag of the command line owns, a YAML that is tested on other data, or a bad declaration.
        """
        from transfer.detection import configuration, sets

        merged, own = dict(paired(self.options)), self.own
        for key, value in paired(pairs):
            if key == "dataset":
                own = sets.declared(value)
                merged |= sets.settings(own)
            else:
                merged[key] = value
        yaml = merged.pop("preset", self.yaml)
        if yaml != self.yaml:
            configuration.check_preset(yaml, self.yaml)
        if own and not {"SOLVER.MAX_ITER", "SOLVER.STEPS"} & merged.keys():
            words = [word for pair in merged.items() for word in pair]
            # The names of others without a number are wrong, which `data` says.
            pictures = sum(own[name].contents()[2] if name in own else configuration.OFFICIAL.get(name, 0)
                           for name in configuration.build(yaml, words).DATASETS.TRAIN)
            merged = configuration.fitting(configuration.build(yaml), pictures) | merged
        options = tuple(word for pair in merged.items() for word in pair)
        configuration.build(yaml, options)  # checks keys and values
        return dataclasses.replace(self, yaml=yaml, options=options, own=own)

    def rescaled(self, gpus: int) -> "Config":
        """Return a Config for `gpus` GPUs by the linear rule; the Config is read as one for eight.

        Batch and rate are multiplied by gpus / 8; iterations, steps, warm-up and evaluation period divided
        (arXiv 1706.02677; Detectron2's DefaultTrainer.auto_scale_workers).
        """
        from transfer.detection import configuration

        return self.override(configuration.rescaled(configuration.build(self.yaml, self.options), gpus))

    def fitted(self, backbone: "Backbone") -> "Config":
        """Return a Config whose network is the backbone's: its keys where they are not the YAML's already.

        ValueError where Detectron2 has no such network, or a pair asks for another one.
        """
        from transfer.detection import configuration
        from transfer.detection.lint import lint
        from transfer.weights.export import metadata

        cfg = configuration.build(self.yaml, self.options)
        backbone.arch.require_detector("FPN" if "fpn" in cfg.MODEL.BACKBONE.NAME else "C4")
        values = configuration.flat(cfg)
        own = [word for key, value in backbone.arch.detectron2.items()
               if key not in self.options[::2] and value != values[key] for word in (key, str(value))]
        found = dataclasses.replace(self, options=(*self.options, *own))
        lint(configuration.build(found.yaml, found.options), metadata(backbone), backbone.arch)
        return found

    def resolved(self) -> dict[str, Any]:
        """Return {"preset": YAML, "SOLVER.BASE_LR": 0.1, ...}: every value that may change the number.

        Where batch norm is joint over the GPUs, so is `batch_norm_images`, the images that it sees at once:
        the batch, or a micro-batch of SOLVER.ACCUMULATE.
        """
        from transfer.detection import configuration, sets

        cfg = configuration.build(self.yaml, self.options)
        values = {"preset": self.yaml, **sets.stated(self.own)}
        if "Sync" in cfg.MODEL.RESNETS.NORM:
            values["batch_norm_images"] = cfg.SOLVER.IMS_PER_BATCH // cfg.SOLVER.ACCUMULATE
        return {**values, **configuration.recorded(cfg)}


def data(config: Config, conditions: Conditions) -> dict[str, Any]:
    """Check the data sets of the config under conditions.data, as the run is going to read them; return
    {"name", "counts", "fingerprint", "training"}.

    counts: images of the training splits together, and of the test split. training: hash of the former's
    labels and image files, all of the data that a trained model depends on. ValueError or FileNotFoundError,
    one line, where a part cannot be trained on or measured (docs/detection.md), the head has another number
    of classes, or the batch is not divisible among conditions.gpus.
    """
    from transfer.detection import configuration, sets
    from transfer.detection.lint import lint
    from transfer.detection.sets.contract import Use
    from transfer.weights.export import CONVENTIONS

    values = config.resolved()
    lint(configuration.build(config.yaml, config.options), CONVENTIONS)
    _check_scale(values, conditions)
    train, test = values["DATASETS.TRAIN"], values["DATASETS.TEST"]
    if not train or len(test) != 1:
        raise ValueError("expected training sets and one test set, found DATASETS.TRAIN "
                         f"{train} and DATASETS.TEST {test}; name them in these keys")
    masks, polygons = values["MODEL.MASK_ON"], values["INPUT.MASK_FORMAT"] == "polygon"
    listings = {}
    for name in dict.fromkeys([*train, *test]):
        use = Use(name in train, name in test, masks, polygons, conditions.cache)
        listings[name] = sets.find(name, conditions.data, config.own).check(use)
        if masks and not listings[name].masks:
            raise ValueError(f"{name} has boxes only, and MODEL.MASK_ON is True; pass MODEL.MASK_ON False")
    _check_parts(listings, train, test[0], values["MODEL.ROI_HEADS.NUM_CLASSES"])
    counts = {"train": sum(len(listings[name].pictures) for name in train),
              "test": len(listings[test[0]].pictures)}
    return {"name": f"{' + '.join(train)}, {test[0]}", "counts": counts,
            "fingerprint": _hash(listings), "training": _hash({name: listings[name] for name in train})}


def _check_parts(listings, train, test, heads):
    """ValueError where parts do not go together."""
    first = listings[train[0]]
    for name, listing in listings.items():
        if listing.classes != first.classes:
            raise ValueError(f"{name} has other classes than {train[0]}; train and test on the same classes")
    if heads != len(first.classes):
        raise ValueError(f"{train[0]} has {len(first.classes)} classes, the head {heads}; "
                         f"pass MODEL.ROI_HEADS.NUM_CLASSES {len(first.classes)}")
    for name in [name for name in train if name != test]:
        both = sorted({*listings[name].pictures} & {*listings[test].pictures})
        if both:
            raise ValueError(f"{test}: expected pictures that are not trained on, found {len(both)} that are "
                             f"in {name}, too, first {both[0]}; take them out of one of the two")


def _hash(listings):
    prints = "".join(f"{name} {listing.fingerprint}\n" for name, listing in listings.items())
    return hashlib.sha256(prints.encode()).hexdigest()


def _check_scale(values, context):
    batch, parts = values["SOLVER.IMS_PER_BATCH"], values["SOLVER.ACCUMULATE"]
    if batch % (context.gpus * parts):
        raise ValueError(f"SOLVER.IMS_PER_BATCH {batch} is the total over all GPUs, found {context.gpus} of "
                         f"them and SOLVER.ACCUMULATE {parts}; use numbers whose product divides it")
    if values["INPUT.MASK_FORMAT"] not in ("polygon", "bitmask"):
        raise ValueError("expected INPUT.MASK_FORMAT polygon or bitmask, found "
                         f"{values['INPUT.MASK_FORMAT']!r}; pass one of them")


def run(backbone: "Backbone", config: Config, context: Context) -> dict[str, float]:
    """Train and evaluate; return {metric: percent} on rank 0 and {} elsewhere. config: `fitted`.

    VOC: AP50, AP, AP75. COCO: box_AP, box_AP50, box_AP75, box_APs, box_APm, box_APl and the same of mask_;
    the figure of a size of which the test set has no object is left out. Every rank calls it.
    """
    from transfer.detection import trainer

    return trainer.run(backbone, config, context)
