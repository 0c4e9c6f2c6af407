"""The documentation site: the pages of this folder, and API pages from the docstrings. `make docs` builds it."""

from importlib.metadata import version as _version

project = "lesioncam"
copyright = "the lesioncam authors; for research only, not a medical device"  # noqa: A001 (Sphinx's own name)
release = version = _version("lesioncam")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = "lesioncam"
exclude_patterns = ["_templates"]
templates_path = ["_templates"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False}
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
default_role = "literal"  # single backquotes are code in our docstrings
# `batch` and the like are fields of several types, so that a short name may mean any of them.
suppress_warnings = ["ref.python"]
