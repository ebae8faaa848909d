"""Which names say that a folder or file is of a split: of training, held out, or unlabelled. Needs no torch.

The words of a name decide; they end at digits and signs, and before a capital. Train and training are of the
training split; val, valid, validation, dev, test, testing, eval and evaluation are held out; unlabeled and
unlabelled are a split, too. A name with words of both kinds (train_val2018), or trainval, is mixed. Numbers,
letters, and words such as images and mini, say nothing.
"""
import re
from collections import defaultdict
from collections.abc import Iterable

TRAIN, HELD_OUT, UNLABELLED, MIXED = "train", "held out", "unlabelled", "mixed"
PLAIN = ("train", "training")
WORDS = {**dict.fromkeys(PLAIN, TRAIN), **dict.fromkeys(("unlabeled", "unlabelled"), UNLABELLED),
         **dict.fromkeys("val valid validation dev test testing eval evaluation holdout".split(), HELD_OUT),
         "trainval": MIXED}
SILENT = set("image images img imgs picture pictures photos data set split mini full large small standard of "
             "part shard shards".split())


def kind_of(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the kind of split that a name without its ending says, or None, and its other words."""
    name = re.sub(r"(?<![^\W_])[0-9a-f]{8,}(?![^\W_])", "", name)  # hashes, which the Hub's tools append
    words = [re.sub(r"^mini(?=.)|(?<=.)(set|data|images|imgs)$", "", word.lower()) for word in
             re.findall(r"[^\W\d_]{2,}", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))]
    kinds = {WORDS[word] for word in words if word in WORDS}
    return (MIXED if len(kinds) > 1 else min(kinds, default=None),
            tuple(word for word in words if word not in WORDS and word not in SILENT))


def splits_of(names: Iterable[str]) -> dict[str, str]:
    """Return {name: kind} of those that are splits among names beside each other: they say nothing else, or
    the same besides and are of different kinds. One called just train is none without another: it may be the
    vehicle."""
    said = {name: kind_of(name) for name in names}
    kinds = defaultdict(set)
    for kind, rest in said.values():
        kinds[rest].add(kind)
    return {name: kind for name, (kind, rest) in said.items() if kind and (
        len(kinds[rest] - {None}) > 1 or not rest and name.lower() not in PLAIN)}
