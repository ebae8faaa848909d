"""Backbone weights: read from any known checkpoint, exported to Detectron2, proven to have lost nothing.

backbone.py   the type `Backbone`, the network it belongs to, the 318 expected names and shapes
readers.py    READERS: one function a checkpoint format; `read` finds the one that fits
naming.py     torchvision names <-> Detectron2 names
export.py     the Detectron2 `.pkl`, written and read without running code
proof.py      every tensor arrived, and Detectron2's network computes what torchvision's does
"""
