"use strict";
// The page: what it knows, how it asks the network, and what is drawn when. The other files have
// the drawing of their parts: way.js the stages, block.js the opened block, hide.js the patch.

const $ = id => document.getElementById(id);
const {config} = LIVE;

const state = {
  bitmap: null,  // the reader's picture
  truth: {},  // of an example: what it `shows`, and the `right` names for it
  seen: null,  // size * size * 3 bytes: what the network sees of it
  trace: null,  // every map of the last pass
  whole: null,  // probabilities for the whole picture by the whole network
  probabilities: null,  // and those of the last pass
  off: {blocks: [], depthwise: false, layerScale: false},
  patch: null,  // {row, col, side}: the square that the reader hides
  heat: null,  // size * size numbers that are laid over the picture
  heatOf: null,  // what they tell of: "class" or "unit"
  open: {stage: 0, block: 0, channel: 0, row: null, col: null},
  fresh: false,  // the picture is new: its strongest channel is to be chosen
  filters: null,  // depthwise filters and layer scale of every block
};

// The worker's program comes as text: a page that was opened as a file may not name one.
const worker = new Worker(URL.createObjectURL(new Blob([LIVE.worker], {type: "text/javascript"})));
const waiting = new Map();
let lastId = 0;

// What is in `given` moves to the worker in place of being copied.
function ask(task, message = {}, given = []) {
  const id = ++lastId;
  return new Promise((resolve, reject) => {
    waiting.set(id, {resolve, reject});
    worker.postMessage({id, task, ...message}, given);
  });
}

worker.onmessage = ({data}) => {
  if (data.done !== undefined) return sweepStep(data);
  const {resolve, reject} = waiting.get(data.id);
  waiting.delete(data.id);
  if (data.error) reject(Error(data.error));
  else resolve(data);
};

let stopped = false;  // the worker, for good
worker.onerror = event => {
  stopped = true;
  for (const {reject} of waiting.values()) reject(Error(event.message));
  waiting.clear();
  broken(`The network stopped: ${event.message}`);
};

// The network works no more: to be read, and heard.
function broken(words) {
  $("ms").textContent = words;
  complain(words);
}

// Called by the script with the weights, which is the last and largest to arrive.
async function weightsArrived(weights) {
  if (document.documentElement.dataset.ready === "broken") return;  // another part is missing
  try {
    state.filters = (await ask("load", {weights, config})).filters;
    document.documentElement.dataset.ready = "loaded";
    if (state.bitmap) await show(state.bitmap, state.truth);  // else it is shown when it comes
  } catch (error) { broken(`The network did not start: ${error.message}`); }
}

// A new picture: look at it, run, draw everything.
async function show(bitmap, truth = {}) {
  try { await lookAt(bitmap, truth); }
  catch (error) {
    if (stopped) return;  // it has been said
    Object.assign(state, {seen: null, trace: null});  // they are of the picture before
    $("ms").textContent = "";
    complain(`This picture cannot be looked at: ${error.message}`);
  }
}

async function lookAt(bitmap, truth) {
  if (state.bitmap !== bitmap) state.bitmap?.close();  // a phone's memory is small
  Object.assign(state, {bitmap, truth});
  clearHeat();
  state.patch = null;
  complain("");
  if (!state.filters) return drawPictures();
  document.documentElement.dataset.ready = "loaded";  // tests wait for "ran"
  const canvas = document.createElement("canvas");
  const shrink = Math.min(1, 4000 / Math.max(bitmap.width, bitmap.height));  // memory has an end
  canvas.width = Math.round(bitmap.width * shrink);
  canvas.height = Math.round(bitmap.height * shrink);
  const pen = canvas.getContext("2d", {willReadFrequently: true});
  pen.fillStyle = "#fff";  // behind what is transparent
  pen.fillRect(0, 0, canvas.width, canvas.height);
  if (pen.getImageData(0, 0, 1, 1).data.some(v => v !== 255))
    throw Error("this browser changes the pixels that a page reads (against tracking)");
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const {data} = pen.getImageData(0, 0, canvas.width, canvas.height);
  const {seen} = await ask("see", {rgba: data, width: canvas.width, height: canvas.height},
                           [data.buffer]);
  if (state.bitmap !== bitmap) return;  // a newer picture has come
  state.seen = seen;
  const {probabilities} = await ask("probe", {seen, off: {}});
  state.whole = probabilities;
  state.fresh = true;
  await run();
}

// One pass through the network, and everything drawn after it.
async function pass() {
  const {seen} = state;
  const {trace, ms, probabilities} = await ask("run", {seen, off: state.off, patch: state.patch});
  if (state.seen !== seen) { again = true; return; }  // a new picture has come
  Object.assign(state, {trace, probabilities});
  $("ms").textContent = `One pass took ${ms.toFixed(0)} ms on your machine.`;
  if (state.fresh) {
    chooseShown();
    chooseStrongest();
  }
  state.fresh = false;
  drawAll();
}

// One pass at a time; what is asked for meanwhile is asked once, with the newest patch.
let running = false, again = false;
async function run() {
  if (!state.seen) return;
  if (running) { again = true; return; }
  running = true;
  try {
    do {
      again = false;
      await pass();
    } while (again);
  } catch (error) {
    broken(`The network stopped: ${error.message}`);
    return;
  } finally { running = false; }
  document.documentElement.dataset.ready = "ran";
}

function drawAll() {
  drawPictures();
  drawTop();
  drawWay();
  drawBlock();
}

function className(k) { return config.classes[k].replace(/^n\d{8} /, ""); }

// What went wrong, beside the buttons that it came from.
function complain(words) { $("complaint").textContent = words; }

// For screen readers: the newest words, spoken when the hand rests.
let speech = 0;
function say(words, wait = 0) {
  clearTimeout(speech);
  speech = setTimeout(() => { $("said").textContent = words; }, wait);
}

function ranking(probabilities) {
  return probabilities.map((_, i) => i).sort((a, b) => probabilities[b] - probabilities[a]);
}

// The first five, and what was first for the whole picture, should it have dropped out of them.
function drawTop() {
  const {probabilities, whole} = state;
  const shown = ranking(probabilities).slice(0, 5), first = ranking(whole)[0];
  const words = shown.map(k => `${className(k)} ${percent(probabilities[k])}`);
  const miss = $("miss").textContent = missWords();
  $("miss").hidden = !miss;
  say(`Top five: ${words.join(", ")}. ${miss}`, 600);
  if (!shown.includes(first)) shown.push(first);
  $("top").replaceChildren(...shown.map(topRow));
  $("top-legend").hidden = !shown.some(hasChanged);
  const [best] = shown, change = hasChanged(first) ? `, before: ${className(first)} `
    + percent(whole[first]) : "";
  $("peek-answer").textContent = `${className(best)} ${percent(probabilities[best])}${change}`;
}

// Of a picture whose right names are known, if the whole of it is called something else.
function missWords() {
  const {shows, right} = state.truth, first = className(ranking(state.whole)[0]);
  if (!right || right.split("|").includes(first)) return "";
  const names = listed(right.split("|"), "or");
  return `A miss: this is ${shows}. Among the things that it knows, ${names} would be right.`;
}

function hasChanged(k) { return Math.abs(state.probabilities[k] - state.whole[k]) >= 0.005; }

function topRow(k) {
  const {probabilities, whole} = state;
  const row = document.createElement("li");
  row.innerHTML = "<i></i><b></b><span></span><span></span>";
  const [bar, before, name, share] = row.children;
  bar.style.width = `${100 * probabilities[k]}%`;
  before.style.left = `calc(${100 * whole[k]}% - 1px)`;
  before.hidden = !hasChanged(k);
  name.textContent = className(k);
  share.textContent = percent(probabilities[k])
    + (hasChanged(k) ? ` (was ${percent(whole[k])})` : "");
  return row;
}

// Both pictures, with the hidden square and the heat; and the second once more, small, beside the
// opened block, with the frame of what the chosen pixel sees.
function drawPictures() {
  if (!state.bitmap) return;
  drawOriginal();
  if (!state.seen) return;
  drawSeen();
  $("seen").setAttribute("aria-label", seenWords());
  $("peek").width = $("peek").height = SHOWN;
  const pen = $("peek").getContext("2d");
  pen.drawImage($("seen"), 0, 0, SHOWN, SHOWN);
  if (state.trace && !hidden()) drawField(pen, receptiveField(state.open), color("field"));
}

// The square that is hidden on the page: the sweep's, or the reader's.
function hidden() { return sweeping?.patch ?? state.patch; }

const SHOWN = 224;  // the side of both pictures on the page

function drawOriginal() {
  const {bitmap} = state, {size} = config, patch = hidden();
  const {newWidth, newHeight, left, top} = fitted(bitmap.width, bitmap.height, config);
  const across = bitmap.width / newWidth, down = bitmap.height / newHeight;
  const pen = sharp($("picture"), SHOWN, SHOWN);
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, SHOWN, SHOWN);
  pen.drawImage(bitmap, left * across, top * down, size * across, size * down, 0, 0, SHOWN, SHOWN);
  if (patch) {
    pen.fillStyle = css(config.mean.map(v => Math.round(v * 255)));
    const cell = SHOWN / size;
    pen.fillRect(patch.col * cell, patch.row * cell, patch.side * cell, patch.side * cell);
  }
}

// Below heat the picture is gray, so that each color tells of the heat.
function drawSeen() {
  const {seen, heat} = state, {size} = config, patch = hidden();
  const small = document.createElement("canvas");
  const pixels = patch ? withPatch(seen, config, patch) : seen;
  drawPixels(small, heat ? inGray(pixels) : pixels, size);
  const pen = sharp($("seen"), SHOWN, SHOWN);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, 0, 0, SHOWN, SHOWN);
  if (heat) drawHeat(pen, heat, SHOWN);
}

function drawField(pen, field, ink) {
  drawFrame(pen, {...field, color: ink}, SHOWN / config.size, SHOWN);
}

function seenWords() {
  const {heat} = state, {size} = config, patch = hidden();
  return `The picture as the network sees it, ${size} x ${size} pixels`
    + (patch ? `, with a patch of ${patch.side} x ${patch.side} hidden at `
               + placeWords(patch) : "")
    + (heat ? ". Colors over it show how much hiding each place changes the answer" : "") + ".";
}

// Switches.
function switched() {
  const {off} = state;
  $("restore").hidden = !(off.blocks.length || off.depthwise || off.layerScale);
  clearHeat();
  stopSliding();  // or its button, which may be disabled now, could not
  run();
}
$("no-depthwise").onchange = event => { state.off.depthwise = event.target.checked; switched(); };
$("no-scale").onchange = event => { state.off.layerScale = event.target.checked; switched(); };
$("restore").onclick = () => {
  Object.assign(state.off, {blocks: [], depthwise: false, layerScale: false});
  $("no-depthwise").checked = $("no-scale").checked = false;
  $("no-depthwise").focus();
  switched();
};

// Light or dark: the head of the page has `setTheme`, for the first pixel.
function showTheme() {
  setTheme();
  $("theme").textContent = isDark() ? "Light" : "Dark";
  if (state.trace) drawAll();
}
darkness.onchange = showTheme;
$("theme").onclick = () => {
  picked = isDark() ? "light" : "dark";
  try { localStorage.setItem("theme", picked); } catch { /* then it holds for this visit */ }
  showTheme();
};
document.documentElement.classList.add("js");
showTheme();
