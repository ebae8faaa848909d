"""Layouts, their errors, and sampling that no number of processes changes."""
import json

import classification_toys as toys
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from parallel import manifests
from parallel.collectives import rank
from tests.faults import picture_data as faults
from transfer.classification import images as data
from transfer.classification import layouts


def inat_tree(root):
    for split, count in (("train", 3), ("val", 2)):
        images, annotations = [], []
        for label, category in enumerate((70, 5)):  # ids neither dense nor sorted
            for number in range(count):
                name = f"train_val2018/Aves/{category}/{split}{number}.jpg"
                toys.picture(root / name, label, number)
                images.append({"id": len(images), "file_name": name})
                annotations.append({"image_id": len(annotations), "category_id": category})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 5}, {"id": 70}]}
        (root / f"{split}2018.json").write_text(json.dumps(content))
    return root


def list_tree(root):
    for split, count in (("train", 2), ("val", 1)):
        names = [(f"images/{split} {label}{number}.jpg", label)
                 for label in range(2) for number in range(count)]
        for name, label in names:
            toys.picture(root / name, label, 0)
        (root / f"{split}.txt").write_text("".join(f"{name} {label}\n" for name, label in names))
    return root


def places_tree(root):
    names = {"train": [("a/abbey/x.jpg", 0), ("y/yard/x.jpg", 1)],
             "val": [("a/abbey/z.jpg", 0), ("y/yard/z.jpg", 1)]}
    (root / "trainvalsplit_places205").mkdir(parents=True)
    for split, rows in names.items():
        for name, label in rows:
            toys.picture(root / manifests.PLACES205 / name, label, 0)
        (root / "trainvalsplit_places205" / f"{split}_places205.csv").write_text(
            "".join(f"{name} {label}\n" for name, label in rows))
    return root


@pytest.mark.parametrize("write, classes, train, val", [
    (toys.image_tree, toys.CLASSES, [0] * 5 + [1] * 5 + [2] * 4, [0] * 3 + [1] * 3 + [2] * 2),
    (inat_tree, ("5", "70"), [0, 0, 0, 1, 1, 1], [0, 0, 1, 1]),
    (list_tree, ("0", "1"), [0, 0, 1, 1], [0, 1]),
    (places_tree, ("0", "1"), [0, 1], [0, 1]),
], ids=["folders", "inaturalist", "lists", "places205"])
def test_layouts(tmp_path, write, classes, train, val):
    pair = layouts.split_pair(write(tmp_path / "set"))
    assert pair[0].classes == pair[1].classes == classes
    assert [samples.labels.tolist() for samples in pair] == [train, val]
    assert all(samples.path(index).is_file() for samples in pair for index in range(len(samples)))


@pytest.mark.parametrize("build, train, val", [
    (faults.flat_val("LOC_val_solution.csv", faults.SOLUTION), "n01/1 n02/1 n03/1", "_3 _1 _2"),
    (faults.flat_val("meta/val.txt", faults.CAFFE), "n01/1 n02/1 n03/1", "_2 _3 _1"),
    (faults.kaggle, "n01_1 n02_1,n02_2", "_2 _1"), (faults.places365, "abbey/1 outdoor/1", "_2 _1"),
    (faults.PLACES, "abbey/0 outdoor/0,outdoor/1 bar/0", "abbey/0 outdoor/0 bar/0"),
    (faults.lists('path,label\n"img/e, 5.png",1\nimg/b.png,0\n'), "b 5", "1 d")],
    ids=["kaggle's list", "caffe's list", "kaggle", "places365", "letters", "commas"])
def test_labels_of_other_layouts(tmp_path, build, train, val):
    """The pictures of each class, as the ends of their paths."""
    build(tmp_path)
    for samples, expected in zip(layouts.split_pair(tmp_path), (train, val), strict=True):
        for label, ends in enumerate(expected.split()):
            paths = [samples.path(row).with_suffix("") for row in np.flatnonzero(samples.labels == label)]
            assert len(paths) == len(ends.split(","))
            assert all(str(path).endswith(end) for path, end in zip(paths, ends.split(",")))


def test_fingerprint_sees_names_and_labels_but_not_the_order(tmp_path):
    train, val = layouts.split_pair(toys.image_tree(tmp_path / "set"))
    order = np.random.default_rng(0).permutation(len(train))
    base = layouts.fingerprint(train, val)
    assert layouts.fingerprint(train.subset(order, ""), val) == base
    labels = train.labels.copy()
    labels[0] = 1
    other = layouts.Samples(train.root, train.names, labels, train.classes, "")
    changed = [layouts.fingerprint(val, train), layouts.fingerprint(other, val),
               layouts.fingerprint(train, val, also="x"),
               layouts.fingerprint(train.subset(order[1:], ""), val)]
    assert len({base, *changed}) == 5


@pytest.mark.parametrize("write, damage, message", [
    (toys.image_tree, lambda root: [path.unlink() for path in (root / "train/boat").iterdir()],
     "1 of 3 class folders .* boat"),
    (toys.image_tree, lambda root: (root / "val").rename(root / "lost"), "val: no such folder"),
    (toys.image_tree, lambda root: (root / "val/boat").rename(root / "boat"), "3 classes .* found 2; .*boat"),
    (toys.image_tree, lambda root: (root / "train").rename(root / "lost"), "expected train/CLASS/IMAGE"),
    (toys.image_tree, lambda root: root.rename(root.parent / "lost"), "no such folder; put the data"),
    (inat_tree, lambda root: (root / "val2018.json").write_text("{"), "val2018.json: not iNaturalist's json"),
    (inat_tree, lambda root: (root / "val2018.json").write_text('{"images": []}'), "KeyError: 'annotations'"),
    (inat_tree, lambda root: (root / "train_val2018/Aves/5/train0.jpg").unlink(), "1 of 6 listed"),
    (list_tree, lambda root: (root / "val.txt").write_text("images/val 00.jpg 0\n"), "2 classes .* found 1"),
    (list_tree, lambda root: (root / "val.txt").write_text("images/val 10.jpg 1\n"), "1 have none"),
    (list_tree, lambda root: (root / "train.txt").write_text("x.jpg\n"), "train.txt:1: expected `PATH"),
    (list_tree, lambda root: (root / "val.txt").unlink(), "val.txt: no such file"),
])
def test_incomplete_sets(tmp_path, write, damage, message):
    damage(write(tmp_path / "set"))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        layouts.split_pair(tmp_path / "set")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lists", [True, False], ids=["lists", "xml"])
def test_voc_labels(tmp_path, lists):
    samples = layouts.voc(toys.voc_tree(tmp_path / "VOC2007", lists=lists), "trainval")
    assert samples.classes == toys.CLASSES and samples.labels.dtype == np.int8
    assert samples.labels.shape == (18, 3)
    # Image 0: apple, and a difficult boat. Image 1: boat. Image 4: boat, and a difficult cat.
    assert samples.labels[[0, 1, 4]].tolist() == [[1, 0, -1], [-1, 1, -1], [-1, 1, 0]]


@pytest.mark.parametrize("lists, damage, message", [
    (True, lambda root: (root / "ImageSets/Main/cat_trainval.txt").write_text("000000 2\n"), "ID 1|0|-1"),
    (True, lambda root: (root / "ImageSets/Main/cat_trainval.txt").write_text("000000 1\n"),
     "18 images .*found 1"),
    (False, lambda root: (root / "Annotations/000003.xml").unlink(), "000003.xml: no such file"),
    (False, lambda root: (root / "Annotations/000003.xml").write_text("<a>"), "000003.xml: expected a VOC"),
    (False, lambda root: (root / "JPEGImages/000003.jpg").unlink(), "1 of 18 listed images are missing"),
    (False, lambda root: (root / "ImageSets/Main/trainval.txt").write_text(""), "expected image names"),
])
def test_voc_errors(tmp_path, lists, damage, message):
    root = toys.voc_tree(tmp_path / "VOC2007", lists=lists)
    damage(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        layouts.voc(root, "trainval")


def test_test_images_are_the_official_centre_crop(tmp_path):
    train, _ = layouts.split_pair(toys.image_tree(tmp_path / "set"))
    official = transforms.Compose([
        transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    for index in (0, 4):  # 4 is greyscale
        image, label, number = data.Images(train, 224, augment=False)[0, index]
        expected = official(Image.open(train.path(index)).convert("RGB"))
        assert torch.equal(data.normalised(image[None], torch.device("cpu"))[0], expected)
        assert (label, number) == (train.labels[index], index)


@pytest.mark.parametrize("name, by_hand", [
    ("crop", lambda image: image.resize((44, 37), Image.BILINEAR).crop((6, 2, 38, 34))),
    ("squash", lambda image: image.resize((44, 37), Image.BILINEAR).resize((32, 32), Image.BILINEAR)),
    ("stretch", lambda image: image.resize((32, 32), Image.BILINEAR)),
    ("bilinear", lambda image: image.resize((38, 32), Image.BILINEAR).crop((3, 0, 35, 32))),
    ("bicubic", lambda image: image.resize((38, 32), Image.BICUBIC).crop((3, 0, 35, 32))),
    ("bicubic_crop", lambda image: image.resize((42, 35), Image.BICUBIC).crop((5, 2, 37, 34))),
])
def test_resizes_by_hand(tmp_path, name, by_hand):
    """Of an image of 48 x 40 to 32 x 32; 37 is 32 x 256 / 224."""
    train, _ = layouts.split_pair(toys.image_tree(tmp_path / "set"))
    found = data.Images(train, 32, augment=False, resize=name)[0, 0][0]
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.asarray(by_hand(Image.open(train.path(0)))))


def test_train_images_are_bilinear_crops_and_flips(tmp_path):
    train, _ = layouts.split_pair(toys.image_tree(tmp_path / "set"))
    images, flips = data.Images(train, 32, augment=True, seed=3, crop_scale=(0.3, 0.5)), []
    for index in (0, 1, 2, 3, 5, 6):
        picture = Image.open(train.path(index))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(data._seed(3, 1, index))
            box = transforms.RandomResizedCrop.get_params(picture, [0.3, 0.5], [3 / 4, 4 / 3])
            flips.append(torch.rand(1).item() < 0.5)
        top, left, height, width = box
        by_hand = picture.crop((left, top, left + width, top + height)).resize((32, 32), Image.BILINEAR)
        by_hand = by_hand.transpose(Image.FLIP_LEFT_RIGHT) if flips[-1] else by_hand
        assert np.array_equal(images[1, index][0].permute(1, 2, 0).numpy(), np.asarray(by_hand))
    assert set(flips) == {True, False}


COLOURS = transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)


@pytest.mark.parametrize("name, scale, theirs", [
    ("colour", (0.08, 1.0), [
        transforms.RandomResizedCrop(32), transforms.RandomHorizontalFlip(p=0.5), COLOURS,
        transforms.RandomGrayscale(p=0.2)]),
    ("colour_bicubic", (0.2, 1.0), [
        COLOURS, transforms.RandomGrayscale(p=0.1),
        transforms.RandomResizedCrop(32, (0.2, 1.0), (0.75, 4 / 3), transforms.InterpolationMode.BICUBIC),
        transforms.RandomHorizontalFlip(p=0.5)]),
])
def test_training_images_of_mixed_barlow_twins(tmp_path, name, scale, theirs):
    """Golden: the order and numbers of its utils.py, for 32 and for 64 pixels."""
    train, _ = layouts.split_pair(toys.image_tree(tmp_path / "set"))
    images, greys = data.Images(train, 32, augment=True, seed=3, crop_scale=scale, augmentation=name), 0
    for epoch in range(4):
        for index in (0, 1, 2, 3):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(data._seed(3, epoch, index))
                expected = np.asarray(transforms.Compose(theirs)(Image.open(train.path(index))))
            found = images[epoch, index][0].permute(1, 2, 0).numpy()
            assert np.array_equal(found, expected)
            greys += np.array_equal(found[..., 0], found[..., 2])
    assert 0 < greys < 16


def test_the_statistics_of_pictures_are_those_of_their_sources():
    """Golden: data.normalised, with the means and deviations of mix-bt's and solo-learn's code."""
    pixels = torch.full((1, 3, 8, 8), 51, dtype=torch.uint8)
    for name, mean, std in (("cifar", 0.4914, 0.2023), ("solo_cifar", 0.4914, 0.247),
                            ("tiny_imagenet", 0.480, 0.277), ("stl10", 0.43, 0.27),
                            ("imagenet", 0.485, 0.229)):
        found = data.normalised(pixels, torch.device("cpu"), torch.float64, name)[0, 0, 0, 0].item()
        assert found == pytest.approx((0.2 - mean) / std)


def test_crops_follow_the_key_and_leave_the_generator_alone(tmp_path):
    train, _ = layouts.split_pair(toys.image_tree(tmp_path / "set"))
    images = data.Images(train, 32, augment=True, seed=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = images[2, 3][0]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(images[2, 3][0], first)
    other = data.Images(train, 32, augment=True, seed=2)
    assert not any(torch.equal(first, changed) for changed in (images[3, 3][0], other[2, 3][0]))


def test_worker_count_changes_nothing(tmp_path):
    train, _ = layouts.split_pair(toys.image_tree(tmp_path / "set"))

    def epochs(workers):
        batches = data.TrainBatches(len(train), 4, seed=3)
        loader = data.loader(data.Images(train, 32, augment=True, seed=3), batches,
                             toys.context(tmp_path, tmp_path / "out", workers=workers))
        for batches.epoch in range(2):
            yield from data.batches_of(loader)

    for plain, parallel in zip(epochs(0), epochs(2), strict=True):
        assert all(torch.equal(one, two) for one, two in zip(plain, parallel))


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_is_named(tmp_path, workers):
    train, _ = layouts.split_pair(toys.image_tree(tmp_path / "set"))
    path = train.path(6)
    path.write_bytes(path.read_bytes()[:300])
    loader = data.loader(data.Images(train, 32, augment=False), data.OrderedBatches(len(train), 4),
                         toys.context(tmp_path, tmp_path / "out", workers=workers))
    with pytest.raises(ValueError, match=f"{path}: unreadable image") as caught:
        list(data.batches_of(loader))
    assert "\n" not in str(caught.value)


def sizes(count, batch_size, **settings):
    batches = data.TrainBatches(count, batch_size, 0, **settings)
    assert [len(batch) for batch in batches] == [batches.size(step) for step in range(len(batches))]
    return [len(batch) for batch in batches]


def test_a_last_batch_of_one_is_joined_to_the_one_before():
    assert sizes(13, 6) == [6, 6, 1] and sizes(13, 6, joined=True) == [6, 7]
    assert [sizes(count, 6, joined=True) for count in (1, 6, 7, 8)] == [[1], [6], [7], [6, 2]]
    assert sizes(2, 1, joined=True) == [1, 1]


@pytest.mark.parametrize("pad, sizes, last", [(False, (6, 6, 2), 14), (True, (6, 6, 3), 15)])
def test_ranks_together_see_the_batches_of_one(monkeypatch, pad, sizes, last):
    def epoch(rank, ranks):
        monkeypatch.setattr(data, "rank", lambda: rank)
        monkeypatch.setattr(data, "world_size", lambda: ranks)
        batches = data.TrainBatches(14, 6, seed=0, pad=pad)
        batches.epoch = 4
        return [[index for _, index in batch] for batch in batches], [batches.size(step) for step in range(3)]

    whole, _ = epoch(0, 1)
    assert sorted(sum(whole, [])) == list(range(14))
    parts = [epoch(rank, 3) for rank in range(3)]
    joint = [sum((batches[step] for batches, _ in parts), []) for step in range(3)]
    assert [len(batch) for batch in joint] == list(sizes) == parts[0][1]
    assert sum(joint, []) == (sum(whole, []) * 2)[:last]


def test_ordered_batches_cover_each_index_once(monkeypatch):
    found = []
    for number in range(3):
        monkeypatch.setattr(data, "rank", lambda: number)
        monkeypatch.setattr(data, "world_size", lambda: 3)
        found += [index for batch in data.OrderedBatches(11, 2) for _, index in batch]
    assert found == list(range(11))


def test_single_process_is_rank_zero_even_under_torchrun_variables(monkeypatch):
    monkeypatch.setenv("RANK", "1")  # of a torchrun whose group was never joined
    assert rank() == 1 and list(data.part(range(3))) == [0, 1, 2]
