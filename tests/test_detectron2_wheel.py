"""The Detectron2 wheel: checked hash, exact patches, a valid archive of equal bytes, a stub that explains."""

import base64
import csv
import email
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest

from tools import detectron2_wheel
from tools.detectron2_wheel import Patch, apply_patches, pack, read_sdist

TOY = {"LICENSE": b"Apache", "setup.py": b"raise SystemExit", "detectron2/__init__.py": b"value = 1\n",
       "detectron2/model_zoo/configs/Base.yaml": b"A: 1\n", "detectron2/layers/csrc/op.cu": b"//",
       "projects/PointRend/point_rend/__init__.py": b"point = 2\n", "tools/train_net.py": b""}


@pytest.fixture
def sdist(tmp_path):
    """A source archive in the shape of the real one, and its sha256."""
    path = tmp_path / "toy.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in TOY.items():
            member = tarfile.TarInfo(f"pb1-detectron2-0.6/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def run(*arguments, **environment):
    """The tool as a user calls it."""
    command = [sys.executable, detectron2_wheel.__file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def one_error(result, pattern):
    """Whether `result` is exit status 2 with nothing but one line `error: pattern`."""
    assert (result.returncode, result.stdout) == (2, ""), result
    return re.fullmatch(f"error: {pattern}\n", result.stderr)


def test_reads_python_and_yaml_and_places_the_projects(sdist):
    files, licence = read_sdist(*sdist)
    assert files == {"detectron2/__init__.py": b"value = 1\n",
                     "detectron2/model_zoo/configs/Base.yaml": b"A: 1\n",
                     "detectron2/projects/point_rend/__init__.py": b"point = 2\n"}
    assert licence == b"Apache"


def test_wrong_hash_is_refused(sdist, tmp_path):
    with pytest.raises(ValueError, match=f"toy.tar.gz: expected sha256 5d2e9e51.*, found {sdist[1]}; delete"):
        read_sdist(sdist[0])
    result = run("--sdist", sdist[0], "--output", tmp_path / "out")
    assert one_error(result, ".*toy.tar.gz: expected sha256 .*") and not (tmp_path / "out").exists()


def test_missing_archive_is_one_clear_line(tmp_path):
    result = run("--sdist", tmp_path / "none.tar.gz", "--output", tmp_path)
    assert one_error(result, "expected the source archive .*none.tar.gz, found no such file; .*")


def test_failed_download_is_one_clear_line(tmp_path):
    result = run("--output", tmp_path, PIP_NO_INDEX="1", PIP_FIND_LINKS="", PIP_CONFIG_FILE=os.devnull)
    assert result.returncode == 2 and not list(tmp_path.iterdir())
    assert re.fullmatch(r"error: pip could not fetch pb1-detectron2==0.6: .*[^.]\. Check the network .*\n",
                        result.stderr)


def test_patches_change_what_they_say():
    files = {"a.py": b"x = np.int\ny = np.int\n", "b.py": b"same"}
    patched = apply_patches(files, [Patch("a.py", "np.int", "int", 2)])
    assert patched == {"a.py": b"x = int\ny = int\n", "b.py": b"same"}
    assert files["a.py"].count(b"np.int") == 2, "the input was changed"


@pytest.mark.parametrize("patch, found", [
    (Patch("a.py", "np.int", "int", 1), 2), (Patch("a.py", "np.int", "int", 3), 2),
    (Patch("a.py", "np.float", "float"), 0), (Patch("gone.py", "np.int", "int"), 0),
], ids=["too often", "too seldom", "not there", "no such file"])
def test_patch_that_does_not_match_fails_clearly(patch, found):
    message = f"{patch.path}: expected {patch.count} times '{patch.old}', found {found}"
    with pytest.raises(ValueError, match=re.escape(message)):
        apply_patches({"a.py": b"x = np.int\ny = np.int\n"}, [patch])


def test_wheel_is_valid(sdist, tmp_path):
    wheel = pack(*read_sdist(*sdist), tmp_path / "out")
    assert wheel.name == f"detectron2-{detectron2_wheel.VERSION}-py3-none-any.whl"
    assert list((tmp_path / "out").iterdir()) == [wheel]
    info = f"detectron2-{detectron2_wheel.VERSION}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        content = {name: archive.read(name) for name in archive.namelist()}
        assert len(content) == len(archive.namelist())
    lines = content[f"{info}/RECORD"].decode().splitlines()
    record = {name: (digest, size) for name, digest, size in csv.reader(lines)}
    assert len(record) == len(lines)
    assert record.keys() == content.keys() and record.pop(f"{info}/RECORD") == ("", "")
    for name, (digest, size) in record.items():
        expected = base64.urlsafe_b64encode(hashlib.sha256(content[name]).digest()).decode().rstrip("=")
        assert digest == f"sha256={expected}" and int(size) == len(content[name]), name
    metadata = email.message_from_bytes(content[f"{info}/METADATA"])
    assert (metadata["Name"], metadata["Version"]) == ("detectron2", detectron2_wheel.VERSION)
    assert "iopath>=0.1.7" in metadata.get_all("Requires-Dist")
    assert not [row for row in metadata.get_all("Requires-Dist") if row.startswith("black")]
    assert all(patch.path in metadata.get_payload() for patch in detectron2_wheel.PATCHES)
    assert email.message_from_bytes(content[f"{info}/WHEEL"])["Tag"] == "py3-none-any"
    assert content[f"{info}/LICENSE"] == b"Apache" and content["detectron2/__init__.py"] == b"value = 1\n"


def test_wheel_has_the_same_bytes_whatever_the_order(sdist, tmp_path):
    files, licence = read_sdist(*sdist)
    first = pack(files, licence, tmp_path / "1").read_bytes()
    assert pack(dict(reversed(files.items())), licence, tmp_path / "2").read_bytes() == first


def test_stub_explains_itself():
    stub = {}
    exec(detectron2_wheel.STUB, stub)
    with pytest.raises(NotImplementedError, match=r"_C\.nms_rotated is a compiled operator.*from source"):
        stub["__getattr__"]("nms_rotated")
    with pytest.raises(AttributeError):
        stub["__getattr__"]("__path__")
    assert stub["has_cuda"]() is False and "pure-Python" in stub["get_compiler_version"]()


def test_real_archive_takes_every_patch():
    path = detectron2_wheel.OUTPUT / detectron2_wheel.SDIST_FILE
    if not path.is_file():
        pytest.skip(f"needs build/detectron2/{path.name}: python tools/detectron2_wheel.py fetches it")
    original, licence = read_sdist(path)
    files = apply_patches(original)
    removed = re.compile(r"\bnp\.(bool|int|float|str|object)\b|Image\.LINEAR\b|pkg_resources"
                         r"|torch\.ops\.detectron2|torch\.cuda\.amp|ByteStorage")
    for name, content in files.items():
        if name.endswith(".py"):
            compile(content, name, "exec")
            code = "\n".join(line.partition("#")[0] for line in content.decode().splitlines())
            assert not removed.search(code), (name, removed.search(code))
    assert removed.search("dtype=np.int)") and b"Apache License" in licence
    assert "detectron2/model_zoo/configs/COCO-Detection/faster_rcnn_R_50_C4_1x.yaml" in files
    changed = {name for name in files if files[name] != original[name]}
    assert changed == {patch.path for patch in detectron2_wheel.PATCHES}


def test_importable_detectron2_is_kept_and_works():
    result = run("--install")
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"detectron2 \S+ is installed and used as it is\n", result.stdout)
    from detectron2 import model_zoo

    configuration = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml")
    assert configuration.MODEL.ROI_HEADS.NAME == "Res5ROIHeads"


def test_detectron2_that_does_not_import_is_an_error(tmp_path):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2/__init__.py").write_text("raise ImportError('libtorch_cuda.so: no such file')\n")
    result = run("--install", PYTHONPATH=str(tmp_path))
    assert one_error(result, r"detectron2 is installed at .* but does not import \(.*libtorch_cuda.*\); re.*")
