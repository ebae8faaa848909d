"""Backbone weights: read from any known checkpoint, exported for others, proven to have lost nothing.

architectures.py  every ResNet of torchvision: network, expected names and shapes, width, Detectron2's keys
backbone.py       the type `Backbone`
readers.py        `read`: finds the one format that fits, checks what it gives
formats.py        READERS: one entry a checkpoint format
states.py         the parts of a reader: tensors by name, encoders
search.py         complete ResNets under any prefix, in the spellings of other projects
files.py          what a file holds, without running code from it
pickles.py        pickles without their code, in time and memory that follow from their size
kinds.py          what a file is that holds no weights for us to read
inspection.py     what can be said of a file, for describe.py
naming.py         torchvision names <-> Detectron2 names
export.py         files for Detectron2, torchvision and timm, and their metadata
projector.py      the projector of a full Barlow Twins checkpoint
proof.py          every tensor arrived, and Detectron2's networks compute what torchvision's does
activations.py    how far the activations of a detector and of torchvision's network are apart
report.py         what a proof found, kept beside the file
"""
