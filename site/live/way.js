"use strict";
// The way through the network: stem, stages and head, each with its strongest channels.

// Multiply-adds of the parts, from the sizes alone.
function multiplyAdds({size, dims, depths, stem, classes, kernel}) {
  let side = size / stem;
  const parts = [{name: "stem", count: side ** 2 * stem ** 2 * 3 * dims[0]}];
  dims.forEach((c, s) => {
    if (s > 0) side = Math.floor(side / 2);
    const down = s > 0 ? side ** 2 * 4 * dims[s - 1] * c : 0;
    const each = side ** 2 * (kernel ** 2 * c + 2 * c * 4 * c);  // depthwise, and two linears
    parts.push({name: `stage ${s + 1}`, count: down + depths[s] * each, each, side});
  });
  parts.push({name: "head", count: dims[dims.length - 1] * classes.length});
  return parts;
}

function millions(count) {
  if (count < 1e5) return `${(count / 1e3).toFixed(0)} thousand`;
  return `${(count / 1e6).toFixed(1)} million`;
}

function makeCard(title, shape, words) {
  const card = document.createElement("div");
  card.className = "card";
  card.innerHTML = "<h3></h3><canvas class='pixelated' role='img'></canvas><p></p>";
  card.querySelector("h3").append(title, Object.assign(document.createElement("span"),
                                                       {textContent: shape}));
  card.querySelector("canvas").setAttribute("aria-label", `${title}: not computed yet`);
  card.querySelector("p").textContent = words;
  return card;
}

// A chip for a block: a button that opens it, and a tick that takes it away.
function makeChip(s, b) {
  const chip = document.createElement("div");
  chip.className = "chip";
  chip.id = `chip-${s}-${b}`;
  chip.innerHTML = "<button></button><label><input type='checkbox' checked></label>";
  const button = chip.querySelector("button"), tick = chip.querySelector("input");
  button.textContent = b + 1;
  button.setAttribute("aria-label", `Open block ${b + 1} of stage ${s + 1}`);
  tick.setAttribute("aria-label", `Use block ${b + 1} of stage ${s + 1}`);
  tick.parentElement.title = "Untick to take this block away";
  button.onclick = () => {
    if (!state.trace) return;  // the network is still on its way
    openBlock(s, b);
    showOpened();
  };
  tick.onchange = () => {
    const name = `${s}.${b}`, others = state.off.blocks.filter(other => other !== name);
    state.off.blocks = tick.checked ? others : [...others, name];
    switched();
  };
  return chip;
}

const calm = matchMedia("(prefers-reduced-motion: reduce)");
function showOpened() {
  $("block-title").focus({preventScroll: true});
  $("opened").scrollIntoView({behavior: calm.matches ? "auto" : "smooth", block: "start"});
}

// The card of a stage, or of the stem, whose maps answer to the pointer.
function makeMapCard(title, shape, words, s, isStem) {
  const card = makeCard(title, shape, words), canvas = card.querySelector("canvas");
  const frame = document.createElement("div");
  frame.className = "montage";
  canvas.replaceWith(frame);
  frame.append(canvas, Object.assign(document.createElement("div"), {className: "numbers"}));
  const block = isStem ? 0 : config.depths[s] - 1;
  canvas.onpointermove = event => { if (hasMoved(event)) pointAt(event, s, block, isStem); };
  canvas.onpointerleave = () => { drawPictures(); $("way-said").textContent = ""; };
  canvas.onclick = event => {
    if (!state.trace) return;
    openBlock(s, block, shownChannels[isStem ? 0 : s + 1][placeIn(event, 1).map]);
    showOpened();
  };
  return card;
}

function makeWay() {
  const parts = multiplyAdds(config), {stem, dims, depths} = config;
  const cards = [makeMapCard("Stem", `${stem} x ${stem}, stride ${stem}`,
    `Each patch of ${stem} x ${stem} pixels becomes one pixel: ${parts[1].side} x ${parts[1].side} `
    + `x ${dims[0]}. ${millions(parts[0].count)} multiply-adds.`, 0, true)];
  dims.forEach((c, s) => {
    const {side, count} = parts[s + 1], down = s ? "Halving layer, then " : "";
    const card = makeMapCard(`Stage ${s + 1}`, `${side} x ${side} x ${c}`,
      `${down}${depths[s]} blocks, ${millions(count)} multiply-adds.`, s, false);
    const chips = document.createElement("div");
    chips.className = "chips";
    for (let b = 0; b < depths[s]; b++) chips.append(makeChip(s, b));
    card.append(chips);
    cards.push(card);
  });
  const all = parts.reduce((sum, part) => sum + part.count, 0);
  cards.push(makeCard("Head", `${dims[dims.length - 1]} → ${config.classes.length}`,
    "The mean of every channel, a layer norm, and a score for each class. "
    + `${millions(all)} multiply-adds in all.`));
  $("way").replaceChildren(...cards);
}

// The small maps: nine channels, in a square of three by three. They are the strongest of the
// picture as it came, and stay while parts of it are hidden or parts of the network are off.
const shownChannels = [];
function mapsOfWay() {
  const {stages} = state.trace;
  return [stages[0].start, ...stages.map(stage => stage.output)];
}

function chooseShown() {
  mapsOfWay().forEach((map, at) => {
    const c = config.dims[Math.max(0, at - 1)];
    shownChannels[at] = strongest(map, c).slice(0, 9);
    $("way").children[at].querySelector(".numbers").innerHTML =
      shownChannels[at].map(k => `<span>${k}</span>`).join("");
  });
}

function drawWay() {
  const cards = [...$("way").children], {stages, pooled} = state.trace;
  mapsOfWay().forEach((map, at) => {
    const s = Math.max(0, at - 1), c = config.dims[s], canvas = cards[at].querySelector("canvas");
    drawMontage(canvas, shownChannels[at].map(k => channelOf(map, c, k)), 3);
    canvas.setAttribute("aria-label", `After ${at ? `stage ${at}` : "the stem"}: nine strong `
      + `channels, ${shownChannels[at].join(", ")}, ${stages[s].side} x ${stages[s].side} each`);
  });
  const head = cards[cards.length - 1].querySelector("canvas");
  drawBars(head, pooled, {height: 240, axis: 0});
  head.setAttribute("aria-label", `The means of the ${pooled.length} channels, as bars`);
  for (const chip of document.querySelectorAll(".chip")) {
    const [, s, b] = chip.id.split("-").map(Number);
    const isOff = state.off.blocks.includes(`${s}.${b}`);
    chip.classList.toggle("off", isOff);
    chip.classList.toggle("open", state.open.stage === s && state.open.block === b);
    chip.querySelector("input").checked = !isOff;
  }
}

// Where the pointer is among the nine maps: which map, and which pixel of it.
function placeIn(event, side) {
  const {left, top, width} = event.target.getBoundingClientRect();
  const down = (event.clientY - top) / width * 3, across = (event.clientX - left) / width * 3;
  const third = v => Math.min(2, Math.max(0, Math.floor(v)));
  const within = v => Math.min(side - 1, Math.max(0, Math.floor((v - third(v)) * side)));
  return {map: third(down) * 3 + third(across), row: within(down), col: within(across)};
}

// The pointer is over the small maps of a stage: the pictures show what that pixel sees.
function pointAt(event, stage, block, isStem) {
  if (!state.trace) return;
  const {map, row, col} = placeIn(event, state.trace.stages[stage].side);
  const unit = {stage, block: isStem ? -1 : block, row, col};
  drawPictures();
  for (const id of ["picture", "seen"])
    drawField($(id).getContext("2d"), receptiveField(unit), color("mark"));
  const channel = shownChannels[isStem ? 0 : stage + 1][map];
  $("way-said").textContent = `Channel ${channel}. ${fieldWords(unit)}`;
}

// What a unit of a block's output can see, in pixels of the picture, by arithmetic: going back, a
// k x k convolution adds (k - 1) / 2 on each side, and a stride multiplies.
function receptiveField({stage, block, row, col}) {
  const {kernel, stem} = config, {off} = state;
  const reach = off.depthwise ? 0 : (kernel - 1) / 2;
  let [top, bottom, left, right] = [row, row + 1, col, col + 1];  // the ends are not included
  for (let s = stage; s >= 0; s--) {
    const last = s === stage ? block : config.depths[s] - 1;
    for (let b = last; b >= 0; b--) {
      if (off.blocks.includes(`${s}.${b}`)) continue;
      top -= reach; left -= reach; bottom += reach; right += reach;
    }
    const stride = s === 0 ? stem : 2;
    [top, bottom, left, right] = [top * stride, bottom * stride, left * stride, right * stride];
  }
  return {row: top, col: left, rows: bottom - top, cols: right - left};
}

// People count rows and columns from 1, the code from 0.
function placeWords({row, col}) { return `row ${row + 1}, column ${col + 1}`; }

function fieldWords(unit) {
  const {row, col, rows, cols} = receptiveField(unit), {size} = config;
  const inside = (start, length) => Math.min(size, start + length) - Math.max(0, start);
  const seen = `${inside(row, rows)} x ${inside(col, cols)}`;
  return `Row ${unit.row + 1}, column ${unit.col + 1} of ${unit.block < 0 ? "the stem" : `stage ${
    unit.stage + 1}`} can see ${seen} of the ${size} x ${size} pixels`
    + `${rows > size ? `; in a larger picture it would see ${rows} x ${cols}` : ""}.`;
}

makeWay();
