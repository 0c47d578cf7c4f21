"""The built site in a real browser: every page, flipbooks, search, dark mode. `make docs` first."""
import os
import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from PIL import Image

SITE = Path(__file__).resolve().parent.parent / "_docs"
PAGES = sorted(path.name for path in SITE.glob("*.html")) if SITE.is_dir() else []
if not PAGES: pytest.skip("the site is not built: make docs", allow_module_level=True)
SERIOUS = ("serious", "critical")
# axe-core takes seconds a page: these show everything that pages have. AXE=all: every page.
FEW = ("index.html", "cost.html", "live.html", "search.html")
AXE_PAGES = PAGES if os.environ.get("AXE") == "all" else FEW


def test_the_pages_for_axe_exist():
    assert set(FEW) <= set(PAGES)


@pytest.fixture(scope="module")
def axe() -> str:
    "The script of axe-core."
    package = pytest.importorskip("axe_playwright_python")
    return (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tab(browser):
    "One tab; what went wrong in it is in `wrong`."
    tab = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="light")
    tab.wrong = []
    tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
    tab.on("console", lambda m: tab.wrong.append(m.text) if m.type in ("error", "warning") else 0)
    tab.on("requestfailed", lambda request: tab.wrong.append(f"failed: {request.url[:200]}"))
    tab.on("request", lambda request: tab.wrong.append(f"foreign: {request.url[:200]}")
           if not request.url.startswith(("file:", "data:", "blob:")) else None)
    yield tab
    tab.close()


AXE = """rules => {
  const seen = new Set();  // one token of each kind is enough: they look alike in all code
  for (const token of document.querySelectorAll("pre span")) {
    const kind = token.parentElement.parentElement.className + token.className;
    if (seen.has(kind)) token.dataset.seen = ""; else seen.add(kind);
  }
  const runOnly = rules || ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"];
  const options = {resultTypes: ["violations"], preload: false, runOnly};
  const exclude = [["[data-seen]"], ...window.name === "again" ? [[".sidebar-drawer"]] : []];
  return axe.run({include: [["html"]], exclude}, options).then(found => found.violations);
}"""


def findings(tab, rules=None) -> list[str]:
    "axe-core's serious and critical findings: rule, and the first place."
    return [f"{f['id']} ({len(f['nodes'])}): {f['nodes'][0]['html'][:150]}"
            for f in tab.evaluate(AXE, rules) if f["impact"] in SERIOUS]


@pytest.mark.parametrize("name", PAGES)
def test_page(tab, axe, name):
    tab.wrong.clear()
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.emulate_media(color_scheme="light")
    tab.goto((SITE / name).as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390, "wider than a phone"
    assert tab.title() and (tab.query_selector("meta[name=description]") or name == "search.html")
    tab.set_viewport_size({"width": 1280, "height": 800})
    if name not in AXE_PAGES:
        assert tab.wrong == []
        return
    tab.evaluate(axe)
    light = findings(tab)
    if name == "live.html":  # so far the network was on its way
        tab.wait_for_selector("html[data-ready=ran]", timeout=30_000)
        light += findings(tab)
    tab.emulate_media(color_scheme="dark")
    dark = findings(tab, ["color-contrast"])
    tab.evaluate("window.name = 'again'")  # the sidebar, the same on every page, was seen
    assert (light, dark, tab.wrong) == ([], [], [])


def test_every_picture_says_what_is_seen():
    from docs import Links  # the parser of the link check knows the tags

    class Pictures(Links):
        def handle_starttag(self, tag, attrs):
            if tag == "img": found.append(dict(attrs).get("alt"))

    total = 0
    for name in PAGES:
        found = []
        Pictures(SITE / name)
        total += len(found)
        bad = [alt for alt in found if alt in (None, "figure", "a view", "a drawing without words")
               or re.match(r"\S*/\S+\.\w+$", alt)]
        assert not bad, f"{name}: {bad[:5]}"
    assert total > 50


def test_flipbook_turns_by_key_and_button_and_stays_after_back(tab):
    tab.goto((SITE / "explore.html").as_uri())
    book = tab.locator(".flipbook").first
    slider = book.locator("input").first
    shown = book.locator(".page:visible")
    first = shown.inner_html()
    slider.focus()
    tab.keyboard.press("Home")
    tab.keyboard.press("ArrowRight")
    assert shown.inner_html() != first
    said = slider.get_attribute("aria-valuetext")
    assert book.locator("output").first.inner_text() == said
    book.locator(".turn button").nth(1).click()
    third = slider.get_attribute("aria-valuetext")
    assert third != said and shown.count() == 1
    page = shown.inner_html()
    tab.goto((SITE / "index.html").as_uri())
    tab.go_back()
    tab.wait_for_load_state("load")
    assert slider.get_attribute("aria-valuetext") == third and shown.inner_html() == page


@pytest.mark.parametrize("words, page", [
    ("drop path", "layers.html"), ("convnext_tiny", "convnext.html"),
    ("layer scale", "layers.html")])
def test_search_finds_where_it_is_taught(tab, words, page):
    tab.goto((SITE / "search.html").as_uri() + f"?q={words.replace(' ', '+')}")
    tab.wait_for_selector("#search-results li a")
    tab.wait_for_timeout(300)
    found = tab.eval_on_selector_all("#search-results li a", "all => all.map(a => a.href)")
    assert any(page in link for link in found[:6]), found[:8]


@pytest.mark.parametrize("words, page", [
    ("layer norm", "layers.html"), ("layer scale", "layers.html"), ("live", "live.html"),
    ("play", "live.html"), ("receptive field", "inverted.html")])
def test_search_puts_the_page_that_teaches_it_first(tab, words, page):
    tab.wrong.clear()
    tab.goto((SITE / "search.html").as_uri() + f"?q={words.replace(' ', '+')}")
    tab.wait_for_function("Search.title && Search.title.innerText === 'Search Results'")
    first = tab.get_attribute("#search-results li a >> nth=0", "href")
    assert first.partition("#")[0] == page
    assert tab.wrong == []  # a file asks for no other file


def test_search_shows_sentences_of_a_page(tab):
    tab.goto((SITE / "search.html").as_uri())
    page = ('<div role="main"><h1>Norms</h1><p class="chapter-links"><a>Open in Colab</a></p>'
            "<svg><desc>batch norm, ReLU</desc></svg><p>A year after</p><p>that</p></div>")
    shown = tab.evaluate("page => Search.htmlToText(page)", page)
    assert shown.split() == ["Norms", "A", "year", "after", "that"]


def test_the_live_page_stands_first_in_the_sidebar(tab):
    tab.goto((SITE / "cost.html").as_uri())
    assert tab.locator(".sidebar-tree a").first.get_attribute("href") == "live.html"
    tab.goto((SITE / "live.html").as_uri())
    assert tab.locator(".book a[href='index.html']").count() == 1
    tab.wait_for_selector("html[data-ready=ran]", timeout=30_000)
    before = tab.evaluate("document.documentElement.dataset.theme")
    tab.click("#theme")
    assert tab.evaluate("document.documentElement.dataset.theme") != before
    tab.evaluate("localStorage.clear()")


def test_the_front_page_turns_a_step_back(tab):
    tab.goto((SITE / "index.html").as_uri())
    first = tab.locator("article p", has_text="A ConvNeXt is").bounding_box()
    assert first["y"] < tab.locator(".front-morph").bounding_box()["y"]
    buttons = tab.locator(".front-morph button")
    now = "document.querySelector('.front-morph svg').getCurrentTime()"
    tab.evaluate("document.querySelector('.front-morph svg').setCurrentTime(3.7)")
    buttons.first.click()
    assert abs(tab.evaluate(now) - 1.8) < 0.01
    assert buttons.nth(1).inner_text() == "play"


def test_sidebar_shows_where_we_are(tab):
    tab.set_viewport_size({"width": 1280, "height": 800})
    tab.goto((SITE / "fast.html").as_uri())
    link = tab.locator(".sidebar-tree [aria-current=page]")
    assert 0 < link.bounding_box()["y"] < 800
    assert tab.locator(".toc-drawer").bounding_box()["x"] < 1280 - 100, "on this page is hidden"


def test_dark_mode_is_kept(tab):
    tab.goto((SITE / "cost.html").as_uri())
    tab.emulate_media(color_scheme="light")
    light = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    for _ in range(3):
        tab.locator(".theme-toggle-content .theme-toggle").click()
        if tab.evaluate("document.body.dataset.theme") == "dark": break
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.goto((SITE / "layers.html").as_uri())
    kept = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.evaluate("localStorage.clear()")
    assert dark == kept != light


def test_where_nothing_may_move_there_are_no_buttons_for_it(tab):
    for wanted, seen in (("reduce", False), ("no-preference", True)):
        tab.emulate_media(reduced_motion=wanted)
        tab.goto((SITE / "index.html").as_uri())
        assert tab.locator(".front-morph button").first.is_visible() == seen


def test_code_that_opens_can_be_scrolled_by_key(tab):
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.goto((SITE / "train.html").as_uri())
    wide = "box => box.scrollWidth > box.clientWidth + 1"
    fold = tab.locator("details:has(.highlight pre)").first
    fold.locator("summary").first.click()
    box = fold.locator(".highlight pre").first
    assert box.evaluate(wide)
    tab.wait_for_function("box => box.tabIndex === 0", arg=box.element_handle())


def test_a_figure_opens_large(tab):
    tab.goto((SITE / "cost.html").as_uri())
    tab.locator(".enlarge").first.click()
    assert tab.locator("dialog[open] img").is_visible()
    tab.keyboard.press("Escape")
    assert tab.locator("dialog[open]").count() == 0


def test_the_picture_beside_a_link_exists():
    page = BeautifulSoup((SITE / "cost.html").read_text(encoding="utf-8"), "html.parser")
    address = page.find("meta", property="og:image")["content"]
    base = page.find("meta", property="og:url")["content"].removesuffix("cost.html")
    assert address.startswith(base)
    assert Image.open(SITE / address.removeprefix(base)).size == (1200, 630)


def test_the_site_is_light():
    size = sum(path.stat().st_size for path in SITE.rglob("*") if path.is_file())
    assert size < 25e6, f"{size / 1e6:.1f} MB"


def test_whoever_comes_to_a_drawer_by_key_sees_it(tab):
    tab.set_viewport_size({"width": 700, "height": 800})
    tab.goto((SITE / "cost.html").as_uri())
    left = "document.querySelector('.sidebar-drawer').getBoundingClientRect().left"
    assert tab.evaluate(left) < 0
    tab.focus(".sidebar-search")
    tab.wait_for_function(f"{left} === 0")
    tab.evaluate("document.activeElement.blur()")
    tab.wait_for_function(f"{left} < 0")


def test_an_enlarged_figure_keeps_its_size_on_a_phone(tab):
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.goto((SITE / "cost.html").as_uri())
    tab.locator(".enlarge").first.click()
    width = "document.querySelector('dialog[open] img')"
    assert tab.evaluate(f"{width}.width === {width}.naturalWidth") and tab.evaluate(
        f"{width}.width > innerWidth")
    tab.keyboard.press("Escape")


def test_without_scripts_a_flipbook_is_a_list(browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((SITE / "layers.html").as_uri())
    pages = page.locator(".flipbook").first.locator(".page")
    assert pages.count() > 1 and all(one.is_visible() for one in pages.all())
    assert not page.locator(".flipbook .turn").first.is_visible()
    context.close()


def test_search_engines_and_lost_readers_find_the_pages():
    listed = re.findall(r"/([\w.]+)</loc>", (SITE / "sitemap.xml").read_text(encoding="utf-8"))
    assert listed == [name for name in PAGES if name not in ("search.html", "404.html")]
    links = re.findall('href="(.*?)"', (SITE / "404.html").read_text(encoding="utf-8"))
    assert len(links) == 2 and all(link.startswith("https://") and (
        SITE / link.rpartition("/")[2]).is_file() for link in links)
    for name in PAGES:
        icon = "_static/icon.png" in (SITE / name).read_text(encoding="utf-8")
        assert icon == (name != "404.html"), name
    assert Image.open(SITE / "_static/icon.png").size == (180, 180)
