// What the pages of the site do beside Furo's own script.
"use strict";

// The sidebar opens at the current chapter.
function showCurrentChapter() {
  const link = document.querySelector(".sidebar-tree .current-page > .reference");
  const box = document.querySelector(".sidebar-scroll");
  if (!link || !box) return;
  link.setAttribute("aria-current", "page");
  const middle = link.getBoundingClientRect().top - box.getBoundingClientRect().top;
  box.scrollBy({top: middle - box.clientHeight / 2, behavior: "instant"});  // Furo's is smooth
}

// After Back, browsers put sliders where they were: turn to the page that they point at.
function turnFlipbooks() {
  for (const book of document.querySelectorAll(".flipbook")) {
    const slider = book.querySelector("input");
    if (slider) slider.dispatchEvent(new Event("input", {bubbles: true}));
  }
}

// A click on a figure opens it as large as the window.
function openFigures() {
  const dialog = document.createElement("dialog");
  dialog.className = "large-figure";
  dialog.innerHTML = '<button type="button" aria-label="Close">&times;</button><img alt="">';
  dialog.addEventListener("click", () => dialog.close());
  document.body.append(dialog);
  const large = dialog.querySelector("img");
  const show = (img) => {
    large.src = img.src;
    large.alt = img.alt;
    dialog.setAttribute("aria-label", img.alt || "Figure");
    dialog.showModal();
  };
  for (const img of document.querySelectorAll("article .cell_output img")) {
    if (img.naturalWidth < 200) continue;
    const link = img.closest("a");  // Sphinx links a figure that it makes smaller to the large one
    if (link) {
      link.classList.add("enlarge");
      link.addEventListener("click", (event) => { event.preventDefault(); show(img); });
      continue;
    }
    const button = document.createElement("button");
    button.type = "button";
    button.className = "enlarge";
    button.title = "Enlarge";
    img.replaceWith(button);
    button.append(img);
    button.addEventListener("click", () => show(img));
  }
}

// Wide tables and code scroll in their own box; the keyboard must reach it.
function reachScrolling(within = document) {
  const boxes = ".table-wrapper, .math-wrapper, .highlight pre, .cell_output .output";
  for (const box of within.querySelectorAll(boxes)) {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
  }
}

// What the search shows of a page is its sentences: no pictures' descriptions, links or code. Opened
// as a file, a page may not read the others, and there are titles only.
function tidySearch() {
  if (typeof Search === "undefined") return;
  if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
  const toText = Search.htmlToText;
  Search.htmlToText = (page, anchor) => {
    const tree = new DOMParser().parseFromString(page, "text/html");
    const aside = ".chapter-links, .front-morph, .doors, svg, pre, button, nav, dialog";
    for (const element of tree.querySelectorAll(aside)) element.remove();
    for (const block of tree.querySelectorAll("h1, h2, h3, h4, p, li, td, th, summary"))
      block.append(" ");  // or the words of two blocks stick together
    return toText(tree.documentElement.outerHTML, anchor);
  };
}

document.addEventListener("DOMContentLoaded", () => {
  tidySearch();
  showCurrentChapter();
  reachScrolling();
});
// What opens, or turns its page, may be wide then; so may the output around it.
function reachAgain(element) {
  if (element) reachScrolling(element.closest(".cell") || element);
}
document.addEventListener("toggle", event => reachAgain(event.target), true);
document.addEventListener("input", event => reachAgain(event.target.closest(".flipbook")));
window.addEventListener("resize", () => reachScrolling());
window.addEventListener("load", openFigures);
window.addEventListener("pageshow", turnFlipbooks);
