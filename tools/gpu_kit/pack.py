"""What travels to a machine without a package registry: wheels, CIFAR-10 and some photographs, in one folder.

The machine has Python 3.12, torch 2.11, torchvision 0.26 and what usually stands beside them. NEEDED is the
rest of pyproject.toml, in the versions of constraints.txt.
"""
import importlib.util
import io
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tools import detectron2_wheel

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT = 64 * 2 ** 20  # bytes of the tree and the folder together
PHOTOGRAPHS = 12 * 2 ** 20  # bytes of photographs at most

# Module -> distribution: compiled for CPython 3.12, and pure Python (some of them must be built: they are
# published as source only).
COMPILED = {"pycocotools": "pycocotools", "faster_coco_eval": "faster-coco-eval", "simplejpeg": "simplejpeg",
            "yaml": "PyYAML"}
PURE = {"fvcore": "fvcore", "iopath": "iopath", "omegaconf": "omegaconf", "hydra": "hydra-core",
        "antlr4": "antlr4-python3-runtime", "yacs": "yacs", "termcolor": "termcolor"}
NEEDED = (*COMPILED, *PURE, "detectron2")
PLATFORMS = [word for tag in ("_2_28", "_2_27", "_2_24", "_2_17", "2014", "1")
             for word in ("--platform", f"manylinux{tag}_x86_64")]

CIFAR = ("train.tar.xz", "test.tar.xz")  # JPEG files {train,test}/CLASS/NAME; a tenth of the pixels' size
PICTURES = "pictures.tar"


def pack(folder: Path, cifar10: Path, pictures: Path) -> str:
    """Fill the folder, from nothing. Returns what it weighs.

    cifar10: a folder with the two archives CIFAR. pictures: a folder or an archive with *.jpg of the size of
    ImageNet's. Raises FileNotFoundError or ValueError for sources that are missing, RuntimeError where pip
    fails or the limit is passed.
    """
    for path in (*(cifar10 / name for name in CIFAR), pictures):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file; name the sources with --cifar10 and --pictures")
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.whl"), *folder.glob("*.tar*")):
        old.unlink()
    wheels(folder)
    for name in CIFAR:
        (folder / f"cifar10_{name}").write_bytes((cifar10 / name).read_bytes())
    count = take_photographs(pictures, folder / PICTURES)
    own = sum(path.stat().st_size for path in folder.iterdir())
    tree = sum((ROOT / name).stat().st_size for name in tracked() if (ROOT / name).is_file())
    whole = len(list(folder.glob("*.whl")))
    said = (f"{folder}: {own / 2**20:.1f} MiB ({whole} wheels, CIFAR-10, {count} photographs), with "
            f"the tree's {tree / 2**20:.1f} MiB {(own + tree) / 2**20:.1f} of {LIMIT / 2**20:.0f} MiB")
    if own + tree > LIMIT:
        raise RuntimeError(f"{said}; choose fewer --pictures")
    return said


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout
    return listed.split("\0")[:-1]


def wheels(folder: Path) -> None:
    """Put a wheel of each of NEEDED into the folder."""
    pip("download", "--no-deps", "--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp",
        *PLATFORMS, "--dest", str(folder), *map(pinned, COMPILED.values()))
    pip("wheel", "--no-deps", "--wheel-dir", str(folder), *map(pinned, PURE.values()))
    sdist = detectron2_wheel.OUTPUT / detectron2_wheel.SDIST_FILE
    detectron2_wheel.build(sdist if sdist.is_file() else detectron2_wheel.download(sdist.parent), folder)
    bound = [path.name for path in folder.glob("*.whl")
             if not re.search(r"-none-any\.|-(cp312|abi3)-.*x86_64", path.name)]
    if bound:
        raise RuntimeError(f"expected wheels for CPython 3.12 on x86-64 Linux, found {', '.join(bound)}")


def pinned(name: str) -> str:
    """Return the requirement as constraints.txt has it."""
    return re.search(rf"^{re.escape(name)}==\S+", (ROOT / "constraints.txt").read_text(), re.M)[0]


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        raise RuntimeError(f"pip {arguments[0]} failed: {' '.join(found.stderr.split())[-400:]}")


def take_photographs(source: Path, target: Path) -> int:
    """Write the first photographs of a folder or archive, in the order of their names and up to PHOTOGRAPHS
    bytes, into a tar archive. Returns their number."""
    size = count = 0
    with tarfile.open(target, "w") as archive:
        for data in photographs(source):
            size += len(data)
            if size > PHOTOGRAPHS:
                break
            entry = tarfile.TarInfo(f"{count:04d}.jpg")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
            count += 1
    if not count:
        raise ValueError(f"{source}: expected *.jpg, found none; name others with --pictures")
    return count


def photographs(source: Path) -> Iterator[bytes]:
    """Yield the bytes of all *.jpg, *.jpeg and *.JPEG."""
    if source.is_dir():
        for path in sorted(source.rglob("*.[jJ][pP]*[gG]")):
            yield path.read_bytes()
        return
    with tarfile.open(source) as archive:
        for member in archive:
            if member.name.lower().endswith((".jpg", ".jpeg")):
                yield archive.extractfile(member).read()


def install(pack_folder: Path, site: Path) -> Path | None:
    """Install the packed wheels into the folder `site` if this Python lacks any of them. Returns it, to be
    put on the path, or None if nothing is needed. Raises RuntimeError where modules are missing and not
    packed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    files = sorted(pack_folder.glob("*.whl"))
    if not files:
        raise RuntimeError(f"expected {', '.join(missing)} here or as wheels in {pack_folder}, found neither;"
                           " run tools/gpu.py --pack where there is a registry")
    pip("install", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--upgrade", "--target",
        str(site), *map(str, files))
    return site
