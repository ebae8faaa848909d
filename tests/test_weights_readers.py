"""Every format is read, every wrong file gives the message that helps, and no code of a file runs."""
import hashlib
import io
import os
from collections import OrderedDict

import pytest
import safetensors.torch
import torch
from weights_toys import distinct_backbone, prefixed, small_state

from transfer.weights import readers
from transfer.weights.architectures import RESNET50
from transfer.weights.readers import READERS, read

pytestmark = pytest.mark.filterwarnings("ignore:Validating sparse tensor")


@pytest.fixture
def saved(tmp_path):
    """saved(content) -> path of a torch file that holds it."""
    def save(content, name="weights.pth", **options):
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name
    return save


def barlowtwins(state=None):
    """Like checkpoint.pth of facebookresearch/barlowtwins, with a narrow projector."""
    model = prefixed("module.backbone.", state or small_state())
    model |= {"module.projector.0.weight": torch.ones(8, 2048),
              "module.bn.running_mean": torch.zeros(8), "module.bn.running_var": torch.ones(8),
              "module.bn.num_batches_tracked": torch.tensor(7)}
    optimizer = {"state": {0: {"mu": torch.zeros(3)}}, "param_groups": [{"lr": 0.2, "params": [0]}]}
    return {"epoch": 3, "model": OrderedDict(model), "optimizer": optimizer}


def test_a_checkpoint_gives_the_backbone(saved):
    path = saved(barlowtwins(), "layout.pth")
    backbone = read(path)
    assert (backbone.name, backbone.format, backbone.path) == ("layout", "barlowtwins_checkpoint", str(path))
    assert backbone.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {name: tuple(tensor.shape) for name, tensor in backbone.state.items()} == RESNET50.expected
    for name, tensor in backbone.state.items():
        assert (tensor == small_state()[name]).all(), name
        assert tensor.is_contiguous() and not tensor.requires_grad, name


def moco():
    model = prefixed("module.encoder_q.", small_state()) | prefixed("module.encoder_k.", small_state(10.5))
    return {"epoch": 200, "state_dict": model | {"module.queue": torch.ones(2, 2)}}


def test_the_encoder_can_be_chosen_and_records_never_mix_them(saved):
    path = saved(moco(), "moco_800.pth.tar")
    assert read(path).name == "moco_800"
    file = hashlib.sha256(path.read_bytes()).hexdigest()
    query, key = read(path), read(path, encoder="key")
    assert (query.format, query.sha256) == ("moco", file)
    assert (key.format, key.sha256) == ("moco:key", hashlib.sha256(f"{file}:key".encode()).hexdigest())
    assert query.state["bn1.bias"][0] == small_state()["bn1.bias"][0]
    assert key.state["bn1.bias"][0] == small_state(10.5)["bn1.bias"][0]
    named = read(path, "moco", encoder="query")
    assert (named.format, named.sha256) == (query.format, query.sha256)


def test_wrong_encoders(saved):
    with pytest.raises(ValueError, match="pth: unknown encoder keys, .* moco has query, key; name one"):
        read(saved(moco()), encoder="keys")
    with pytest.raises(ValueError, match="holds one encoder .torchvision.* --encoder key; leave it out"):
        read(saved(small_state()), encoder="key")
    with pytest.raises(ValueError, match="random is no file and has no encoder; leave out --encoder"):
        read("random", encoder="key")
    broken = moco()
    del broken["state_dict"]["module.encoder_k.bn1.bias"]
    with pytest.raises(ValueError, match="read as moco:key: expected .* 1 of 318 .* first bn1.bias"):
        read(saved(broken), encoder="key")


def test_values_are_kept_bit_for_bit(saved):
    path = saved(distinct_backbone().state)
    state = read(path, name="mine").state
    path.unlink()
    assert list(state) == list(RESNET50.expected)
    for name, tensor in distinct_backbone().state.items():
        assert state[name].dtype == tensor.dtype and torch.equal(state[name], tensor), name


def test_an_old_file_of_several_precisions(saved):
    kinds = [torch.float16, torch.bfloat16, torch.float64, torch.float32]
    state = {name: torch.nn.Parameter(tensor.to(kinds[index % 4])) if tensor.is_floating_point() else tensor
             for index, (name, tensor) in enumerate(small_state().items())}
    backbone = read(saved(state, "old.pth", _use_new_zipfile_serialization=False))
    for name, tensor in backbone.state.items():
        assert torch.equal(tensor, state[name].float() if tensor.is_floating_point() else state[name]), name
        assert tensor.dtype in (torch.float32, torch.int64) and not tensor.requires_grad


def test_safetensors(tmp_path):
    path = tmp_path / "weights.safetensors"
    state = prefixed("encoder.", distinct_backbone().state) | {"projector.0.weight": torch.ones(8, 2048)}
    safetensors.torch.save_file(state, path)
    backbone = read(path)
    path.unlink()
    assert backbone.format == "simclr_spijkervet"
    for name, tensor in distinct_backbone().state.items():
        assert torch.equal(backbone.state[name], tensor), name


def test_files_without_any_counter_get_zeros(saved):
    counters = [name for name in RESNET50.expected if name.endswith("num_batches_tracked")]
    backbone = read(saved(without(*counters)()))
    assert len(backbone.state) == 318
    assert backbone.state["bn1.num_batches_tracked"].dtype == torch.int64
    assert backbone.state["bn1.num_batches_tracked"] == 0


def without(*names):
    return lambda: {name: tensor for name, tensor in small_state().items() if name not in names}


def replaced(name, tensor):
    return lambda: small_state() | {name: tensor}


def renamed(old, new):
    return lambda: {new if name == old else name: tensor for name, tensor in small_state().items()}


def one_bad(name, value):
    def content():
        tensor = small_state()[name].clone()
        tensor.view(-1)[3] = value
        return small_state() | {name: tensor}
    return content


def truncated_names():
    """53 tensors short, as from a cut download of a converted file."""
    names = [name for name in RESNET50.expected if "layer4" in name][:53]
    return without(*names)()


def meta(name):
    return lambda: small_state() | {name: torch.empty(RESNET50.expected[name], device="meta")}


WRONG = {
    "missing": (without("layer1.0.bn1.weight"),
                "1 of 318 backbone tensors missing, first layer1.0.bn1.weight"),
    "53 missing": (truncated_names, "53 of 318 backbone tensors missing, first layer4.0.conv1.weight"),
    "one counter missing": (without("bn1.num_batches_tracked"), "1 of 318 .* first bn1.num_batches_tracked"),
    "renamed": (renamed("layer2.0.conv1.weight", "layer2.0.convolution1.weight"),
                "1 of 318 .* first layer2.0.conv1.weight; 1 foreign to resnet50, first "
                "layer2.0.convolution1.weight"),
    "timm's resnet50d": (renamed("conv1.weight", "conv1.0.weight"),
                         "1 foreign to resnet50, first conv1.0.weight; a stem of three convolutions"),
    "reshaped": (replaced("layer1.0.conv1.weight", torch.ones(64, 64)),
                 r"1 of another shape, first layer1.0.conv1.weight: expected \(64, 64, 1, 1\), found \(64,"),
    "a stem of 5 x 5": (replaced("conv1.weight", torch.ones(64, 3, 5, 5)),
                        r"conv1.weight: expected \(64, 3, 7, 7\), found \(64, 3, 5, 5\)"),
    "a stem that nobody names": (lambda: small_state(arch="resnet18-cifar"), "3 x 3 stem, .* pass --stem"),
    "half a ResNet-101": (lambda: dict(list(small_state(arch="resnet101").items())[:500]),
                          "nearest is resnet101, found 124 of 624 backbone tensors missing, first layer3"),
    "a block of another width": (lambda: small_state(arch="wide_resnet50_2") | {
        "layer4.1.conv2.weight": torch.ones(1)}, "nearest is wide_resnet50_2, found 1 of another shape"),
    "deeper": (lambda: small_state() | {f"layer3.{k}.conv1.weight": torch.ones(1) for k in range(6, 23)},
               "17 foreign to resnet50, first layer3.6.conv1.weight"),
    "NaN": (one_bad("layer3.0.bn1.running_mean", float("nan")),
            "layer3.0.bn1.running_mean: expected finite values, found 1 of 256 NaN or infinite"),
    "infinite": (one_bad("conv1.weight", float("inf")), "conv1.weight: expected finite .* found 1 of 9408"),
    "too large for float32": (replaced("bn1.bias", torch.full((64,), 1e300, dtype=torch.float64)),
                              "bn1.bias: expected finite values, found 64 of 64"),
    "negative variance": (one_bad("bn1.running_var", -1.0), "bn1.running_var: expected variances, found -1"),
    "integers": (replaced("conv1.weight", torch.ones(64, 3, 7, 7, dtype=torch.int8)),
                 "conv1.weight: expected floating-point numbers, found int8"),
    "complex": (replaced("bn1.bias", torch.ones(64, dtype=torch.complex64)), "bn1.bias: .*complex64"),
    "bool counter": (replaced("bn1.num_batches_tracked", torch.tensor(True)),
                     "bn1.num_batches_tracked: expected a number, found bool"),
    "sparse": (replaced("bn1.bias", torch.ones(64).to_sparse()), "bn1.bias: expected a dense real tensor"),
    "meta": (meta("bn1.bias"), "bn1.bias: expected a dense real tensor"),
    "foreign prefix": (lambda: prefixed("encoder.", without("bn1.bias")()),
                       r"no known format matched \(\d+ tried, see docs/weights.md\); nearest is "
                       r"torchvision's resnet50 under encoder\.\*, 1 of 318 backbone tensors missing"
                       r".*\(.*simsiam needs predictor\.\* as well.*\)\. Give the weights of a ResNet"),
    "foreign container": (lambda: {"state_dict": prefixed("net.", without("conv1.weight", "bn1.bias")())},
                          r"under net\.\*, 2 of 318 backbone tensors missing, first conv1"),
    "no loss BN": (lambda: barlowtwins() | {"model": prefixed("module.backbone.", without("bn1.bias")())},
                   r"no known format matched .*under backbone\.\*, 1 of 318"),
    "incomplete checkpoint": (lambda: barlowtwins(state=without("bn1.bias")()),
                              "1 of 318 backbone tensors missing, first bn1.bias"),
    "other network": (lambda: torch.nn.Linear(2, 2).state_dict(),
                      "no tensor of a ResNet found, the first keys are weight, bias"),
    "empty dictionary": (dict, "the first keys are none: it is empty"),
    "list": (lambda: [torch.ones(2)], "expected a dictionary of tensors, found a list"),
    "tensor": (lambda: torch.ones(2), "expected a dictionary of tensors, found a Tensor"),
    "odd keys": (lambda: {1: torch.ones(2), None: 3}, "the first keys are 1, None"),
}


@pytest.mark.parametrize("content, message", WRONG.values(), ids=WRONG)
def test_wrong_contents_say_what_is_wrong(content, message, saved):
    path = saved(content())
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text


def archive():
    buffer = io.BytesIO()
    torch.save(small_state(), buffer)
    return buffer.getvalue()


def flipped():
    """One bit of one weight: torch.load itself would not notice."""
    content = bytearray(archive())
    with torch.serialization._open_zipfile_reader(io.BytesIO(content)) as reader:
        offset = reader.get_record_offset("data/0")
    content[offset] ^= 1
    return bytes(content)


DAMAGED = {
    "empty": (lambda: b"", "the file is empty"),
    "text": (lambda: b"not a checkpoint at all\n", "found a text .not a checkpoint at all"),
    "binary": (lambda: bytes(range(256)) * 8, "expected a PyTorch checkpoint, found a damaged"),
    "truncated archive": (lambda: archive()[:-3000], "expected a PyTorch checkpoint, found a damaged"),
    "half an archive": (lambda: archive()[:90000], "expected a PyTorch checkpoint, found a damaged"),
    "flipped bit": (flipped, "checksum of .*data/0 does not match"),
}


@pytest.mark.parametrize("content, message", DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_refused(content, message, tmp_path):
    path = tmp_path / "damaged.pth"
    path.write_bytes(content())
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.pth: no such weights file"):
        read(tmp_path / "absent.pth")
    with pytest.raises(ValueError, match="expected one weights file in the folder, found none"):
        read(tmp_path)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("legacy", [False, True])
def test_no_code_from_a_file_runs(legacy, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = saved(small_state() | {"fc.weight": Malicious()}, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="refused, as it holds posix.mkdir, .* may run code"):
        read(path)
    assert not (tmp_path / "ran").exists()


def test_formats_by_name(saved, monkeypatch):
    with pytest.raises(ValueError, match="unknown weights format torchvison, .* did you mean torchvision?"):
        read("any.pth", "torchvison")
    with pytest.raises(ValueError, match="barlowtwins_checkpoint but of torchvision; leave --format away"):
        read(saved(small_state()), "barlowtwins_checkpoint")
    with pytest.raises(ValueError, match="not a file of the format moco; no known .* nearest is"):
        read(saved(prefixed("net.", without("conv1.weight")())), "moco")
    monkeypatch.setitem(readers.READERS, "twin", READERS["torchvision"])
    with pytest.raises(ValueError, match=r"several formats \(torchvision, twin\); pass --format"):
        read(saved(small_state()))
    assert read(saved(small_state()), "twin").format == "twin"


def test_random_may_be_of_any_architecture():
    backbone = read("random:resnet18-cifar", name="small")
    assert (backbone.arch.name, backbone.name, backbone.format) == ("resnet18-cifar", "small", "random")
    assert backbone.state["conv1.weight"].shape == (64, 3, 3, 3) and backbone.sha256 != read("random").sha256
    with pytest.raises(ValueError, match="random:resnet18-cifer: .*; did you mean random:resnet18-cifar"):
        read("random:resnet18-cifer")


def test_random_is_the_same_every_time_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    generator = torch.get_rng_state()
    one = read("random")
    assert torch.equal(torch.get_rng_state(), generator)
    torch.manual_seed(6)
    two = read("random", name="untrained")
    assert (one.name, two.name, one.format, one.path) == ("random", "untrained", "random", "random")
    assert one.sha256 == two.sha256 and len(one.sha256) == 64
    assert all(torch.equal(tensor, two.state[name]) for name, tensor in one.state.items())
    assert {name: tuple(tensor.shape) for name, tensor in one.state.items()} == RESNET50.expected
    assert one.state["layer1.0.bn3.weight"].eq(1).all(), "residual branches are not zeroed"
    assert 0.01 < one.state["conv1.weight"].std() < 0.05
    with pytest.raises(ValueError, match="random is no file"):
        read("random", "torchvision")
