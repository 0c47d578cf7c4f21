// How Sphinx's search orders what it finds. `TAUGHT` (glossary term: chapter) comes before this.
"use strict";

// More for a page whose title or headings have the whole query, most for the chapter that the
// glossary names and for the glossary itself; less for pages that mention everything.
function extraScore(docName, query) {
  let extra = ["index", "api"].includes(docName) ? -10 : 0;
  if (TAUGHT[query] === docName) extra += 60;
  if (TAUGHT[query] && docName === "glossary") extra += 50;
  if (docName === "live" && ["live", "play"].includes(query)) extra += 60;
  for (const [heading, places] of Object.entries(Search._index?.alltitles || {})) {
    if (!heading.toLowerCase().includes(query)) continue;
    const [place] = places.filter(([doc]) => Search._index.docnames[doc] === docName);
    if (place) extra += place[1] === null ? 20 : 10;  // a title has no anchor
  }
  return extra;
}

var Scorer = {
  score: ([docName, title, anchor, descr, score]) => {
    const query = (new URLSearchParams(location.search).get("q") || "").trim().toLowerCase();
    return query ? score + extraScore(docName, query) : score;
  },
  objNameMatch: 11, objPartialMatch: 6,  // the rest is as Sphinx has it
  objPrio: {0: 15, 1: 5, 2: -5}, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
