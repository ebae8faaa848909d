"""Detection transfer: fine-tune Faster or Mask R-CNN R50-C4 from a backbone and report average precision.

Barlow Twins (arXiv 2103.03230) section 3.3 and C.2, Table 4: VOC07+12 AP50 82.6, AP 56.8, AP75 63.4; COCO
box 39.2 / 59.0 / 42.5, mask 34.3 / 56.0 / 36.5 (AP / AP50 / AP75). The settings are Detectron2 YAML in
detection_configs/; trailing KEY VALUE pairs change them as in Detectron2's own scripts.

    python transfer/run.py --task voc_det --weights resnet50.pth --num-gpus 8 --seeds 5

Kept in context.out as Detectron2's users know them: metrics.json, model_final.pth, config.yaml, log.txt,
TensorBoard events; ours: detections.png, losses.png, inference/per_class.json, detection.json (whose run
it is). The proof that the weights arrived is in log.txt. Detectron2 is imported only inside functions.
"""

import dataclasses
import hashlib
from dataclasses import dataclass

from transfer.detection import data as sets


@dataclass(frozen=True)
class Config:
    """A YAML of detection_configs/ and KEY VALUE pairs on top, (KEY, VALUE, KEY, VALUE, ...)."""

    yaml: str
    options: tuple[str, ...] = ()

    def override(self, pairs):
        """Return a Config with more pairs; a later value replaces an earlier one.

        ValueError: unknown key (naming the nearest), value of another type than the default's, or a key that
        a flag of the command line owns.
        """
        from transfer.detection import d2

        pairs = [*self.options, *pairs]
        merged = dict(zip(pairs[::2], pairs[1::2]))
        options = tuple(word for pair in merged.items() for word in pair)
        d2.configuration(self.yaml, options)  # checks keys and values
        return dataclasses.replace(self, options=options)

    def resolved(self):
        """Return {"SOLVER.BASE_LR": 0.1, ...}: every value that may change the number, as JSON values."""
        from transfer.detection import d2

        return d2.flat(d2.configuration(self.yaml, self.options), d2.WITHOUT_EFFECT)


def data(config, context):
    """Check the data sets of the config under context.data; return {"name", "counts", "fingerprint"}.

    counts: images of the training splits together, and of the test split. Every listed label and image must
    be there, and the classes as many as the head has.
    """
    values = config.resolved()
    train, test = values["DATASETS.TRAIN"], values["DATASETS.TEST"]
    if not train or len(test) != 1:
        raise ValueError("expected training sets and one test set, found DATASETS.TRAIN "
                         f"{train} and DATASETS.TEST {test}; name them in these keys")
    listings = {name: sets.check(name, context.data) for name in [*train, *test]}
    first = listings[train[0]]
    for name, listing in listings.items():
        if listing.classes != first.classes:
            raise ValueError(f"{name} has other classes than {train[0]}; train and test on the same classes")
    heads = values["MODEL.ROI_HEADS.NUM_CLASSES"]
    if heads != len(first.classes):
        raise ValueError(f"{train[0]} has {len(first.classes)} classes, the head {heads}; "
                         f"pass MODEL.ROI_HEADS.NUM_CLASSES {len(first.classes)}")
    prints = "".join(f"{name} {listing.fingerprint}\n" for name, listing in listings.items())
    counts = {"train": sum(listings[name].images for name in train), "test": listings[test[0]].images}
    return {"name": f"{' + '.join(train)}, {test[0]}", "counts": counts,
            "fingerprint": hashlib.sha256(prints.encode()).hexdigest()}


def run(backbone, config, context):
    """Train and evaluate; return {metric: percent} on rank 0 and {} elsewhere.

    VOC: AP50, AP, AP75. COCO: box_AP, box_AP50, box_AP75, box_APs, box_APm, box_APl and the same of mask_;
    the figure of a size of which the test set has no object is left out. Every rank calls it.
    """
    from transfer.detection import trainer

    return trainer.run(backbone, config, context)
