"""What a file is that holds no weights for us to read, in words, and what to do about it."""
import re
from collections.abc import Collection
from pathlib import Path

ENDINGS = (".pth", ".pt", ".tar", ".ckpt", ".bin", ".pkl", ".safetensors", ".npz")  # of files of weights
INDEX = ".index.json"  # of a checkpoint in several files
PYTORCH = "give the PyTorch weights of the same network"
PICTURE = "a picture; give the weights"
UNPACK = "an archive; unpack it and give the file of weights in it"
AGAIN = "fetch the file itself and check its size"

# (where, bytes, what)
MARKS = (
    (0, b"\x1f\x8b", "a gzip file; unpack it with gunzip"),
    (0, b"BZh", "a bzip2 file; unpack it with bunzip2"),
    (0, b"\xfd7zXZ\0", "an xz file; unpack it with unxz"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file; unpack it with unzstd"),
    (0, b"\x04\x22\x4d\x18", "an lz4 file; unpack it with unlz4"),
    (0, b"7z\xbc\xaf\x27\x1c", f"a 7z file, {UNPACK}"),
    (0, b"Rar!\x1a\x07", f"a rar file, {UNPACK}"),
    (257, b"ustar", "a tar archive; unpack it (a file of PyTorch before 0.1.10: save it again)"),
    (0, b"\x89HDF\r\n\x1a\n", f"an HDF5 file, such as Keras writes; {PYTORCH}"),
    (0, b"GGUF", f"a GGUF file; {PYTORCH}"), (0, b"ggjt", f"a GGML file; {PYTORCH}"),
    (4, b"TFL3", f"a TensorFlow Lite model; {PYTORCH}"),
    (4, b"ET1", "an ExecuTorch program; give the PyTorch weights that it was made from"),
    (0, b"\x93NUMPY", "a single array of NumPy; save the arrays by name with numpy.savez"),
    (0, b"MATLAB 5.0 MAT", f"a MATLAB file; {PYTORCH}"),
    (0, b"SQLite format 3\0", "an SQLite database; give the weights"),
    (0, b"PAR1", "a Parquet file; give the weights"), (0, b"ARROW1", "an Arrow file; give the weights"),
    (0, b"\x89PNG\r\n\x1a\n", PICTURE), (0, b"\xff\xd8\xff", PICTURE), (0, b"GIF8", PICTURE),
    (8, b"WEBP", PICTURE), (0, b"%PDF-", "a PDF document; give the weights"),
    (0, b"\x7fELF", "a program or library; give the weights"),
    (0, b"<?xml", f"an XML text, perhaps a server's error; {AGAIN}"),
    (0, b"version https://git-lfs", "a git-lfs pointer, not the file itself; run git lfs pull there"),
    (0, b"/annex/objects/", "a git-annex pointer, not the file itself; run git annex get there"),
)
TENSORFLOW = f"part of a TensorFlow checkpoint; {PYTORCH}"
TEXT_PICKLES = (b"(dp", b"(lp", b"ccollections\nOrderedDict\n")  # of protocol 0, which Python 2 wrote
TEXT = re.compile(r"[\x20-\x7e\s\u00a0-\ud7ff\ue000-\ufffd]+")


class Foreign(ValueError):
    """A file that holds no weights to read; the text says what it is and what to do."""


def of_bytes(head: bytes, tail: bytes, name: str) -> str | None:
    """By the first 512 and the last 8 bytes; None for what may hold weights or is not known. The name tells
    apart only what no reader could read."""
    for start, mark, what in MARKS:
        if head[start:start + len(mark)] == mark:
            return what
    if tail == b"\x57\xfb\x80\x8b\x24\x75\x47\xdb" or re.search(r"\.data-\d{5}-of-\d{5}$", name):
        return TENSORFLOW
    if name.endswith(".onnx") or head[:1] == b"\x08" and re.search(
            rb"\x12.(pytorch|onnx|tf2onnx|keras2onnx|skl2onnx)", head, re.DOTALL):
        return f"an ONNX model; {PYTORCH}"
    if name.endswith(".distcp"):
        return DISTRIBUTED
    if len(head) >= 16 and not head.strip(b"\0"):
        return f"only zeros at its beginning, as an interrupted download leaves; {AGAIN}"
    return None if head.startswith((b"\x80", b"PK", *TEXT_PICKLES)) else _of_text(head)


def _of_text(head: bytes) -> str | None:
    try:
        text = head[:480].decode("utf-8-sig", "ignore").strip()
    except UnicodeDecodeError:
        return None
    if len(text) < 8 or b"\0" in head or not TEXT.fullmatch(text):
        return None
    begins = f"({' '.join(text.split())[:60]}...)"
    if re.match(r"(<!--.*-->\s*)?<(!doctype html|html|head|body)", text, re.IGNORECASE | re.DOTALL):
        return f"a web page {begins}, perhaps one to log in or of an error; {AGAIN}"
    if text.startswith("model_checkpoint_path"):
        return TENSORFLOW
    if text[0] in "{[":
        return f"a JSON text {begins}, perhaps a server's error; {AGAIN}"
    return f"a text {begins}; {AGAIN}"


def of_archive(names: Collection[str]) -> str | None:
    """What a zip archive with these entries is; None for one of torch.save or of numpy.savez."""
    if not names:
        return f"an empty zip archive; {AGAIN}"
    paths = [name.partition("/")[2] for name in names]
    if any(path.startswith("code/") or path == "constants.pkl" for path in paths):
        return ("a TorchScript program, which holds code; save its tensors: torch.save(torch.jit.load(FILE,"
                " 'cpu').state_dict(), 'weights.pth')")
    if any(name.endswith(("serialized_exported_program.json", "archive_format")) for name in names):
        return ("a program of torch.export; save its tensors: torch.save(torch.export.load(FILE).state_dict,"
                " 'weights.pth')")
    if any(".data/extern_modules" in name for name in names):
        return "a torch.package, which holds code; save the state dict of its network"
    if "model.weights.h5" in names:
        return f"a Keras model; {PYTORCH}"
    if "data.pkl" in paths or all(name.endswith(".npy") for name in names):
        return None
    listed = ", ".join(sorted(names)[:3])
    return f"a zip archive around {len(names)} file{'s'[:len(names) != 1]} ({listed}); unpack it with unzip"


DISTRIBUTED = ("part of a distributed checkpoint; join its files: python -m"
               " torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pth")


def in_folder(folder: Path) -> Path:
    """The one file of weights, or the one index of several, that lies in the folder itself; ValueError where
    there is none or more than one."""
    found = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    if (folder / ".metadata").exists() and any(entry.suffix == ".distcp" for entry in found):
        raise ValueError(f"{folder}: expected a weights file, found {DISTRIBUTED}")
    if (folder / "saved_model.pb").exists():
        raise ValueError(f"{folder}: expected a weights file, found a TensorFlow model; {PYTORCH}")
    if (folder / "data.pkl").exists() and (folder / "version").exists():
        raise ValueError(f"{folder}: expected a weights file, found one of torch.save unpacked; zip it again,"
                         " as in (cd ..; zip -0 -r weights.pth FOLDER)")
    indices = [entry for entry in found if entry.name.endswith(INDEX)]
    files = indices or [entry for entry in found if entry.name.endswith(ENDINGS)]
    if len(files) == 1:
        return files[0]
    listed = ", ".join(entry.name for entry in files[:5]) + (", ..." if len(files) > 5 else "")
    raise ValueError(f"{folder}: expected one weights file in the folder, found {len(files) or 'none'}"
                     + (f" ({listed}); name one of them" if files else "; name the file"))
