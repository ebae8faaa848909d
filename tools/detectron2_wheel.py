"""Make a pure-Python Detectron2 0.6 wheel that runs with today's libraries, and install it.

Detectron2 is not on the registry under its own name, and its C++ sources need a compiler that matches torch.
R50-C4 detectors need none of them: ROIAlign and NMS come from torchvision. `pb1-detectron2` 0.6 on the
registry has the Python and YAML files of upstream's tag v0.6 (facebookresearch/detectron2, Apache 2.0), byte
for byte. So this program fetches that source archive, checks its hash, drops the extension, patches what
newer libraries broke and packs the rest as `detectron2-0.6+pure<n>-py3-none-any.whl`. Every patch must match
exactly as often as it says, or nothing is built.

    python tools/detectron2_wheel.py                # build/detectron2/detectron2-0.6+pure<n>-py3-none-any.whl
    python tools/detectron2_wheel.py --install      # and pip install it; a working detectron2 is kept
    python tools/detectron2_wheel.py --sdist FILE   # from a source archive that is already here (no network)

The download needs torch and setuptools in the running Python: pip asks the archive's setup.py for metadata.
"""

import argparse
import base64
import hashlib
import importlib.metadata
import importlib.util
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

SDIST = "pb1-detectron2==0.6"
SDIST_FILE = "pb1-detectron2-0.6.tar.gz"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
VERSION = "0.6+pure2"  # raise the local number with every change to the wheel's content
OUTPUT = Path(__file__).resolve().parent.parent / "build" / "detectron2"

# Upstream's setup.py with the outdated pin of iopath relaxed (<0.1.10), and without what only its Caffe2
# export (future, pydot) or the pretty-printing of lazy configurations (black==21.4b2, a caught import) uses.
REQUIRES = (
    "Pillow>=7.1", "matplotlib", "pycocotools>=2.0.2", "termcolor>=1.1", "yacs>=0.1.8", "tabulate",
    "cloudpickle", "tqdm>4.29.0", "tensorboard", "fvcore>=0.1.5,<0.1.6", "iopath>=0.1.7", "omegaconf>=2.1",
    "hydra-core>=1.1",
)

# As upstream's setup.py places them: small projects that become sub-packages of detectron2.projects.
PROJECTS = {
    "projects/PointRend/point_rend/": "detectron2/projects/point_rend/",
    "projects/DeepLab/deeplab/": "detectron2/projects/deeplab/",
    "projects/Panoptic-DeepLab/panoptic_deeplab/": "detectron2/projects/panoptic_deeplab/",
}

STUB = '''"""Stands in for Detectron2's compiled extension, which this pure-Python build leaves out."""


def get_compiler_version():
    return "none (pure-Python build)"


def get_cuda_version():
    return "none (pure-Python build)"


def has_cuda():
    return False


def __getattr__(name):
    if name.startswith("__"):  # the import system and inspect probe these
        raise AttributeError(name)
    raise NotImplementedError(
        f"detectron2._C.{name} is a compiled operator and this detectron2 is a pure-Python build without it "
        "(rotated boxes, deformable convolution and the C++ COCO evaluation need it). Build detectron2 from "
        "source: pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"
    )
'''


class Patch(NamedTuple):
    """In `path`, `old` must occur exactly `count` times; each becomes `new`."""

    path: str
    old: str
    new: str
    count: int = 1


PATCHES = (
    # Pillow 10 removed Image.LINEAR, the old name of BILINEAR.
    Patch("detectron2/data/transforms/transform.py", "interp=Image.LINEAR", "interp=Image.BILINEAR"),
    # NumPy 1.24 removed its aliases of Python's own types (np.bool came back in 2.0 as another type).
    # ndmin=1: a split of one image must stay a list.
    Patch("detectron2/data/build.py", "dtype=np.int)", "dtype=int)"),
    Patch("detectron2/data/build.py", "dtype=np.int\n", "dtype=int\n"),
    Patch("detectron2/data/datasets/pascal_voc.py", "dtype=np.str)", "dtype=str, ndmin=1)"),
    Patch("detectron2/evaluation/pascal_voc_evaluation.py", "astype(np.bool)", "astype(bool)", 2),
    Patch("detectron2/evaluation/sem_seg_evaluation.py", "dtype=np.int)", "dtype=int)", 2),
    Patch("detectron2/evaluation/sem_seg_evaluation.py", "dtype=np.float)", "dtype=float)", 2),
    Patch("detectron2/evaluation/sem_seg_evaluation.py", "astype(np.float)", "astype(float)", 3),
    Patch("detectron2/structures/masks.py", "astype(np.bool)", "astype(bool)", 2),
    Patch("detectron2/structures/masks.py", "dtype=np.bool)", "dtype=bool)"),
    Patch("detectron2/utils/visualizer.py", "astype(np.bool)", "astype(bool)", 3),
    Patch("detectron2/utils/video_visualizer.py", "dtype=np.bool)", "dtype=bool)"),
    # setuptools 82 removed pkg_resources; the configurations lie beside the module.
    Patch("detectron2/model_zoo/model_zoo.py", "import pkg_resources\n", ""),
    Patch("detectron2/model_zoo/model_zoo.py",
          'pkg_resources.resource_filename(\n        "detectron2.model_zoo", '
          'os.path.join("configs", config_path)\n    )',
          'os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs", config_path)'),
    # Warnings of torch 2: removed names of mixed precision, typed storages, meshgrid without its indexing.
    Patch("detectron2/engine/train_loop.py", "from torch.cuda.amp import", "from torch.amp import", 2),
    Patch("detectron2/engine/train_loop.py", "with autocast():", 'with autocast("cuda"):'),
    Patch("detectron2/utils/comm.py",
          "storage = torch.ByteStorage.from_buffer(buffer)\n"
          "    tensor = torch.ByteTensor(storage).to(device=device)",
          "tensor = torch.frombuffer(bytearray(buffer), dtype=torch.uint8).to(device=device)"),
    Patch("detectron2/modeling/anchor_generator.py", "torch.meshgrid(shifts_y, shifts_x)",
          'torch.meshgrid(shifts_y, shifts_x, indexing="ij")'),
    # torch 2.10 deprecated torch.jit.script; these two classes are plain Python without it.
    Patch("detectron2/modeling/box_regression.py", "@torch.jit.script\nclass ", "class ", 2),
    # Without the extension, pycocotools evaluates COCO, and rotated NMS says what is missing.
    Patch("detectron2/evaluation/coco_evaluation.py",
          "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n", ""),
    Patch("detectron2/evaluation/coco_evaluation.py",
          "(COCOeval_opt if use_fast_impl else COCOeval)(", "COCOeval("),
    Patch("detectron2/evaluation/coco_evaluation.py", "use_fast_impl=True,", "use_fast_impl=False,", 2),
    Patch("detectron2/layers/nms.py", "from torchvision.ops import nms  # BC-compat\n",
          "from torchvision.ops import nms  # BC-compat\n\nfrom detectron2 import _C\n"),
    Patch("detectron2/layers/nms.py", "torch.ops.detectron2.nms_rotated(", "_C.nms_rotated("),
)


def download(folder):
    """Fetch the source archive into `folder` with pip, which checks the hash. Returns its path.

    Raises RuntimeError with the end of pip's output if that fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text(f"{SDIST} --hash=sha256:{SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation",
                   "--no-binary", ":all:", "--require-hashes", "--dest", str(folder), "-r", str(requirements)]
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        words = " ".join(result.stderr.split())[-400:] or f"exit status {result.returncode}"
        raise RuntimeError(f"pip could not fetch {SDIST}: {words}. Check the network and pip's index, or "
                           f"pass the archive with --sdist {SDIST_FILE}")
    return folder / SDIST_FILE


def read_sdist(path, sha256=SHA256):
    """Read the archive at `path`: its Python and YAML files as {path inside the wheel: bytes}, and its
    licence text.

    Raises FileNotFoundError without the archive, ValueError if its hash is not `sha256`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected the source archive {path}, found no such file; leave out --sdist "
                                "to fetch it")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(f"{path}: expected sha256 {sha256}, found {found}; delete the file and run this "
                         f"again to fetch {SDIST}")
    files, licence = {}, b""
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            name = member.name.partition("/")[2]  # without the archive's top folder
            for source, target in PROJECTS.items():
                if name.startswith(source):
                    name = target + name[len(source):]
            if name == "LICENSE":
                licence = archive.extractfile(member).read()
            if member.isfile() and name.startswith("detectron2/") and name.endswith((".py", ".yaml")):
                files[name] = archive.extractfile(member).read()
    return files, licence


def apply_patches(files, patches=PATCHES):
    """Return `files` with every patch applied, as a new dict. Raises ValueError if one does not match
    exactly."""
    files = dict(files)
    for patch in patches:
        text = files.get(patch.path, b"").decode()
        found = text.count(patch.old)
        if found != patch.count:
            raise ValueError(f"{patch.path}: expected {patch.count} times {patch.old!r}, found {found}; the "
                             f"patches here are for {SDIST}, use its source archive")
        files[patch.path] = text.replace(patch.old, patch.new).encode()
    return files


def _metadata(patches):
    lines = ["Metadata-Version: 2.1", "Name: detectron2", f"Version: {VERSION}",
             "Summary: Detectron2 v0.6 as pure Python, patched for current libraries",
             "Home-page: https://github.com/facebookresearch/detectron2", "Author: FAIR",
             "License: Apache 2.0", "Requires-Python: >=3.10",
             *(f"Requires-Dist: {name}" for name in REQUIRES), "",
             f"Made from {SDIST} (sha256 {SHA256}),",
             "whose Python files are those of upstream's tag v0.6. Left out: the C++ and CUDA extension",
             "(detectron2/_C.py stands in for it). Changed files, as the licence wants them named:", "",
             *(f"- {path}" for path in sorted({patch.path for patch in patches})), ""]
    return "\n".join(lines).encode()


def pack(files, licence, folder, patches=PATCHES):
    """Write `files` ({path in the wheel: bytes}) as a wheel into `folder`. Returns its path.

    The same input gives the same bytes: the files are sorted, have one fixed date and are not compressed,
    since zlib versions differ.
    """
    info = f"detectron2-{VERSION}.dist-info"
    files = {**files, "detectron2/_C.py": STUB.encode(), f"{info}/METADATA": _metadata(patches),
             f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: detectron2_wheel\nRoot-Is-Purelib: true\n"
                              b"Tag: py3-none-any\n",
             f"{info}/top_level.txt": b"detectron2\n", f"{info}/LICENSE": licence}
    rows = []
    for name in sorted(files):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(files[name])}\n")
    files[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"]).encode()

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files, key=lambda name: (name.startswith(info), name)):
            entry = zipfile.ZipInfo(name, date_time=(2021, 11, 15, 0, 0, 0))  # about when v0.6 was released
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, files[name])
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"detectron2-{VERSION}-py3-none-any.whl"
    partial = wheel.with_suffix(".partial")
    partial.write_bytes(buffer.getvalue())
    partial.replace(wheel)
    return wheel


def build(sdist, folder):
    """Make the wheel from the source archive `sdist` in `folder`. Returns its path."""
    files, licence = read_sdist(sdist)
    return pack(apply_patches(files), licence, folder)


def installed():
    """Return the version of the detectron2 that this Python imports, or None. Raises RuntimeError if it is
    broken."""
    specification = importlib.util.find_spec("detectron2")
    if specification is None:
        return None
    probe = "import detectron2, detectron2.layers; print(detectron2.__version__)"
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    if result.returncode != 0:
        last = (result.stderr.strip() or f"exit status {result.returncode}").splitlines()[-1]
        raise RuntimeError(f"detectron2 is installed at {specification.origin} but does not import ({last}); "
                           "reinstall it, or uninstall it to get ours")
    try:
        return importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:  # a source tree on the path
        return result.stdout.strip()


def main():
    parser = argparse.ArgumentParser(description="make (and install) a pure-Python Detectron2 0.6 wheel")
    parser.add_argument("--sdist", type=Path, help=f"use this {SDIST_FILE} instead of fetching it")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for the wheel (build/detectron2)")
    parser.add_argument("--install", action="store_true", help="pip install it unless a detectron2 is there")
    arguments = parser.parse_args()
    try:
        if arguments.install:
            version = installed()
            # An older wheel of ours is replaced.
            outdated = version is not None and "+pure" in version and version != VERSION
            if version is not None and not outdated:
                print(f"detectron2 {version} is installed and used as it is")
                return
        sdist = arguments.sdist
        if sdist is None:
            sdist = arguments.output / SDIST_FILE
            if not sdist.is_file():
                print(f"fetching {SDIST} ...", flush=True)
                sdist = download(arguments.output)
        wheel = build(sdist, arguments.output)
        if arguments.install:
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode != 0:
                words = " ".join(result.stderr.split())[-400:]
                raise RuntimeError(f"pip could not install {wheel.name}: {words}")
        print(f"{'installed' if arguments.install else 'wrote'} {wheel}")
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
