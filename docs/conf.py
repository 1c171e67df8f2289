"""The documentation as a site: `make docs`. Its source is the repository, so that links between files hold in both."""

import mi_sweeps

project = "mi-sweeps"
copyright = "2026, the mi-sweeps authors"
release = mi_sweeps.__version__

root_doc = "docs/index"
include_patterns = [
    *("README.md", "docs/**", "benchmarks/README.md", "examples/README.md"),
    "mi_sweeps/models/mini/weights/README.md",
]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = "mi-sweeps"
highlight_language = "text"  # most blocks are commands with their output

myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_preserve_defaults = True
