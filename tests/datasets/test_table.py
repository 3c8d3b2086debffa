"""Tables of landmarks as people, spreadsheets and Macs write them: what is clear is read, the rest refused by place."""

import math
import unicodedata

import numpy as np
import pytest
from PIL import Image

from ganseg import config, prepare, runs
from ganseg.datasets import table
from ganseg.datasets.loading import load_pictures
from ganseg.datasets.source import Source
from ganseg.errors import UserError

PICTURES = ["images/a.jpg", "images/b.JPG", "images/caf\u00e9.png", "images/l\nb.png", "images/sub/c.jpg"]
CAFE_OF_A_MAC = unicodedata.normalize("NFD", "caf\u00e9.png")


def read(root, text, encoding="utf-8"):
    (root / "landmarks.csv").write_bytes(text.encode(encoding))
    with Source(root) as source:
        return table.read_table(source, "landmarks.csv", PICTURES)


@pytest.mark.parametrize(("text", "encoding"), [
    ("file, split, nose_x, nose_y\nimages/a.jpg, train, 3.5, 4\nimages/b.JPG, test, , ", "utf-8"),
    ("File,Split,Nose_X,NOSE_y\nimages/a.jpg,Train,3.5,4\nimages/b.JPG,TEST,NaN,NA", "utf-8-sig"),
    ("file;split;nose_x;nose_y\r\nimages/a.jpg;train;3,5;4\r\nimages/b.JPG;test;;\r\n", "utf-8"),
    ("file\tsplit\tnose_x\tnose_y\nimages/a.jpg\ttrain\t3,5\t4\nimages/b.JPG\ttest\t\t", "utf-16"),
    ("file,split,nose_x,nose_y\na.jpg,train,3.5,4\nb.jpg,test,-,", "utf-16-le"),
    ("\n\nnose_x,nose_y,file,split,,\n\n3.5,4,./a,train,,\n,,,,,\n?,null,images\\b,test,,\n", "utf-8"),
    ('"file","split","nose_x","nose_y"\r"a.jpg", "train", "3.5", "4"\r"B.jpg","test","",""', "utf-8"),
])
def test_one_table_is_read_however_it_is_written(tmp_path, text, encoding):
    names, points, splits = read(tmp_path, text, encoding)
    assert names == ("nose",) and splits == {"images/a.jpg": "train", "images/b.JPG": "test"}
    assert points["images/a.jpg"] == [3.5, 4] and all(map(math.isnan, points["images/b.JPG"])) and len(points) == 2


@pytest.mark.parametrize(("name", "encoding"), [("caf\u00e9.png", "utf-8"), (CAFE_OF_A_MAC, "utf-8"),
                                                ("images/caf\u00e9", "cp1252")])
def test_names_of_accents_are_found_in_each_form_and_encoding(tmp_path, name, encoding):
    assert list(read(tmp_path, f"file,nose_x,nose_y\n{name},1,2", encoding)[1]) == ["images/caf\u00e9.png"]


@pytest.mark.parametrize(("name", "found"), [
    ("images/a.jpg", ["images/a.jpg"]), ("A.JPG", ["images/a.jpg"]), ("c", ["images/sub/c.jpg"]),
    ("sub\\c", ["images/sub/c.jpg"]), ('l\nb', ["images/l\nb.png"]), ("other/a.jpg", []), ("", []), ("d", []),
])
def test_a_name_means_the_picture_that_fits_best(name, found):
    assert table.match([name], PICTURES)[name] == found


def test_a_name_that_fits_several_pictures_alike_fits_none_for_sure():
    both = ["x/a.jpg", "y/a.jpg", "y/a.png"]
    found = table.match(["a", "x/a", "y/a.jpg", "a.png"], both)
    assert found == {"a": both, "x/a": both[:1], "y/a.jpg": both[1:2], "a.png": both[2:]}
    assert table.match(["a.jpg", "a"], both, "x/") == {"a.jpg": both[:1], "a": both[:1]}
    assert table.match(["a.png"], both, "x/") == {"a.png": []}  # one beside the table's folder is named in full


@pytest.mark.parametrize(("text", "sentence"), [
    ("file,nose_x,nose_y\n", "has a header and no more"),
    ("file,ear_x,nose_x,nose_y\na,1,2,3", "has the columns ear_x; allowed are file, split and pairs"),
    ("file,nose_x,nose_y,nose_Y\na,1,2,3", "has the columns nose_y, nose_y; allowed .* each once"),
    ("file,nose_x,nose_y,splt\na,1,2,train", "has the columns splt; allowed"),
    (",file,nose_x,nose_y\n0,a,1,2", "has the columns without a name; allowed"),
    ("file,nose_x,nose_y\na,1,2\nb,1", "line 3 has 2 cells, the header 3"),
    ("file,nose_x,nose_y\na,3,5,4,5", "line 2 has 5 cells, the header 3"),
    ('file,nose_x,nose_y\na,"3,5",4', "line 2 cannot be read: .*'3,5'"),
    ("file;nose_x;nose_y\na;1.234,5;4", "line 2 cannot be read: .*'1.234.5'"),
    ('file,nose_x,nose_y\n"a,1,2\nb,1,2\n', "cannot be read: unexpected end of data"),
    ('file,nose_x,nose_y\n"l\nb",1,2\na,x,2', "line 4 cannot be read: .*'x'"),
    ("file,nose_x,nose_y\na,1,2\n./images/a.jpg,1,2", "line 3 names ./images/a.jpg for the second time"),
    ('file,nose_x,nose_y\n"q\nq",1,2', "lacks 1 of 1 pictures of landmarks.csv, the first is q q"),
    ("file,split,nose_x,nose_y\na,valid,1,2", "line 2 has the split 'valid'; allowed are train and test"),
])
def test_what_is_not_clear_is_refused_by_column_or_line(tmp_path, text, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        read(tmp_path, text)
    assert "\n" not in str(error.value)


def test_a_name_of_several_pictures_is_refused_by_line(tmp_path):
    (tmp_path / "landmarks.csv").write_text("file,nose_x,nose_y\na,1,2")
    with Source(tmp_path) as source, pytest.raises(UserError, match="line 2 names a, which may be x/a.jpg or y/a.jpg"):
        table.read_table(source, "landmarks.csv", ["x/a.jpg", "y/a.jpg"])


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Opens the config of pictures of 60 x 40 with landmarks nose and ear, one line (x, y, x, y) a picture."""
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))

    def opened(*lines):
        rows = ["file,split,nose_x,nose_y,ear_x,ear_y"]
        for i, line in enumerate(lines):
            Image.new("RGB", (60, 40), (10 * i, 90, 0)).save(tmp_path / f"{i}.png")
            rows.append(f"{i}.png,train,{line}")
        Image.new("RGB", (60, 40)).save(tmp_path / "test.png")
        (tmp_path / "landmarks.csv").write_text("\n".join([*rows, "test.png,test,5,6,7,8"]))
        return config.load("folder", source=str(tmp_path), image_size=32)

    return opened


def shown(cfg):
    return np.isfinite(load_pictures(cfg, "train").landmarks.numpy()).all(axis=-1).tolist()


@pytest.mark.parametrize(("code", "said"), [
    ("-1,-1", "3 landmarks are at (-1, -1) or (0, 0) and count as missing.\n"),
    ("0,0", "3 landmarks are at (-1, -1) or (0, 0) and count as missing.\n"),
    ("NA,nan", ""),
])
def test_codes_of_missing_landmarks_are_missing_and_counted(opened, code, said, tmp_path, capsys):
    cfg = opened("1,2,3,4", f"{code},30,20", f"{code},{code}")
    assert shown(cfg) == [[True, True], [False, True], [False, False]] and capsys.readouterr().out == said
    run = runs.open_run("folder", "look", source=str(tmp_path), image_size=32)
    rows = prepare.count_pictures(run.cfg, prepare.build_cache(run))
    assert [(row["with landmarks"], row["landmarks missing in them"]) for row in rows] == [(2, 1), (2, 1), (1, 0)]


def test_what_a_code_is_does_not_depend_on_the_split(opened, tmp_path):
    cfg = opened("0,0,3,4", "1,2,30,20")
    table = tmp_path / "landmarks.csv"
    table.write_text(table.read_text().replace("5,6,7,8", "0,0,0,0"))
    assert shown(cfg) == [[False, True], [True, True]]


def test_a_landmark_in_the_corner_stays_where_it_may_be_one(opened, capsys):
    assert shown(opened("0,0,3,4", "1,2,30,20")) == [[True, True]] * 2
    assert capsys.readouterr().out == "1 landmarks are at (0, 0); where one is missing, leave its cells empty.\n"


@pytest.mark.parametrize(("lines", "sentence"), [
    (["0.1,0.2,0.3,0.4", "0.5,-1,1,0.4"], "all 4 landmarks lie between -1 and 1; x, y are expected in pixels of"),
    (["0.1,0.2,-1,-1"], "all 1 landmarks lie between 0.1 and 0.2; x, y are expected in pixels"),
    (["10,50,20,55", "5,45,8,58"], r"4 landmarks lie outside .* all lie inside with x and y exchanged\.$"),
    (["10,500,20,55"], r"2 landmarks lie outside .* expected in pixels of the picture\.$"),
])
def test_implausible_landmarks_are_refused_in_a_sentence(opened, lines, sentence):
    with pytest.raises(UserError, match=sentence):
        shown(opened(*lines))


def test_a_landmark_that_is_the_same_everywhere_is_said(opened, capsys):
    shown(opened("10,20,1,2", "10,20,3,4", "10,20,5,6"))
    assert capsys.readouterr().out == "The landmark nose is at (10, 20) in all 3 pictures; look whether it is right.\n"
