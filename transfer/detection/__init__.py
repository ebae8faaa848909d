"""Detection transfer through Detectron2: Pascal VOC (box) and COCO (box and mask), C4 and FPN.

protocol.py      Config, data, run: what the catalogue of tasks sees; imports no Detectron2
sets/            the data sets: one file a kind (voc.py, coco.py), and the user's own from a YAML file
configuration.py a YAML and KEY VALUE pairs as Detectron2's configuration
lint.py          mistakes of a configuration that only cost average precision
d2.py            Detectron2's data-set registry, its processes and its log
roi_heads.py     the res5 head with an extra norm, which Detectron2 lacks
norms.py         SyncBN on a CPU
loader.py        training batches as a function of seed and iteration
accumulation.py  an iteration in micro-batches, mixed precision
trainer.py       Detectron2's trainer with the parts of this folder
hooks.py         what happens around iterations
pictures.py      detections beside the ground truth, curves, bars of classes
curves.py        Detectron2's metrics.json as rows, and the curve of them
record_files.py  the files that a run leaves for its record
expected.py      losses and AP of earlier runs, for an early warning (expected.json)
"""

import warnings

# fvcore calls torch.jit.script at import, which announces its end each time, in every process.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
