"use strict";
// The road: two steps of the roadmap side by side. Everything shown comes from `ROAD`, which
// tools/live.py writes from the networks themselves, the paper's table and our runs. The words for
// it stand in reasons.js.

const walk = ROAD.steps, byName = Object.fromEntries(walk.map(step => [step.name, step]));
// The boxes of one block. A box is known by its role, such as "norm after around", so that the same
// box can be found in another block, and glides to its new place.
function boxesOf(step) {
  return step.stages[$("road-stage").value - 1].block;
}

function sameBox(a, b) { return a.label === b.label && a.in === b.in && a.out === b.out; }

// What became of a box on the way to another block, or since: `alone` if it has no partner there.
function fates(box, others, moved, alone) {
  const other = others.find(one => one.role === box.role);
  if (!other) return [alone];
  const found = [];
  if (moved.has(box.role)) found.push("moved");
  if (!sameBox(box, other)) found.push("changed");
  return found;
}

// The roles that stand in another order in the two blocks: all but a longest sequence that both
// have. Of two such sequences, the one without the convolution that looks around is taken: on this
// road it is the one that climbs.
function movedRoles(a, b) {
  const left = a.map(box => box.role).filter(role => b.some(box => box.role === role));
  const right = b.map(box => box.role).filter(role => left.includes(role));
  const worth = chain => chain.length + (chain.includes("around") ? 0 : 0.5);
  let best = [];
  const follow = (chain, from, next) => {
    if (worth(chain) > worth(best)) best = chain;
    for (let i = next; i < left.length; i++) {
      const at = right.indexOf(left[i]);
      if (at >= from) follow([...chain, left[i]], at + 1, i + 1);
    }
  };
  follow([], 0, 0);
  return new Set(left.filter(role => !best.includes(role)));
}

// The outline of a box: as wide above as the channels that enter, and below as those that leave.
function outline({kind, channels, lane, ...box}, most) {
  if (kind === "add") return "circle(13px at 50% 50%)";
  const half = lane === "shortcut" ? [4, 4]
    : [box.in ?? channels, channels].map(c => Math.max(2, 50 * c / most));
  const [a, b] = half;
  return `polygon(${50 - a}% 6%, ${50 + a}% 6%, ${50 + b}% 94%, ${50 - b}% 94%)`;
}

function boxWords(box) {
  if (box.kind === "add") return "plus the input";
  return box.lane === "shortcut" ? `shortcut ${box.label}` : box.label;
}

function boxNumbers(box) {
  if (!box.in) return "";
  const channels = box.in === box.out ? `${box.in} channels` : `${box.in} → ${box.out}`;
  return `${channels}, ${(box.macs / 1e6).toFixed(1)} M`;
}

// Draws a block into `element`, moving the boxes that are there already.
function drawDiagram(element, boxes, others, most, moved, alone) {
  const still = [...element.children].filter(child => child.dataset.role);
  const there = new Map(still.map(child => [child.dataset.role, child]));
  let y = 12;
  for (const box of boxes) {
    const row = there.get(box.role) || element.appendChild(makeRow(box.role));
    there.delete(box.role);
    const found = fates(box, others, moved, alone);
    const height = (box.kind === "norm" || box.kind === "act" ? 26 : 36) + (found.length ? 14 : 0);
    row.className = found.join(" ");
    row.style.height = `${height}px`;
    row.style.transform = `translateY(${y}px)`;
    y += height;
    const [figure, words] = row.children;
    figure.style.clipPath = outline(box, most);
    figure.style.background = box.kind === "add" ? "var(--quiet)" : ROAD.colors[box.kind];
    words.textContent = boxWords(box);
    if (found.length) words.prepend(makeElement("em", found.join(", ")));
    if (boxNumbers(box)) words.append(makeElement("small", boxNumbers(box)));
  }
  for (const row of there.values()) {  // boxes that are no more fade away
    row.className = "fading";
    delete row.dataset.role;
    setTimeout(() => row.remove(), 400);
  }
  element.style.height = `${y}px`;
  drawShortcut(element, boxes);
  element.setAttribute("aria-label", `A block: ${boxes.map(box =>
    `${boxWords(box)} ${boxNumbers(box)}`).join("; ")}`);
}

// The way around the block, from its start to the circle where the input is added.
function drawShortcut(element, boxes) {
  const row = [...element.children].find(child => child.dataset.role === "add");
  const line = element.querySelector(".skip") || element.appendChild(makeElement("div", ""));
  line.className = "skip";
  line.hidden = !boxes.some(box => box.kind === "add");
  const y = row ? parseFloat(row.style.transform.slice("translateY(".length)) : 0;
  line.style.height = `${y + parseFloat(row?.style.height || 0) / 2 - 3}px`;
}

function makeElement(tag, text) {
  return Object.assign(document.createElement(tag), {textContent: text});
}

function makeRow(role) {
  const row = document.createElement("div");
  row.innerHTML = "<i></i><span></span>";
  row.dataset.role = role;
  return row;
}

function drawChanges(a, b) {
  const keys = Object.keys(a.fields).filter(
    key => JSON.stringify(a.fields[key]) !== JSON.stringify(b.fields[key]));
  const isStep = b.parent === a.name, count = COUNTS[keys.length] || `${keys.length} things`;
  $("changes-said").textContent = isStep && keys.length > 1 ? `This step bundles ${count}:`
    : keys.length ? alternatives(a, b) : "Nothing: the same network twice.";
  $("changes").replaceChildren();
  for (const key of keys) {
    const name = makeElement("dt", fieldName(key));
    name.dataset.field = key;
    const change = `${fieldValue(key, a.fields[key])} → ${fieldValue(key, b.fields[key])}`;
    $("changes").append(name, makeElement("dd", change));
  }
  const points = b.paper.top1 - a.paper.top1, sign = points < 0 ? "−" : "+";
  const result = makeElement("dd", `${a.paper.top1.toFixed(2)} % → ${b.paper.top1.toFixed(2)} % `
    + `(${sign}${Math.abs(points).toFixed(2)})`);
  result.className = "result";
  $("changes").append(makeElement("dt", "right, of ImageNet's pictures (paper)"), result);
  const chapter = makeElement("a", "The chapter");
  chapter.href = `${b.chapter.replace(/^\d+_/, "")}.html`;
  $("road-chapter").replaceChildren(chapter, ` that takes the step “${b.label}”.`);
  $("road-why").innerHTML = "<b>Why:</b> <span></span>";
  $("road-why").lastChild.textContent = isStep ? REASONS[b.name] : "take the steps between one by "
    + "one, with the slider: each says why.";
}

// Of several steps that start from the same one, the road follows one.
function alternatives(a, b) {
  const tried = walk.filter(step => step.parent === a.name);
  if (tried.length < 2 || !tried.includes(b)) return "";
  const taken = tried.find(step => walk.some(next => next.parent === step.name));
  const names = listed(tried.map(step => step.label), "and");
  return `Alternatives: ${names} all start from “${a.label}”. The paper goes on from `
    + `${taken.label}.`;
}

function spread(numbers) {
  return numbers ? `${numbers.mean.toFixed(1)} ± ${numbers.std.toFixed(1)} %` : "–";
}

function drawTable(a, b) {
  const rows = [["step", a.label, b.label]];
  a.stages.forEach((_, s) => rows.push([`stage ${s + 1}`, ...[a, b].map(step => {
    const {side, channels, blocks} = step.stages[s];
    return `${side} x ${side} x ${channels}, ${blocks} blocks`;
  })]));
  const row = (name, value) => rows.push([name, value(a), value(b)]);
  row("parameters", step => `${(step.params / 1e6).toFixed(1)} M`);
  row("multiply-adds (224 px)", step => `${(step.macs / 1e9).toFixed(2)} G`);
  row("the paper's top-1, ImageNet", step => `${step.paper.top1.toFixed(2)} %`);
  for (const [family, words] of Object.entries(ROAD.families))
    row(`ours, ${words}`, step => spread(step.ours?.[family]));
  $("road-table").replaceChildren(...rows.map((cells, at) => {
    const line = document.createElement("tr");
    line.append(...cells.map((cell, i) => makeElement(at === 0 || i === 0 ? "th" : "td", cell)));
    return line;
  }));
}

function drawRoad() {
  const a = byName[$("from").value], b = byName[$("to").value];
  const left = boxesOf(a), right = boxesOf(b);
  const most = Math.max(...[...left, ...right].flatMap(box => [box.in ?? 0, box.channels]));
  $("left-title").textContent = a.label;
  $("right-title").textContent = b.label;
  const moved = movedRoles(left, right);
  drawDiagram($("left"), left, right, most, moved, "gone");
  drawDiagram($("right"), right, left, most, moved, "new");
  drawChanges(a, b);
  drawTable(a, b);
  $("walk").setAttribute("aria-valuetext", `${a.label} to ${b.label}`);
}

for (const id of ["from", "to"]) {
  $(id).append(...walk.map(step => new Option(step.label, step.name)));
  $(id).onchange = drawRoad;
}
$("road-stage").onchange = drawRoad;
$("walk").max = walk.length - 1;
$("walk").oninput = () => {  // each step beside the one that it came from
  const step = walk[$("walk").value];
  $("from").value = step.parent;
  $("to").value = step.name;
  drawRoad();
};
$("walk").value = walk.findIndex(step => step.name === "depthwise");
$("walk").oninput();
