"use strict";
// Hiding a part of the picture: a patch that follows the pointer, and one that goes everywhere.

function patchSide() { return Number($("side").value); }

function hide(row, col) {
  const side = patchSide(), most = config.size - side;
  const within = v => Math.min(most, Math.max(0, Math.round(v)));
  state.patch = {row: within(row), col: within(col), side};
  drawPictures();
  run();
}

function uncover() {
  if (!state.patch || sweeping) return;
  state.patch = null;
  drawPictures();
  run();
}

for (const id of ["picture", "seen"]) {
  const canvas = $(id);
  const follow = event => {
    if (!state.seen || sweeping) return;
    const {left, top, width} = canvas.getBoundingClientRect();
    const cell = width / config.size, half = patchSide() / 2;
    hide((event.clientY - top) / cell - half, (event.clientX - left) / cell - half);
  };
  canvas.onpointermove = follow;
  canvas.onpointerdown = follow;
  canvas.onpointerleave = uncover;
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

// The sweep: the worker puts the patch everywhere and reports after each place. A pixel's heat is
// the mean over all patches that hid it. What is measured is either how far the first guess fell,
// or how much the chosen unit changed.
let sweeping = null;
function startSweep(measure, words) {
  if (!state.seen) return;
  stopSweep();
  const {size} = config, side = patchSide();
  const best = state.probabilities.indexOf(Math.max(...state.probabilities));
  sweeping = {id: ++lastId, measure, words, best, before: state.probabilities[best],
              sum: new Float32Array(size ** 2), count: new Float32Array(size ** 2)};
  worker.postMessage({id: sweeping.id, task: "sweep", seen: state.seen, off: state.off, side,
                      step: Math.max(4, side / 2), watch: {...state.open}});
  $("sweep").textContent = "Stop";
}

function sweepStep({id, patch, probabilities, change, done}) {
  if (!sweeping || sweeping.id !== id) return;
  const {sum, count, measure, best, before, words} = sweeping, {size} = config;
  const value = measure === "class" ? before - probabilities[best] : change;
  for (let r = patch.row; r < patch.row + patch.side; r++)
    for (let c = patch.col; c < patch.col + patch.side; c++) {
      sum[r * size + c] += value;
      count[r * size + c]++;
    }
  state.heat = sum.map((v, i) => count[i] ? v / count[i] : 0);
  state.patch = done < 1 ? patch : null;
  $("seen-said").textContent = `${words(best, before)} ${done < 1 ? percent(done) : ""}`;
  if (done === 1) stopSweep();
  drawPictures();
}

function stopSweep() {
  if (!sweeping) return;
  worker.postMessage({task: "stop", id: ++lastId});
  sweeping = null;
  state.patch = null;
  $("sweep").textContent = "Sweep";
}

$("sweep").onclick = () => {
  if (sweeping) { stopSweep(); state.heat = null; drawPictures(); return; }
  startSweep("class", (best, before) => `Red: hiding this lowers “${className(best)}” `
    + `(${percent(before)}). Blue: hiding it raises it.`);
};

$("measure").onclick = () => {
  startSweep("unit", () => "Red: hiding this changes the chosen pixel of the block most.");
  $("seen").scrollIntoView({behavior: "smooth", block: "nearest"});
};

// Heat over a picture: nothing where nothing changes, full color at the strongest place.
function drawHeat(pen, heat, shown) {
  const {size} = config, top = largest(heat), cell = shown / size;
  for (let p = 0; p < heat.length; p++) {
    const v = heat[p] / top;
    const [r, g, b] = v < 0 ? [40, 110, 220] : [225, 40, 40];
    pen.fillStyle = `rgba(${r}, ${g}, ${b}, ${0.75 * Math.abs(v)})`;
    pen.fillRect((p % size) * cell, Math.floor(p / size) * cell, cell, cell);
  }
}
