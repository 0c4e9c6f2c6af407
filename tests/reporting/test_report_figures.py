"""Every figure of the report as a file."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from lesioncam.reporting.report.html import write_report

pytestmark = pytest.mark.rendered


def test_every_figure_is_a_file(plain_run):
    report = write_report(plain_run).read_text()
    for split in ("test", "val"):
        folder = plain_run / "evaluate" / split / "figures"
        names = {path.stem for path in folder.glob("*.svg")}
        assert names == {path.stem for path in folder.glob("*.png")}
        assert {f"roc-{split}-0", f"reliability-{split}-0", f"controls-{split}-dice"} <= names
        assert all(f"{name}-" in report for name in names)
    assert (plain_run / "evaluate/test/figures/history-val_auroc.png").is_file()


def test_figures_hold_no_metadata_and_are_the_same_each_time(make_run):
    run = make_run()
    write_report(run)
    folder = run / "evaluate/val/figures"
    first = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    (folder / "roc-of-yesterday-0.svg").write_text("old")
    write_report(run)
    assert {path.name: path.read_bytes() for path in sorted(folder.iterdir())} == first
    for path in folder.glob("*.svg"):
        ET.fromstring(path.read_text())
        assert "<dc:date>" not in path.read_text()
        assert "var(--" not in path.read_text()
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            assert set(image.info) <= {"dpi"}
            assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
