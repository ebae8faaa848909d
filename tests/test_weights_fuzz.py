"""500 random corruptions of valid checkpoints: each gives one line that names the cause, none is converted.

CORRUPTIONS says how the 500 split. The 410 faults of content are made in what a file of one of four layouts
holds after loading; two of each kind, and all 90 faults of containers, are files. All go through convert.py's
main. What no one can know from a file is left out: tensors of equal shape that were swapped, other finite
values, and flipped bits in files that keep no checksums (safetensors, plain pickles, old files of torch).
"""
import copy
import datetime
import decimal
import gzip
import io
import operator
import os
import pickle
import random
import runpy
import shutil
import tarfile
import zipfile

import numpy
import pytest
import safetensors.torch
import torch
import torchvision
from weights_toys import legacy, prefixed, small_state, zipped

from parallel.resnets import models
from transfer.convert import main
from transfer.weights import readers
from transfer.weights.architectures import RESNET50
from transfer.weights.export import ENDINGS
from transfer.weights.files import load
from transfer.weights.naming import detectron2_names

SEED = 2103
NAMES = list(RESNET50.expected)
COUNTERS = [name for name in NAMES if name.endswith("num_batches_tracked")]
NUMBERS = [name for name in NAMES if name not in COUNTERS]
NAN, INF = float("nan"), float("inf")
pytestmark = [pytest.mark.filterwarnings("ignore:Validating sparse tensor"),
              pytest.mark.filterwarnings("ignore:.*[Qq]uantiz"),
              pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")]


def barlowtwins(state):
    others = {"module.projector.0.weight": torch.ones(8, 2048), "module.bn.running_mean": torch.zeros(8)}
    return {"epoch": 3, "model": prefixed("module.backbone.", state) | others, "optimizer": {"state": {}}}


def moco(state):
    key = prefixed("module.encoder_k.", small_state(10.5))
    return {"state_dict": prefixed("module.encoder_q.", state) | key | {"module.queue": torch.ones(2, 2)}}


def detectron2(state):
    model = {detectron2_names().get(name, name): tensor for name, tensor in state.items()}
    return {"model": model, "__author__": "torchvision", "matching_heuristics": True}


LAYOUTS = (dict, barlowtwins, moco, detectron2)


# Faults of content: each changes a state in place, or returns another content, and answers with the words
# that its message must have.

def dropped(draw, state):
    gone = draw.sample(NAMES, draw.choice((1, 1, 1, 2, 10, 100)))
    for name in gone:
        del state[name]
    return f"{len(gone)} of 318 backbone tensors missing, first {min(gone, key=NAMES.index)}"


def renamed(draw, state):
    name = draw.choice(NAMES)
    at = draw.randrange(1, len(name) - 1)
    new = draw.choice((f"{name}_", f"x.{name}", name.replace(".", "_", 1), name.upper(),
                       name[:at] + name[at + 1:] + "~", name[::-1]))
    state[new] = state.pop(name)
    return f"1 of 318 backbone tensors missing, first {name}"


def reshaped(draw, state):
    name = draw.choice(NAMES)
    shape = RESNET50.expected[name]
    other = draw.choice([other for other in (
        shape[::-1], (*shape, 1), (1, *shape), (*shape[:-1], 3), (*shape, 2), (torch.Size(shape).numel(),),
        tuple(2 * size for size in shape), (0, *shape[1:])) if other != shape])
    state[name] = torch.ones((), dtype=state[name].dtype).expand(other)
    return f"1 of another shape, first {name}: expected {shape}, found {other}"


def retyped(draw, state):
    name = draw.choice(NUMBERS if draw.random() < 0.8 else COUNTERS)
    dtypes = ((torch.bool, torch.complex64) if name in COUNTERS else
              (torch.int8, torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64))
    state[name] = state[name].to(draw.choice(dtypes))
    return f"{name}: expected "


def not_dense(draw, state):
    name = draw.choice(NUMBERS)
    state[name] = draw.choice((
        lambda tensor: torch.quantize_per_tensor(tensor.contiguous(), 0.1, 0, torch.qint8),
        lambda tensor: tensor.contiguous().to_sparse(), lambda tensor: tensor.to("meta")))(state[name])
    return f"{name}: expected a dense real tensor"


def not_a_tensor(draw, state):
    name = draw.choice(NAMES)
    state[name] = draw.choice((None, 0.5, "conv1", [1.0, 2.0], {"data": state[name]}, {}))
    return f"1 of 318 backbone tensors missing, first {name}"


def not_finite(draw, state):
    name = draw.choice(NUMBERS)
    dtype, values = draw.choice(((torch.float32, (NAN, INF, -INF)), (torch.float16, (NAN, INF)),
                                 (torch.bfloat16, (NAN, -INF)), (torch.float64, (NAN, 1e300))))
    tensor = state[name].to(dtype, memory_format=torch.contiguous_format, copy=True)
    places = draw.sample(range(tensor.numel()), draw.choice((1, 1, 2, 50)))
    for place in places:
        tensor.view(-1)[place] = draw.choice(values)
    state[name] = tensor
    return f"{name}: expected finite values, found {len(places)} of {tensor.numel()} NaN or infinite"


def negative_variance(draw, state):
    name = draw.choice([name for name in NAMES if name.endswith("running_var")])
    state[name] = state[name].clone(memory_format=torch.contiguous_format)
    state[name][draw.randrange(len(state[name]))] = -draw.random()
    return f"{name}: expected variances"


def added(draw, state):
    name = draw.choice(("layer3.6.conv1.weight", "layer1.0.conv4.weight", "layer2.1.conv1.bias",
                        "layer5.0.conv1.weight", "maxpool.weight", "layer1.0.se.fc1.weight",
                        "layer4.2.bn3.weight_orig", "conv1.weight_mask", "conv1", "bn2.weight"))
    state[name] = torch.ones(3)
    return f"1 foreign to resnet50, first {name}"


def container(draw, state):
    """A content that is no state dict, or a ResNet with a tensor too few under some name."""
    gone = draw.choice(NUMBERS)
    part = {name: tensor for name, tensor in state.items() if name != gone}
    lacking = f"1 of 318 backbone tensors missing, first {gone}"
    return draw.choice((
        lambda: (list(state.values()), "expected a dictionary of tensors, found a list"),
        lambda: (state["conv1.weight"], "expected a dictionary of tensors, found a Tensor"),
        lambda: ("state_dict", "expected a dictionary of tensors, found a str"),
        lambda: (None, "expected a dictionary of tensors, found a NoneType"),
        lambda: ({}, "the first keys are none: it is empty"),
        lambda: ({"state_dict": {}}, "the first keys are state_dict"),
        lambda: ({"network": part}, f"resnet50 under network/*, {lacking}"),
        lambda: ({"state_dict": {"state_dict": part}}, f"resnet50 under state_dict/*, {lacking}"),
        lambda: ([state], "expected a dictionary of tensors, found a list"),
        lambda: (prefixed("trunk.", part), f"resnet50 under trunk.*, {lacking}"),
        lambda: (prefixed("backbone.", part), f"resnet50 under backbone.*, {lacking}"),
        lambda: (prefixed("backbone.", state) | prefixed("encoder.", small_state(10.5)),
                 "holds 2 complete ResNets, encoder, backbone, and does not say which to take"),
        lambda: (dict(enumerate(state.values())), "no tensor of a ResNet found"),
        lambda: ({name.encode(): tensor for name, tensor in state.items()}, "no tensor of a ResNet"),
        lambda: ({"epoch": 3, "optimizer": {"state": {0: {"mu": torch.ones(3)}}}}, "first keys are epoch"),
    ))()


NETWORKS = ("vgg11_bn", "densenet121", "alexnet", "vit_b_16", "mobilenet_v2", "mnasnet1_0", "squeezenet1_0")


def another_network(draw, _state):
    """Of no kind that is known, or of one with a tensor too few."""
    name = draw.choice((*NETWORKS, *models()))
    if name in models():
        state = small_state(arch=name)
        gone = draw.choice(list(state))
        del state[gone]
        return (draw.choice(LAYOUTS)(state),
                f"nearest is {name}, found 1 of {len(state) + 1} backbone tensors missing, first {gone}")
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    state = {name: torch.ones((), dtype=tensor.dtype).expand(tensor.shape)
             for name, tensor in network.state_dict().items()}
    return state, "backbone tensors missing" if name == "densenet121" else "no tensor of a ResNet"


# Faults of containers: each answers with a file's bytes and the words.

def arrays(content):
    return pickle.dumps({"model": {name: tensor.numpy() for name, tensor in content.items()}}, 4)


def few():
    """Some of the names: what is wrong with their file shows before anyone looks for the others."""
    return {name: small_state()[name].contiguous() for name in NAMES[:20]}


def truncated(draw):
    kind, content = draw.choice(((zipped, small_state()), (legacy, small_state()), (arrays, few()),
                                 (safetensors.torch.save, few())))
    whole = kind(content)
    return whole[:draw.randrange(1, len(whole))], "found a damaged, truncated or foreign file"


def flipped(draw):
    whole = bytearray(zipped(draw.choice(LAYOUTS)(small_state())))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        part = draw.choice([part for part in archive.infolist() if part.file_size])
    header = part.header_offset
    start = header + 30 + sum(int.from_bytes(whole[header + at:header + at + 2], "little") for at in (26, 28))
    whole[start + draw.randrange(part.file_size)] ^= 1 << draw.randrange(8)
    return bytes(whole), f"the checksum of {part.filename} does not match"


class Reduced:
    """Pickled as the call function(*arguments)."""
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


FOREIGN = {
    "posix.system": Reduced(os.system, "touch ran"), "runpy.run_path": Reduced(runpy.run_path, "ran"),
    "eval": Reduced(eval, "open('ran', 'w')"), "exec": Reduced(exec, "open('ran', 'w')"),
    "getattr": Reduced(getattr, numpy.ndarray, "tofile"), "shutil.rmtree": Reduced(shutil.rmtree, "ran"),
    "operator.attrgetter": Reduced(operator.attrgetter, "x"),
    "numpy.load": Reduced(numpy.load, "ran", None, True),
    "torch.serialization.load": Reduced(torch.load, "ran"), "io.open": Reduced(io.open, "ran", "w"),
    "decimal.Decimal": decimal.Decimal("0.1"), "datetime.date": datetime.date(2021, 3, 4),
    "torch.nn.modules.linear.Linear": torch.nn.Linear(2, 2), "object": object(),
}


def foreign_pickle(draw):
    name = draw.choice(list(FOREIGN))
    kind = draw.choice((zipped, legacy, lambda content: pickle.dumps(content, draw.choice((2, 3, 4, 5)))))
    content = {"epoch": 3, "args": [1]}
    content[draw.choice(("epoch", "args", "conv1.weight", "state_dict"))] = draw.choice((
        FOREIGN[name], [FOREIGN[name]], {"x": FOREIGN[name]}))
    return kind(content), f"{name}, which is neither tensor nor plain value and may run code"


def tar(content):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("resnet50.pth"), io.BytesIO(content))
    return buffer.getvalue()


def archive_of_text():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "no weights here")
    return buffer.getvalue()


def foreign_file(draw):
    damaged = "found a damaged, truncated or foreign file"
    return draw.choice((
        lambda: (b"", "the file is empty"),
        lambda: (gzip.compress(zipped({})), "found a gzip file"),
        lambda: (tar(b""), "found a tar archive"),
        lambda: (archive_of_text(), "found a zip archive around 1 file (readme.txt)"),
        lambda: (b"\x89PNG\r\n\x1a\n" + draw.randbytes(900), "found a picture"),
        lambda: (b"\x89HDF\r\n\x1a\n" + draw.randbytes(900), "found an HDF5 file"),
        lambda: (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 102502400\n", "git-lfs"),
        lambda: (b"<!DOCTYPE html><html><title>404 Not Found</title></html>", "found a web page"),
        lambda: (b'{"conv1.weight": [0.5, 0.25]}', "found a JSON text"),
        lambda: (draw.randbytes(draw.choice((1, 7, 9, 100, 5000))), damaged),
    ))()


CONTENT, FILE = "content", "file"
CORRUPTIONS = {  # kind -> where the fault is, how many
    dropped: (CONTENT, 60), renamed: (CONTENT, 50), reshaped: (CONTENT, 60), retyped: (CONTENT, 40),
    not_dense: (CONTENT, 20), not_a_tensor: (CONTENT, 20), not_finite: (CONTENT, 70),
    negative_variance: (CONTENT, 20), added: (CONTENT, 30), container: (CONTENT, 20),
    another_network: (CONTENT, 20),
    truncated: (FILE, 40), flipped: (FILE, 20), foreign_pickle: (FILE, 20), foreign_file: (FILE, 10),
}


def test_there_are_500():
    assert sum(count for _, count in CORRUPTIONS.values()) == 500
    assert sum(count for place, count in CORRUPTIONS.values() if place == CONTENT) == 410


@pytest.fixture
def refuse(tmp_path, monkeypatch, capsys):
    """refuse(draw, words): convert.py refuses weights.pth in the current folder and leaves nothing."""
    monkeypatch.chdir(tmp_path)

    def check(draw, words, case):
        before = sorted(os.listdir())
        layout = draw.choice([layout for layout in ENDINGS if layout != "projector"])
        output = f"out{draw.choice(ENDINGS[layout])}"
        assert main(["weights.pth", output, "--to", layout]) == 2, case
        printed = capsys.readouterr()
        assert printed.err.startswith("error: weights.pth: ") and words in printed.err, (case, words)
        assert printed.err.count("\n") == 1 and not printed.out and "Traceback" not in printed.err, case
        assert sorted(os.listdir()) == before, case
    return check


@pytest.mark.parametrize("corrupt", [kind for kind, (place, _) in CORRUPTIONS.items() if place == CONTENT])
def test_faults_of_content(corrupt, refuse, monkeypatch):
    draw = random.Random(f"{SEED} {corrupt.__name__}")
    for case in range(CORRUPTIONS[corrupt][1]):
        state = small_state()
        answer = corrupt(draw, state)
        raw, words = (draw.choice(LAYOUTS)(state), answer) if isinstance(answer, str) else answer
        if case < 2:
            try:
                torch.save(raw, "weights.pth")
                refuse(draw, words, case)
            finally:
                os.unlink("weights.pth")
        with monkeypatch.context() as patched:
            patched.setattr(readers, "load", lambda path, raw=raw: (copy.copy(raw), "0" * 64))
            refuse(draw, words, case)


@pytest.mark.parametrize("corrupt", [kind for kind, (place, _) in CORRUPTIONS.items() if place == FILE])
def test_faults_of_containers(corrupt, refuse):
    draw = random.Random(f"{SEED} {corrupt.__name__}")
    for case in range(CORRUPTIONS[corrupt][1]):
        content, words = corrupt(draw)
        with open("weights.pth", "wb") as file:
            file.write(content)
        refuse(draw, words, case)


def test_a_bit_flipped_anywhere_is_refused_or_changes_nothing(tmp_path):
    """An archive has bytes that nobody reads, such as times and padding; in all others a flip is found."""
    draw, whole, path = random.Random(SEED), zipped({"a": torch.arange(500.), "epoch": 3}), tmp_path / "a.pth"
    refused = 0
    places = draw.sample(range(len(whole)), 400)
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            content, _ = load(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error), place
            refused += 1
        else:
            assert content.keys() == {"a", "epoch"} and content["epoch"] == 3, place
            assert torch.equal(content["a"], torch.arange(500.)), place
    assert refused > len(places) / 2
