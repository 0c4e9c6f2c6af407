"""The pages: one Jinja environment, whose filters say numbers and pictures in one way everywhere."""

from __future__ import annotations

import base64
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from lesioncam.evaluation.metric import title_of
from lesioncam.reporting.comparison.rows import p_text, signed
from lesioncam.reporting.words.words import class_name, method_name, number


def render(template: str, **content: object) -> str:
    """A page of ``reporting/templates`` as HTML; a name that the template does not find is an error."""
    return _environment().get_template(template).render(content)


def data_uri(pixels: np.ndarray) -> str:
    """A picture, grey, colour or with transparency, as text that stands in the page itself.

    Example:
        >>> data_uri(np.zeros((2, 2), np.uint8))[:22]
        'data:image/png;base64,'
    """
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def program_version() -> str:
    """Of this program, as it is installed."""
    try:
        return version("lesioncam")
    except PackageNotFoundError:
        return "of unknown version"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lesioncam", "reporting/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "class_name": class_name,
        "grey_uri": lambda image: data_uri(np.asarray(Image.fromarray(image).convert("L"))),
        "method": method_name,
        "metric": title_of,
        "number": number,
        "p": p_text,
        "signed": signed,
        "uri": data_uri,
    }
    environment.globals["version"] = program_version()
    return environment
