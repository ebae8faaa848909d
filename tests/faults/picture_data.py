"""Data as people have it: layouts of the known sets, their damages, and the splits that must not be mixed.

CASES has (name, builder, promise). The builder writes the data into a folder and returns what a command is
given (None: the folder itself). The name's first word says who reads it:

    pretrain    open_source; promise: the pictures it takes, or a part of the one-line error
    transfer    split_pair; promise: the pictures of train and val, or a part of the error
"""
import io
import json
import os
import tarfile
from functools import cache
from pathlib import Path

from PIL import Image


@cache
def png(number: int = 0) -> bytes:
    """A picture file of 8 x 8 pixels."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, 40, 200)).save(file, "PNG")
    return file.getvalue()


def put(root: Path, *names: str, data: bytes | None = None) -> None:
    """Write files, pictures unless data is given."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(number) if data is None else data)


def pictures(*names: str, **texts: str):
    """A builder of pictures, `folder/*3` for three of them, and of text files, `name__txt=...` for name.txt
    with / for ___."""
    def build(root):
        for name in names:
            folder, _, count = name.partition("/*")
            put(root, *([f"{folder}/{number}.png" for number in range(int(count))] if count else [name]))
        for name, text in texts.items():
            put(root, name.replace("___", "/").replace("__", "."), data=text.encode())
    return build


def both(*builders, give: str = ""):
    """A builder that calls others and gives a part of the folder."""
    def build(root):
        for one in builders:
            one(root)
        return root / give
    return build


def tar(path: Path, *names: str, label: bytes = b"1") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, name in enumerate(names):
            for ending, data in (("png", png(number)), ("cls", label)):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def tars(**counts: int):
    """A builder of shards; __ in a name stands for -, ___ for /."""
    def build(root):
        for name, count in counts.items():
            name = name.replace("___", "/").replace("__", "-")
            tar(root / f"{name}.tar", *(f"{Path(name).stem}{number}" for number in range(count)))
    return build


def parquets(**counts: int):
    """A builder of parquet files, named as shards are."""
    def build(root):
        import pyarrow
        from pyarrow import parquet
        for name, count in counts.items():
            path = root / f"{name.replace('___', '/').replace('__', '-')}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(pyarrow.table({"image": [png(number) for number in range(count)],
                                               "label": list(range(count))}), path)
    return build


def kaggle(root):
    for split, names in (("train", ["n01/n01_1", "n02/n02_1", "n02/n02_2"]), ("val", ["ILSVRC2012_val_1", (
            "ILSVRC2012_val_2")]), ("test", ["ILSVRC2012_test_1"])):
        put(root, *(f"ILSVRC/Data/CLS-LOC/{split}/{name}.JPEG" for name in names))
        put(root, f"ILSVRC/ImageSets/CLS-LOC/{split}.txt", data=b"1\n")
        put(root, f"ILSVRC/Annotations/CLS-LOC/{split}/1.xml", data=b"<a/>")
    put(root, "LOC_val_solution.csv", data=b"ImageId,PredictionString\r\nILSVRC2012_val_2,n01 1 2 3 4\r\n"
        b"ILSVRC2012_val_1,n02 1 2 3 4 n02 5 6 7 8\r\n")


def link(root, name, target):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).symlink_to(target)


def voc(root):
    put(root, *(f"JPEGImages/{number}.jpg" for number in range(5)))
    for split, numbers in (("train", "0\n"), ("val", "1\n"), ("trainval", "0\n1\n"), ("test", "2\n3\n4\n")):
        put(root, f"ImageSets/Main/{split}.txt", data=numbers.encode())


def inat(root, change=None, train="train2018", val="val2018", folder="train_val2018"):
    """Two classes of two and one pictures. change: a function of (split, content)."""
    for split, name, count in (("train", train, 2), ("val", val, 1)):
        images = [{"id": number, "file_name": f"{folder}/Aves/{number % 2}/{split}{number}.jpg"}
                  for number in range(2 * count)]
        content = {"images": images, "categories": [{"id": 7}, {"id": 90}], "annotations": [
            {"image_id": image["id"], "category_id": (7, 90)[image["id"] % 2]} for image in images]}
        put(root, *(image["file_name"] for image in images))
        if change:
            change(split, content)
        put(root, f"{name}.json", data=json.dumps(content).encode())


def changed_inat(change, **names):
    """A builder of an iNaturalist set whose train list was changed."""
    return lambda root: inat(root, lambda split, content: split == "train" and change(content), **names)


def places365(root):
    put(root, "data_256/a/abbey/1.jpg", "data_256/a/arch/outdoor/1.jpg", "val_256/Places365_val_1.jpg",
        "val_256/Places365_val_2.jpg", "test_256/Places365_test_1.jpg")
    put(root, "places365_train_standard.txt", data=b"/a/abbey/1.jpg 0\n/a/arch/outdoor/1.jpg 1\n")
    put(root, "places365_val.txt", data=b"Places365_val_2.jpg 0\nPlaces365_val_1.jpg 1\n")


def places205(root):
    folder = "data/vision/torralba/deeplearning/images256"
    put(root, *(f"{folder}/{name}/{number}.jpg" for name in ("a/abbey", "b/bar") for number in (1, 2, 3)))
    for split, number in (("train", 1), ("val", 2)):
        lines = f"a/abbey/{number}.jpg 0\nb/bar/{number}.jpg 1\n"
        put(root, f"trainvalsplit_places205/{split}_places205.csv", data=lines.encode())


def lists(train: str | bytes, val: str | bytes = "img/c 1.png 0\nimg/d.png 1\n"):
    """A builder of train.txt and val.txt beside six pictures, whose names have blanks."""
    def build(root):
        put(root, *(f"img/{name}.png" for name in ("a 1", "b", "c 1", "d", "e, 5", "f")))
        for name, text in (("train", train), ("val", val)):
            put(root, f"{name}.txt", data=text if isinstance(text, bytes) else text.encode())
    return build


def fifo(name):
    return lambda root: os.mkfifo(root / name)


def sparse(name, size):
    """A builder of a file of that many bytes, all of them holes."""
    def build(root):
        with open(root / name, "wb") as file:
            file.truncate(size)
    return build


def flat_val(table: str = "", text: str = ""):
    """A builder of three classes whose validation pictures lie together."""
    def build(root):
        put(root, "train/n01/1.JPEG", "train/n02/1.JPEG", "train/n03/1.JPEG",
            *(f"val/ILSVRC2012_val_{number}.JPEG" for number in (1, 2, 3)))
        if table:
            put(root, table, data=text.encode())
    return build


GOOD = pictures("train/cat/*2", "train/dog/*3", "val/cat/*1", "val/dog/*1")
PLACES = pictures("train/a/abbey/*1", "train/a/arch/outdoor/*2", "train/b/bar/*1", "val/a/abbey/*1",
                  "val/a/arch/outdoor/*1", "val/b/bar/*1")
SOLUTION = "ImageId,PredictionString\nILSVRC2012_val_3,n01 0 0 1 1\nILSVRC2012_val_1,n02 0 0 1 1 n02 2 2 3 " \
    "3\nILSVRC2012_val_2,n03 1 1 2 2\n"
TINY = "0.png\tn02\t0\t0\t1\t1\n1.png\tn01\t0\t0\t1\t1\n"
CAFFE = "ILSVRC2012_val_1.JPEG 2\nILSVRC2012_val_2.JPEG 0\nILSVRC2012_val_3.JPEG 1\n"

PRETRAIN = (
    ("train and val", GOOD, 5),
    ("train, val and test", both(GOOD, pictures("test/*4")), 5),
    ("train without val", pictures("train/cat/*2"), 2),
    ("train beside annotations", both(pictures("train/cat/*2"), pictures(annotations___a__json="{}")), 2),
    ("one level up", pictures("mine/train/cat/*2", "mine/val/cat/*1"), 2),
    ("kaggle root", kaggle, 3),
    ("kaggle folder", both(kaggle, give="ILSVRC/Data/CLS-LOC"), 3),
    ("kaggle train", both(kaggle, give="ILSVRC/Data/CLS-LOC/train"), 3),
    ("fastai", pictures("imagenette2/train/a/*2", "imagenette2/val/a/*1"), 2),
    ("other words", pictures("training/a/*2", "validation/a/*1", "testing/a/*1"), 2),
    ("capitals", pictures("Train/a/*2", "Test/a/*1"), 2),
    ("roboflow", pictures("train/a/*2", "valid/a/*1", "test/a/*1"), 2),
    ("only val and test", pictures("val/a/*2", "test/a/*1"), "has test, val but no train; expected"),
    ("a class called val", pictures("cat/*2", "dog/*2", "val/*1"), "has val but no train; expected"),
    ("coco", both(pictures("train2017/*4", "val2017/*2", "test2017/*3"),
                           pictures(annotations___instances_val2017__json="{}")), 4),
    ("coco and unlabeled", pictures("train2017/*4", "val2017/*2", "unlabeled2017/*3"),
     "expected one folder to train on, found train2017, unlabeled2017, val2017; give one of them, as "),
    ("coco of two years", pictures("train2014/*1", "train2017/*1", "val2017/*1"),
     "expected one folder to train on, found train2014, train2017, val2017"),
    ("coco by names", pictures("images/COCO_train2014_0001.png", "images/COCO_val2014_0002.png"),
     "images: expected pictures to train on, found by their names COCO_train_, COCO_val_ together"),
    ("stl10", pictures("train/a/*1", "unlabeled/*3", "test/a/*2"),
     "expected one folder to train on, found test, train, unlabeled; give one of them, as "),
    ("unlabeled and test", pictures("unlabeled/*3", "test/a/*2"), 3),
    ("cars", pictures("cars_train/*3", "cars_test/*2"), 3),
    ("ilsvrc tars unpacked", pictures("ILSVRC2012_img_train/n01/*3", "ILSVRC2012_img_val/*2"), 3),
    ("train_images", pictures("train_images/*3", "test_images/*2"), 3),
    ("inat21", pictures("train/00000_a/*3", "train_mini/00000_a/*1", "val/00000_a/*2"), 3),
    ("yolo", pictures("images/train/*3", "images/val/*2", labels___train___0__txt="0"), 3),
    ("splits in each class", pictures("a/train/*2", "a/test/*1", "b/train/*2", "b/test/*1"),
     "expected one data set, found the splits test, train in a and more in b/test; give the folder"),
    ("a folder of data sets", both(pictures("coco/train2017/*1", "coco/val2017/*1"), pictures(
        "imagenet/train/a/*1", "imagenet/val/a/*1")), "expected one data set, found the splits train2017, "
     "val2017 in coco and more in imagenet/train/a; give the folder to train on"),
    ("a vehicle", pictures("bus/*2", "car/*3", "train/*4"), 9),
    ("a vehicle with folders", pictures("bus/red/*2", "train/fast/*4"), 6),
    ("a vehicle in train", pictures("train/bus/*2", "train/train/*4", "val/bus/*1", "val/train/*1"), 6),
    ("a vehicle deeper", pictures("land/car/*2", "land/train/*2", "air/kite/*1"), 5),
    ("a vehicle or a split", pictures("extra/a/*2", "extra/b/*2", "train/a/*2", "train/b/*1"),
     "expected a split or a class called train, found folders in it that are called as in extra; give "),
    ("holdout", pictures("holdout/a/*2", "train/a/*3"), 3),
    ("dogs and cats", pictures("train/train/*3", "test1/test1/*2"), 3),
    ("bullet trains", pictures("bullet_train/*2", "steam_train/*2", "crane/*1"), 5),
    ("a folder called val", both(GOOD, give="val"), 2),
    ("without classes", pictures("0.png", "1.png"), 2),
    ("places365", places365, 2),
    ("places365 without lists", pictures("data_256/a/abbey/*2", "val_256/*1"),
     "has val_256 but no train; expected DATA/train/<class>/<picture>, or the folder to train on, as "),
    ("places205", places205, 2),
    ("places205's folder", both(places205, give="data/vision/torralba/deeplearning/images256"),
     "train_places205.csv, which says which of them are; give "),
    ("inat18", inat, 4),
    ("inat18's folder", both(inat, give="train_val2018"), "train2018.json, which says which of them are"),
    ("inat18 without lists", pictures("train_val2018/Aves/*2"), "has train_val2018 but no train"),
    ("lists", lists("img/a 1.png 0\nimg/b.png 1\n"), 2),
    ("lists' folder", both(lists("img/a 1.png 0\n"), give="img"), "train.txt, which says which of them"),
    ("voc", voc, 2),
    ("voc's folder", both(voc, give="JPEGImages"), "ImageSets/Main, which says which of them are"),
    ("vocdevkit", lambda root: voc(root / "VOC2007"), "VOC2007/ImageSets/Main/test.txt as well, which lists"),
    ("food101", both(pictures("images/pie/*2", meta___test__txt="pie/1")), "meta/test.txt as well, which"),
    ("archives beside folders", both(GOOD, tars(ILSVRC2012_img_val=2)), 5),
    ("hub", parquets(data___train__00000__of__00001=3, data___validation__00000__of__00001=2,
                              data___test__00000__of__00001=1), 3),
    ("hub, a folder a split", parquets(train___0000=3, test___0000=2), 3),
    ("hub, one config", parquets(default___train___0000=3, default___test___0000=2), 3),
    ("hub, two configs", parquets(big___train__0=1, small___train__0=2), "expected one kind of data in one "
     "folder, found .parquet files in big, small; give the folder to train on"),
    ("hub, two configs with splits", parquets(big___train___0=1, big___test___0=1, small___train___0=2,
                                                       small___test___0=1),
     "expected one data set, found the splits"),
    ("hub, names around", parquets(mnist__train__00=3, mnist__test__00=2), 3),
    ("hub, two configs in names", parquets(big__train__00=3, small__train__00=2, big__test__00=1),
     "expected files of train, found big-test-00.parquet, big-train-00.parquet, small-train-00.parquet and"),
    ("hub, pictures of the readme", both(
        parquets(data___train__00=3, data___test__00=1), pictures("assets/*2", "logo.png")), 3),
    ("a picture beside the splits", both(GOOD, pictures("logo.png")), 5),
    ("a picture above the splits", pictures("mine/train/a/*2", "mine/val/a/*1", "logo.png"), 2),
    ("hub, names with hashes", parquets(
        train__00000__of__00002__a09b74b3ef9c3b56=3, train__00001__of__00002__cdee33c1f1d2ab9e=2,
        test__00000__of__00001__33c1f1d2ab9ec8b9=1), 5),
    ("hub, without train", parquets(data___validation__00=2, data___test__00=1),
     "data: expected files of train, found test-00.parquet and the like; put those"),
    ("hub, one file of val", both(parquets(validation__00=2), give="validation-00.parquet"), 2),
    ("wds", tars(imagenet1k__train__0000=3, imagenet1k__train__0001=3, imagenet1k__validation__00=2), 6),
    ("wds, a folder a split", tars(train___0000=3, val___0000=2), 3),
    ("wds, only val", tars(val__0=2, val__1=2), "expected files of train, found val-0.tar and the like"),
    ("wds, val's own folder", both(tars(val___val__0=2), give="val"), 2),
    ("wds, no split", tars(shard__0=2, shard__1=2), 4),
    ("wds, test beside others", tars(shard__0=2, test__1=2), "expected files of train, found shard-0.tar"),
    ("wds, train and unlabeled", tars(train__0=2, unlabeled__1=2), "expected files of train, found train-0"),
    ("splits within a shard", lambda root: tar(root / "all.tar", "train/a/1", "val/a/2"),
     "all.tar: expected pictures to train on, found the splits train, val in it"),
    ("shards and pictures", both(tars(train__0=2), pictures("a/*2")), "found .tar files and pictures in"),
    ("hidden files", both(GOOD, pictures(
        "train/cat/._0.png", "train/.ipynb_checkpoints/0.png", "__MACOSX/train/cat/._0.png",
        ".cache/a/0.png")), 5),
    ("a link to nothing", lambda root: (GOOD(root), link(root, "train/cat/9.png", "nowhere")),
     "train/cat/9.png: expected a file, found a broken link; remove it"),
    ("a fifo", both(GOOD, fifo("train/cat/x.jpg")), "train/cat/x.jpg: expected a file, found a pipe"),
    ("a fifo for a list", both(fifo("x.txt"), give="x.txt"), "x.txt: unknown kind of data"),
    ("a list of a terabyte", both(sparse("x.txt", 2 ** 40), give="x.txt"), "x.txt: expected a list of at "),
    ("a list with a missing picture", both(lists("img/b.png\nimg/z.png\n"), give="train.txt"),
     "train.txt: 1 of 2 listed images are missing, first "),
)
TRANSFER = (
    ("folders", GOOD, (5, 2)),
    ("validation", pictures("train/a/*2", "validation/a/*1"), (2, 1)),
    ("kaggle", kaggle, (3, 2)),
    ("flat val", flat_val(), "val: expected folders of classes, found 3 pictures directly in it; put Kaggle"),
    ("flat val, kaggle's list", flat_val("LOC_val_solution.csv", SOLUTION), (3, 3)),
    ("flat val, caffe's list", flat_val("val.txt", CAFFE), (3, 3)),
    ("flat val, mmpretrain's list", flat_val("meta/val.txt", CAFFE), (3, 3)),
    ("flat val, a list too short", flat_val("val.txt", CAFFE[:48]), "val.txt: 1 pictures are not listed"),
    ("flat val, a list too long", flat_val("val.txt", CAFFE + "z.JPEG 1"), "1 listed pictures are missing"),
    ("flat val, unknown class", flat_val("val.txt", CAFFE.replace(" 1", " 9")), "1 classes are not in train"),
    ("tiny imagenet", pictures("train/n01/images/*2", "train/n02/images/*1", "val/images/*2",
                                        val___val_annotations__txt=TINY),
     (3, 2)),
    ("places in letters", PLACES, (4, 3)),
    ("places365", places365, (2, 2)),
    ("places205", places205, (2, 2)),
    ("inat18", inat, (4, 2)),
    ("inat17", lambda root: inat(root, None, "train2017", "val2017", "train_val_images"), (4, 2)),
    ("inat21", lambda root: inat(root, None, "train", "val", "all"), (4, 2)),
    ("inat21 mini", lambda root: inat(root, None, "train_mini", "val", "all"), (4, 2)),
    ("inat, two annotations", changed_inat(lambda content: content["annotations"].append(
        {"id": 9, "image_id": 1, "category_id": 7})),
     "expected one annotation of image train_val2018/Aves/1/train1.jpg, found two"),
    ("inat, no annotation", changed_inat(lambda content: content["annotations"].pop()),
     "expected an annotation of image train_val2018/Aves/1/train3.jpg, found none"),
    ("inat, an image's id twice", changed_inat(lambda content: content["images"].append(
        content["images"][0])), "train2018.json: expected one image 0, found two"),
    ("inat, a file twice", changed_inat(lambda content: content["images"][1].update(
        file_name=content["images"][0]["file_name"])), "train_val2018/Aves/0/train0.jpg is listed twice"),
    ("inat, unknown image", changed_inat(lambda content: content["annotations"].append(
        {"id": 9, "image_id": 77, "category_id": 7})), "expected an entry of image 77, found none"),
    ("inat, unknown category", changed_inat(lambda content: content["annotations"][0].update(
        category_id=5)), "expected an entry of category 5, found none"),
    ("inat, no id", changed_inat(lambda content: content["images"][0].pop("id")),
     "train2018.json: not iNaturalist's json (KeyError: 'id')"),
    ("inat, a list", lambda root: put(root, "train2018.json", data=b"[1]"), "not iNaturalist's json (Ty"),
    ("inat, nested too deep", lambda root: put(root, "train2018.json", data=b"[" * 99999),
     "not iNaturalist's json ("),
    ("lists", lists("img/a 1.png 0\nimg/b.png 1\n"), (2, 2)),
    ("lists with tabs", lists("img/a 1.png\t0\nimg/b.png\t1\n"), (2, 2)),
    ("lists with commas and a header", lists('path,label\n"img/e, 5.png",0\nimg/b.png,1\n'), (2, 2)),
    ("lists of windows", lists(b"\xef\xbb\xbfimg/a 1.png 0\r\nimg/b.png 1\r\n"), (2, 2)),
    ("lists in utf-16", lists("img/a 1.png 0\n".encode("utf-16")), "train.txt: expected a text list in UTF"),
    ("lists without labels", lists("img/a 1.png\nimg/b.png\n"), "train.txt:1: expected `PATH LABEL`"),
    ("lists from 1", lists("img/a 1.png 1\nimg/b.png 2\n", "img/c 1.png 1\nimg/d.png 2\n"),
     "expected images of all 3 classes, 1 have none, first 0"),
    ("lists with a huge label", lists("img/a 1.png 0\nimg/b.png 99999999999\n"),
     "expected class numbers up to 1,000,000, found 99999999999"),
    ("lists, missing picture", lists("img/a 1.png 0\nimg/z.png 1\n"), "train.txt: 1 of 2 listed images are "),
    ("lists, a picture twice", lists("img/b.png 0\nimg/b.png 1\n"), "train.txt: img/b.png is listed twice"),
    ("lists, a picture of train in val", lists("img/a 1.png 0\nimg/b.png 1\n", "img/b.png 1\nimg/d.png 0\n"),
     "expected other images than in "),
    ("one folder twice", lambda root: (pictures("train/a/*2")(root), link(root, "val", "train")),
     "expected other images than in "),
    ("a class of val alone", both(GOOD, pictures("val/eel/*1")), "expected the 2 classes of "),
    ("a class of train alone", both(GOOD, pictures("train/eel/*1")), "first that only one has: eel"),
    ("an empty class", both(GOOD, pictures(train___eel___note__txt="")), "1 of 3 class folders hold no "
     "picture, first eel"),
    ("other endings", pictures("train/a/1.JPEG", "train/a/2.jpeg", "train/a/3.PNG", "train/b/4.webp", (
        "train/b/5.BMP"), "train/b/6.ppm", "train/b/7.gif", "val/a/1.TIFF", "val/b/1.Jpg"), (6, 2)),
    ("hidden files", both(GOOD, pictures(
        "train/cat/._0.png", "train/.ipynb_checkpoints/0.png", "train/__MACOSX/cat/0.png",
        "val/cat/.DS_Store", "val/cat/Thumbs.db", "val/@eaDir/0.png",
        "train/dog/.ipynb_checkpoints/0-checkpoint.png")), (5, 2)),
    ("linked folders", lambda root: (
        GOOD(root / "disk"), link(root, "train", "disk/train"), link(root, "val", "disk/val")), (5, 2)),
    ("a link around", lambda root: (GOOD(root), link(root, "train/cat/more", "..")),
     "train/cat/more: expected a folder, found a link to a folder that it lies in"),
    ("a fifo", both(GOOD, fifo("train/cat/x.jpg")), "train/cat/x.jpg: expected a file, found a pipe"),
    ("a fifo for a list", both(lists(""), lambda root: (root / "val.txt").unlink(), fifo("val.txt"), lambda
     root: put(root, "train.txt", data=b"img/b.png 0\n")), "val.txt: expected a list, found a pipe"),
    ("a fifo in a list", both(lists("img/b.png 0\nimg/z.png 1\n"), fifo("img/z.png")), "1 of 2 listed "),
    ("a json of a terabyte", sparse("train2018.json", 2 ** 40), "train2018.json: expected a list of at most"),
)
CASES = (*((f"pretrain {name}", build, promise) for name, build, promise in PRETRAIN),
         *((f"transfer {name}", build, promise) for name, build, promise in TRANSFER))
