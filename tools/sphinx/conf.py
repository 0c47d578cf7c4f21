"""Sphinx over nbdev's processed notebooks; tools/docs.py calls it."""
from configparser import ConfigParser
from pathlib import Path

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

ROOT = Path(__file__).resolve().parents[2]
ini = ConfigParser(delimiters="=")
ini.read(ROOT / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
site = f"{cfg['doc_host']}{cfg['doc_baseurl']}/"
GITHUB = (ROOT / "tools" / "sphinx" / "github.svg").read_text(encoding="utf-8")

project = html_title = cfg["title"]
author = cfg["author"]
copyright = cfg["copyright"]
version = release = cfg["version"]
extensions = ["myst_nb", "sphinx_copybutton", "sphinxext.opengraph"]
exclude_patterns = [".doctrees", "html", "jupyter_execute"]
nb_execution_mode = "off"
nb_output_stderr = "remove"
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables too
nb_mime_priority_overrides = [("html", "text/html", 0)]
myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "dollarmath"]
myst_heading_anchors = 4

html_theme = "furo"
html_baseurl = site
html_favicon = "static/favicon.svg"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_search_scorer = str(ROOT / "_proc" / "scorer.js")  # made by tools/docs.py
html_use_index = False  # the page `api` is the index of the library's names
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "source_repository": cfg["git_url"], "source_branch": cfg["branch"],
    "top_of_page_buttons": [],
    "light_css_variables": {"color-brand-primary": "#0a5a9c", "color-brand-content": "#0a5a9c",
                            "color-brand-visited": "#5b3f91",
                            "color-foreground-muted": "#5a5c63",
                            "color-sidebar-caption-text": "#30343b"},
    "dark_css_variables": {"color-brand-primary": "#7fc4ff", "color-brand-content": "#7fc4ff",
                           "color-brand-visited": "#c3a6ff",
                           "color-foreground-muted": "#a9adb5",
                           "color-sidebar-caption-text": "#e4e6ea"},
    "footer_icons": [{"name": "The project on GitHub", "url": cfg["git_url"], "html": GITHUB,
                      "class": ""}],
}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
html_math_renderer = "mathml"  # in the page itself: no script from elsewhere

ogp_site_url = site
ogp_site_name = cfg["title"]
ogp_image = f"{site}_static/card.png"
ogp_image_alt = "A ConvNeXt block beside a ResNet block"
ogp_use_first_image = False
ogp_social_cards = {"enable": False}  # one card for all pages
ogp_enable_meta_description = True
ogp_custom_meta_tags = ['<meta name="twitter:card" content="summary_large_image">',
                        '<meta property="og:image:width" content="1200">',
                        '<meta property="og:image:height" content="630">']

copybutton_selector = "div.cell_input div.highlight pre, section > div[class*=highlight-] pre"


def visit_inline(self, node):
    self.body.append(tex2mathml(node.astext()))
    raise SkipNode


def visit_block(self, node):
    self.body.append(tex2mathml(node.astext(), as_block=True))
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
