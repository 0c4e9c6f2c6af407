"""The four panels of a case of the gallery."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lesioncam.errors import RunError
from lesioncam.reporting.figures.montage import HEAT, Row, read_row
from lesioncam.reporting.report.read import Case, read_run


def cases_of(run, group: str) -> list[Case]:
    return [case for case in read_run(run).evaluations[0].gallery if case.group == group]


def opaque(row: Row) -> bool:
    (panel,) = [panel for panel in row.panels if panel.title == HEAT]
    return bool(panel.layer[..., 3].any())


def test_a_healthy_image_is_cold_and_a_lesion_is_not(plain_run):
    assert [opaque(read_row(case)) for case in cases_of(plain_run, "healthy")] == [False]
    assert [opaque(read_row(case)) for case in cases_of(plain_run, "best")] == [True, True]


def test_a_case_whose_arrays_were_not_kept_has_no_panels(plain_run):
    (case,) = cases_of(plain_run, "healthy")
    assert read_row(replace(case, arrays=None)) is None


def test_a_class_that_the_arrays_lack_is_named(plain_run):
    (case,) = cases_of(plain_run, "healthy")
    with pytest.raises(RunError, match=r"'tumour'.*mass, ring"):
        read_row(replace(case, label="tumour"))
