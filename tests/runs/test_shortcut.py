"""``shortcut.json`` as it is read."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lesioncam.errors import RunError
from lesioncam.evaluation.shortcut import Shortcut
from lesioncam.files import write_json
from lesioncam.runs.shortcut import ShortcutPanel


def test_what_evaluation_writes_is_read(tmp_path):
    image = np.zeros((20, 20), np.uint8)
    image[5:15, 5:15] = 200  # the body
    evidence = np.zeros((1, 20, 20))
    evidence[0, 3, 8], evidence[0, 8, 8] = 1.0, 3.0  # a quarter of it outside
    panel = Shortcut(("mass",))
    panel.add("a", "p", [1.0], evidence, image, scores=[2.0])
    write_json(tmp_path / "shortcut.json", panel.result())
    found = ShortcutPanel.read(tmp_path / "shortcut.json")
    assert (found.outside_body.share, found.outside_body.n, found.outside_body.alarming) == (0.25, 1, True)
    assert found.by_class["mass"]["outside_body"] == found.outside_body
    assert (found.images[0].image, found.images[0].label, found.images[0].outside) == ("a", "mass", 0.25)
    assert found.classifier_auroc["mass"].value is None  # of one class only


def test_a_damaged_panel_is_named(tmp_path):
    (tmp_path / "shortcut.json").write_text(json.dumps({"border": {"share": "much"}}))
    with pytest.raises(RunError, match=r"shortcut\.json is damaged \(border\.share"):
        ShortcutPanel.read(tmp_path / "shortcut.json")
