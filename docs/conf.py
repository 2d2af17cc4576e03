# SPDX-License-Identifier: BSD-3-Clause
"""Sphinx: ``make docs`` builds these pages in build/docs, with warnings as errors."""

import hpcalloc

project = "hpcalloc"
author = copyright = "the hpcalloc contributors"
release = hpcalloc.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
]
html_theme = "furo"
html_title = f"hpcalloc {release}"
myst_heading_anchors = 3
autodoc_typehints = "none"  # the docstrings name types
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
# Links to files outside of docs/ (tests/test_recipes.py checks all links); types by a word that several classes have.
suppress_warnings = ["myst.xref_missing", "ref.python"]
highlight_language = "none"
