"""Sphinx's settings for the book; `docs/book.py` puts the pages together and calls it."""

from latex2mathml import converter
from sphinx.application import Sphinx

project = "vsr"
author = "The vsr companion's authors"
copyright = "Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
myst_enable_extensions = ["attrs_inline", "colon_fence", "dollarmath"]
myst_heading_anchors = 2
nb_execution_mode = "off"  # what is shown was executed by `vsr run`
nb_render_markdown_format = "gfm"
nb_ipywidgets_js = {}  # nothing here is a widget, and no page asks a network for anything
default_role = "code"  # docstrings put code between single backticks
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False}
add_module_names = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 80
html_theme = "furo"
html_title = "vsr"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_math_renderer = "mathml"


def _inline(page, node) -> None:
    page.body.append(converter.convert(node.astext()))


def _block(page, node) -> None:
    page.body.append(converter.convert(node.astext(), display="block"))


def _nothing(page, node) -> None:
    """Everything was written on the way in."""


def setup(app: Sphinx) -> None:
    """Formulas as MathML, which browsers draw without a script."""
    app.add_html_math_renderer("mathml", (_inline, _nothing), (_block, _nothing))
