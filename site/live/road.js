"use strict";
// The road: two steps of the roadmap side by side. Everything shown comes from `ROAD`, which
// tools/live.py writes from the networks themselves, the paper's table and our runs.

const walk = ROAD.steps, byName = Object.fromEntries(walk.map(step => [step.name, step]));
const MARKS = {new: "+", moved: "↕", changed: "≠"};

// The boxes of one block. A box is known by its role, such as "norm after around", so that the same
// box can be found in another block, and glides to its new place.
function boxesOf(step) {
  return step.stages[$("road-stage").value - 1].block;
}

function sameBox(a, b) { return a.label === b.label && a.in === b.in && a.out === b.out; }

// What became of a box, seen from another block: new, moved, changed or nothing.
function fate(box, others, order) {
  const other = others.find(one => one.role === box.role);
  if (!other) return "new";
  if (order.has(box.role)) return "moved";
  return sameBox(box, other) ? "" : "changed";
}

// The roles that stand in another order in the two blocks: all but a longest common sequence.
function movedRoles(a, b) {
  const left = a.map(box => box.role).filter(role => b.some(box => box.role === role));
  const right = b.map(box => box.role).filter(role => left.includes(role));
  let best = [];
  const follow = (chain, from, l) => {
    if (chain.length > best.length) best = chain;
    for (let i = l; i < left.length; i++) {
      const at = right.indexOf(left[i]);
      if (at >= from && chain.length + left.length - i > best.length)
        follow([...chain, left[i]], at + 1, i + 1);
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
  if (box.kind === "add") return "+ the input";
  return box.lane === "shortcut" ? `shortcut ${box.label}` : box.label;
}

function boxNumbers(box) {
  const cost = box.macs ? `${millions(box.macs)} multiply-adds` : "";
  if (!box.in) return cost;
  return `${box.in === box.out ? `${box.in} channels` : `${box.in} → ${box.out}`}, ${cost}`;
}

// Draws a block into `element`, moving the boxes that are there already.
function drawDiagram(element, boxes, others, most) {
  const there = new Map([...element.children].map(child => [child.dataset.role, child]));
  const moved = movedRoles(boxes, others);
  let y = 0;
  for (const box of boxes) {
    const row = there.get(box.role) || element.appendChild(makeRow(box.role));
    there.delete(box.role);
    const height = box.kind === "norm" || box.kind === "act" ? 26 : 36, mark = fate(box, others, moved);
    row.className = mark;
    row.style.height = `${height}px`;
    row.style.transform = `translateY(${y}px)`;
    y += height;
    const [figure, words] = row.children;
    figure.style.clipPath = outline(box, most);
    figure.style.background = box.kind === "add" ? color("quiet") : ROAD.colors[box.kind];
    words.textContent = boxWords(box);
    if (mark) words.prepend(Object.assign(document.createElement("em"), {textContent: `${MARKS[mark]} `}));
    const small = document.createElement("small");
    small.textContent = boxNumbers(box);
    if (small.textContent) words.append(small);
  }
  for (const row of there.values()) {
    row.className = "gone";
    setTimeout(() => { if (row.className === "gone") row.remove(); }, 400);
  }
  element.style.height = `${y}px`;
  element.setAttribute("aria-label", `A block: ${boxes.map(box =>
    `${boxWords(box)} ${boxNumbers(box)}`).join("; ")}`);
}

function makeRow(role) {
  const row = document.createElement("div");
  row.innerHTML = "<i></i><span></span>";
  row.dataset.role = role;
  return row;
}

function plain(value) {
  if (value === null || value === undefined) return "none";
  if (typeof value === "boolean") return value ? "yes" : "no";
  return Array.isArray(value) ? value.join(", ") : String(value);
}

function drawChanges(a, b) {
  const keys = Object.keys(a.fields).filter(
    key => JSON.stringify(a.fields[key]) !== JSON.stringify(b.fields[key]));
  $("changes").innerHTML = keys.length ? "" : "<dd>Nothing: the same step twice.</dd>";
  for (const key of keys) {
    const name = document.createElement("dt"), change = document.createElement("dd");
    name.textContent = key.replaceAll("_", " ");
    change.textContent = `${plain(a.fields[key])} → ${plain(b.fields[key])}`;
    $("changes").append(name, change);
  }
  const chapter = document.createElement("a");
  chapter.href = `${b.chapter.replace(/^\d+_/, "")}.html`;
  chapter.textContent = "The chapter";
  $("road-chapter").replaceChildren(chapter, ` that takes the step “${b.label}”.`);
}

function spread(numbers) {
  return numbers ? `${numbers.mean.toFixed(1)} ± ${numbers.std.toFixed(1)}` : "–";
}

function drawTable(a, b) {
  const rows = [["", a.label, b.label]];
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
  $("road-table").innerHTML = rows.map((cells, at) => `<tr>${cells.map((cell, i) =>
    at === 0 || i === 0 ? `<th scope="${at ? "row" : "col"}">${cell}</th>` : `<td>${cell}</td>`).join("")}</tr>`).join("");
}

function drawRoad() {
  const a = byName[$("from").value], b = byName[$("to").value];
  const left = boxesOf(a), right = boxesOf(b);
  const most = Math.max(...[...left, ...right].flatMap(box => [box.in ?? 0, box.channels]));
  $("left-title").textContent = a.label;
  $("right-title").textContent = b.label;
  drawDiagram($("left"), left, right, most);
  drawDiagram($("right"), right, left, most);
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
$("road-note").textContent = "+ new, ↕ moved, ≠ changed. Ours: small networks and short runs, the mean "
  + "of the seeds and their standard deviation; read them beside the chapters, not beside the paper.";
$("walk").value = 1;
$("walk").oninput();
