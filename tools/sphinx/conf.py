"""Sphinx over nbdev's processed notebooks; tools/docs.py calls it."""
from configparser import ConfigParser
from pathlib import Path

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

ini = ConfigParser(delimiters="=")
ini.read(Path(__file__).resolve().parents[2] / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]

project = html_title = cfg["title"]
author = cfg["author"]
copyright = cfg["copyright"]
version = release = cfg["version"]
extensions = ["myst_nb"]
exclude_patterns = [".doctrees", "html", "jupyter_execute"]
nb_execution_mode = "off"
nb_output_stderr = "remove"
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables too
myst_enable_extensions = ["attrs_inline", "colon_fence", "dollarmath"]
myst_heading_anchors = 4
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
html_math_renderer = "mathml"  # in the page itself: no script from elsewhere


def visit_inline(self, node):
    self.body.append(tex2mathml(node.astext()))
    raise SkipNode


def visit_block(self, node):
    self.body.append(tex2mathml(node.astext(), as_block=True))
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
