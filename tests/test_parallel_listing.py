"""Both wings read a folder or a list of pictures alike (parallel/listing.py)."""

import pytest
from torchvision.datasets.folder import IMG_EXTENSIONS, ImageFolder

from parallel.listing import ENDINGS, class_files, listed
from pretrain.pictures.sources import Files
from transfer.classification.layouts import image_folder

FILES = ("b/2.JPEG", "b/10.png", "b/more/1.jpg", "b/more-1.jpg", "a/x.webp", "a/notes.txt")
HIDDEN = (".cache/1.jpg", "a/._x.webp", "b/.thumbs/1.jpg")


@pytest.fixture
def root(tmp_path):
    for name in FILES + HIDDEN:
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).touch()
    return tmp_path / "train"


def test_folders_are_torchvisions_without_what_is_hidden(root):
    found = class_files(root)
    assert found == {"a": ["a/x.webp"], "b": ["b/10.png", "b/2.JPEG", "b/more-1.jpg", "b/more/1.jpg"]}
    for name in HIDDEN:
        (root / name).unlink()
    (root / ".cache").rmdir()
    assert [name for own in found.values() for name in own] == [
        path[len(f"{root}/"):] for path, _ in ImageFolder(root).samples]
    assert ENDINGS == IMG_EXTENSIONS


def test_both_wings_see_the_same(root):
    ours, theirs = Files.of_folder(root), image_folder(root)
    assert [ours.name(index) for index in range(5)] == [str(theirs.path(index)) for index in range(5)]
    assert ours.labels(slice(None)).tolist() == theirs.labels.tolist() == [0, 1, 1, 1, 1]


@pytest.mark.parametrize("text, names, labels", [
    ("a.jpg 0\n\n b c.jpg\t12 \n", ["a.jpg", "b c.jpg"], [0, 12]),
    ("a.jpg -1\n", ["a.jpg"], [-1]),
    ("a 1\nb.jpg\n", ["a 1", "b.jpg"], []),
], ids=["blanks and tabs", "negative", "one without"])
def test_lists(tmp_path, text, names, labels):
    (tmp_path / "x.txt").write_text(text)
    assert listed(tmp_path / "x.txt") == (names, labels)
    if labels and min(labels) >= 0:
        assert listed(tmp_path / "x.txt", labelled=True) == (names, labels)
    else:
        with pytest.raises(ValueError, match="x.txt:[12]: expected `PATH LABEL`"):
            listed(tmp_path / "x.txt", labelled=True)
