"""The documentation site: Sphinx reads the Markdown pages and the docstrings."""

import dataclasses
import re
from pathlib import Path

from numpy.typing import ArrayLike
from sphinx.errors import SphinxError
from sphinx.util.typing import stringify_annotation

from fir_tf import __version__ as release
from fir_tf.cli.common import load_library
from fir_tf.settings import help_of

# What TensorFlow says at its import would stand between the builder's own messages.
load_library("fir_tf.training.loop")

project = "fir_tf"
author = "the fir_tf authors"
version = release
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# It is the first page's text, and what is shown where the folder is browsed.
exclude_patterns = ["README.md"]
html_theme = "furo"
html_title = f"fir_tf {release}"
html_show_copyright = False
# A flag keeps its two hyphens.
smartquotes = False
# Anchors of the headings, so that `page.md#heading` is a link that gets checked.
myst_heading_anchors = 3
# Names in docstrings stand in single backticks.
default_role = "code"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_default_options = {"members": True, "ignore-module-all": True}
autodoc_member_order = "bysource"
# Shapes and types in words stand in the docstrings; the annotations are in the signatures.
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

_EXTERNAL = re.compile(
    r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["']?(?:https?:)?//[^>]*>"""
)
_STYLE = re.compile(r"""(?:@import|url\()\s*["']?(?:https?:)?//[^;)]*""")


def _refuse_external(app, error):
    """Fails the build if a page would fetch something from another host."""
    if error or app.builder.name != "html":
        return
    for path in Path(app.outdir).rglob("*"):
        pattern = {".html": _EXTERNAL, ".css": _STYLE}.get(path.suffix)
        found = pattern and pattern.search(path.read_text(encoding="utf-8"))
        if found:
            raise SphinxError(f"{path} would fetch {found[0]!r} from another host")


def _name_array_like(app, what, name, obj, options, signature, returns):
    """Says ArrayLike where numpy's long union would stand."""
    union = stringify_annotation(ArrayLike, "smart")
    short = [text and text.replace(union, "ArrayLike") for text in (signature, returns)]
    return short[0], short[1]


def _list_flags(app, what, name, obj, options, lines):
    """Lists what the flags of an options class mean, as --help does."""
    if what == "class" and dataclasses.is_dataclass(obj):
        for field in dataclasses.fields(obj):
            if "help" in field.metadata:
                choices = ", ".join(
                    f"`{choice}`"
                    for choice in field.metadata["choices"] or ()
                    if choice and not field.metadata["part"]
                )
                lines += ["", f"`{field.name}`", f"   {help_of(field)}"]
                lines[-1] += f" One of {choices}." if choices else ""
                lines.append("")


def setup(app):
    """Connects what is done beside the build."""
    app.connect("autodoc-process-signature", _name_array_like)
    app.connect("autodoc-process-docstring", _list_flags)
    app.connect("build-finished", _refuse_external)
