"""gallery.csv comes back as it was; a class may be called "NA"."""

import pytest

from lesioncam.errors import RunError
from lesioncam.runs.gallery import Shown, read_gallery, write_gallery


def test_it_comes_back(tmp_path):
    rows = [Shown("a/1.png", "NA", "missed", "score 0.1; Dice 0", "a-1.npz"), Shown("b", "001", "healthy")]
    assert read_gallery(write_gallery(tmp_path / "gallery.csv", rows)) == rows
    assert read_gallery(write_gallery(tmp_path / "gallery.csv", [])) == []
    assert (tmp_path / "gallery.csv").read_text() == "image,class,group,reason,file\n"


def test_none_and_empty_show_nothing_and_others_are_named(tmp_path):
    path = tmp_path / "gallery.csv"
    assert read_gallery(path) == []
    path.write_text("")
    assert read_gallery(path) == []
    path.write_text("image,label\na,b\n")
    with pytest.raises(RunError, match=r"gallery\.csv cannot be read"):
        read_gallery(path)
