"use strict";
// Hiding a part of the picture: a patch that follows the pointer, and one that goes everywhere.

function patchSide() { return Number($("side").value); }

function hide(row, col) {
  if (sweeping) return;
  const side = patchSide(), most = config.size - side;
  const within = v => Math.min(most, Math.max(0, Math.round(v)));
  state.patch = {row: within(row), col: within(col), side};
  drawPictures();
  run();
}

function uncover() {
  if (!state.patch) return;
  state.patch = null;
  drawPictures();
  run();
}

// A mouse hides what it points at. A finger, which also scrolls, taps: once to put the patch there,
// and once more on the patch to take it away.
function middleOf(event) {
  const {left, top, width} = event.target.getBoundingClientRect(), cell = width / config.size;
  return {row: (event.clientY - top) / cell, col: (event.clientX - left) / cell};
}

function hideAround({row, col}) { hide(row - patchSide() / 2, col - patchSide() / 2); }

function tap(event) {
  const {row, col} = middleOf(event), {patch} = state;
  const within = (v, start) => v >= start && v < start + patch.side;
  if (patch && within(row, patch.row) && within(col, patch.col)) uncover();
  else hideAround({row, col});
}

for (const id of ["picture", "seen"]) {
  const canvas = $(id), isFree = () => state.seen && !sweeping;
  const isMouse = event => event.pointerType === "mouse";
  let byMouse = false;  // a click does not tell in every browser what it was made with
  canvas.onpointerdown = event => { byMouse = isMouse(event); };
  canvas.onpointermove = event => {
    if (isFree() && isMouse(event) && hasMoved(event)) hideAround(middleOf(event));
  };
  canvas.onpointerleave = event => { if (isMouse(event)) uncover(); };
  canvas.onclick = event => { if (isFree() && !byMouse) tap(event); };
}

$("picture").onkeydown = event => {
  const moves = {ArrowUp: [-4, 0], ArrowDown: [4, 0], ArrowLeft: [0, -4], ArrowRight: [0, 4]};
  if (event.key === "Escape") return uncover();
  if (!moves[event.key] || !state.seen) return;
  event.preventDefault();
  const middle = (config.size - patchSide()) / 2;
  const {row, col} = state.patch || {row: middle, col: middle};
  hide(row + moves[event.key][0], col + moves[event.key][1]);
};
$("picture").onblur = uncover;

$("side").oninput = () => { $("side-said").textContent = patchSide(); };

const isTouch = matchMedia("(hover: none)").matches;
if (isTouch) $("choose-said").textContent = "Tap any map to choose a pixel.";
const POINT = isTouch
  ? "Tap either picture to hide a part of it; tap the gray patch to take it away."
  : "Point at either picture to hide a part of it.";

// The sweep: the worker puts the patch everywhere and reports after each place. A pixel's heat is
// the mean over all patches that hid it. What is measured is either how far the first guess fell,
// or how much the chosen unit changed, from what they are with nothing hidden, which the worker
// tells, too.
let sweeping = null;
const BUTTONS = {class: ["sweep", "Sweep"], unit: ["measure", "Measure what it depends on"]};

function startSweep(measure, line, words) {
  if (!state.seen) return;
  clearHeat();
  uncover();
  const {size} = config, side = patchSide();
  sweeping = {id: ++lastId, measure, line, words, patch: null,
              sum: new Float32Array(size ** 2), count: new Float32Array(size ** 2)};
  state.heatOf = measure;
  worker.postMessage({id: sweeping.id, task: "sweep", seen: state.seen, off: state.off, side,
                      step: Math.max(4, side / 2), watch: {...state.open}});
  $(BUTTONS[measure][0]).textContent = "Stop";
}

function sweepStep({id, patch, unhidden, probabilities, change, done}) {
  if (!sweeping || sweeping.id !== id) return;
  const {sum, count, measure, line, words} = sweeping, {size} = config;
  const [best] = ranking(unhidden);
  const value = measure === "class" ? unhidden[best] - probabilities[best] : change;
  for (let r = patch.row; r < patch.row + patch.side; r++)
    for (let c = patch.col; c < patch.col + patch.side; c++) {
      sum[r * size + c] += value;
      count[r * size + c]++;
    }
  state.heat = sum.map((v, i) => count[i] ? v / count[i] : 0);
  sweeping.patch = patch;
  $(line).textContent = `${words(best, unhidden[best])} ${done < 1 ? percent(done) : ""}`;
  if (done === 1) stopSweep();
  drawPictures();
}

function stopSweep() {
  if (!sweeping) return;
  worker.postMessage({task: "stop", id: ++lastId});
  const [button, words] = BUTTONS[sweeping.measure];
  $(button).textContent = words;
  sweeping = null;
}

// Heat and its words tell of one picture, one network and, if it was measured, one unit: when that
// changes, they go.
function clearHeat() {
  stopSweep();
  Object.assign(state, {heat: null, heatOf: null});
  $("seen-said").textContent = POINT;
  $("peek-said").textContent = "The frame is what the chosen pixel can see.";
}

function forgetUnit() { if (state.heatOf === "unit") clearHeat(); }

function pressSweep(measure, line, words) {
  if (sweeping?.measure !== measure) return startSweep(measure, line, words);
  clearHeat();
  drawPictures();
}

$("sweep").onclick = () => pressSweep("class", "seen-said", (best, share) =>
  `Orange: hiding this lowers “${className(best)}” (${percent(share)}). Purple: it raises it.`);

$("measure").onclick = () => pressSweep("unit", "peek-said", () =>
  `Orange: hiding this changes ${placeWords(state.open)} of the block most.`);

// Heat over a gray picture: nothing where nothing changes, full color at the strongest place.
// Neither color is one of the maps', which mean above and below zero.
function drawHeat(pen, heat, shown) {
  const {size} = config, top = largest(heat), cell = shown / size;
  for (let p = 0; p < heat.length; p++) {
    const v = heat[p] / top;
    const [r, g, b] = v < 0 ? [110, 50, 170] : [240, 130, 10];
    pen.fillStyle = `rgba(${r}, ${g}, ${b}, ${0.8 * Math.abs(v)})`;
    pen.fillRect((p % size) * cell, Math.floor(p / size) * cell, cell, cell);
  }
}

clearHeat();
