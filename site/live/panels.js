"use strict";
// The seven panels of an opened block: what each shows, and why the block has it. What is written
// into them, for the chosen pixel and channel, stands in block.js.

function why(words, page, chapter) {
  return `<p class="why"><b>Why:</b> ${words} <a href="${page}">${chapter}</a></p>`;
}

function mapFigure(id, words) {
  return `<figure><canvas id="${id}" tabindex="0" role="application"
    aria-label="Map: ${words}"></canvas>
    <figcaption id="${id}-words">${words}</figcaption></figure>`;
}

// Bars, and a line below them that tells the value under the pointer.
function barFigure(id, words) {
  return `<canvas id="${id}" class="bars" role="application" aria-label="Bars: ${words}"></canvas>
    <p class="hint" id="${id}-words">${words}</p>`;
}

function panelOfConvolution({kernel}) {
  return `<div class="card wide" id="panel-1">
    <h3>1. Depthwise ${kernel} x ${kernel} <span id="cost-conv"></span></h3>
    <div class="maps">${mapFigure("map-input", "this channel, coming in")}
      <figure><canvas id="filter" role="img" aria-label="The filter of this channel"></canvas>
        <figcaption>× its filter</figcaption></figure>
      ${mapFigure("map-conv", "= going out")}</div>
    <p class="terms" id="terms"></p>
    <p id="conv-said"></p>
    ${why(`a filter for each channel costs so little that it can be as large as the windows that
      transformers such as Swin look through. Mixing channels is left to the linear layers.`,
      "depthwise.html#around-and-across", "Around and across")}
    <div class="buttons"><button id="slide">Slide the window</button>
      <span class="hint">below zero<span class="legend" id="legend"></span>above</span></div></div>`;
}

function panelOfNorm() {
  return `<div class="card" id="panel-2"><h3>2. Layer norm <span id="shape-norm"></span></h3>
    ${barFigure("bars-conv", "before: all channels of this pixel")}
    ${barFigure("bars-norm", "after, drawn to the same scale")}
    <p id="norm-said"></p>
    ${why(`what follows gets numbers of one size, whatever the picture. Batch norm would need other
      pictures for that. One norm a block is enough, as in transformers; ResNet has three.`,
      "micro.html#batch-norm-or-layer-norm", "Batch norm or layer norm?")}</div>`;
}

function panelOfWidening() {
  return `<div class="card" id="panel-3"><h3>3. Linear <span id="shape-widen"></span></h3>
    ${barFigure("bars-wide", "the hidden units of this pixel")}
    <p id="widen-said"></p>
    ${why(`as in a transformer's MLP, the block is wide only in the middle, where channels are
      mixed. The window of panel 1 works where it is narrow, and stays cheap.`,
      "inverted.html#narrow-wide-narrow", "Narrow, wide, narrow")}</div>`;
}

function panelOfGelu() {
  const gain = byName.fewer_act.paper.top1 - byName.gelu.paper.top1;
  return `<div class="card" id="panel-4"><h3>4. GELU <span>out, over in</span></h3>
    <canvas id="curve" class="bars" role="img" aria-label="The curve of GELU"></canvas>
    <p id="gelu-said"></p>
    ${why(`without a bend, the two linear layers would be no more than one. GELU is the smooth ReLU
      of transformers. Keeping one activation a block instead of three gained
      ${gain.toFixed(2)} points in the paper.`, "micro.html#gelu-a-softer-gate",
      "GELU: a softer gate")}</div>`;
}

function panelOfNarrowing({layer_scale: start}) {
  return `<div class="card" id="panel-5"><h3>5. Linear <span id="shape-narrow"></span></h3>
    ${barFigure("bars-narrow", "the channels of this pixel again")}
    ${why("narrow again, so that the result can be added to what came in.",
      "convnext.html#the-block", "The block")}
    <h3 class="second">6. Layer scale</h3>
    ${barFigure("bars-gamma", "a learned factor for each channel")}
    <p id="scale-said"></p>
    ${why(`the paper starts all factors at 0.000001: every block begins as next to nothing, and a
      deep network trains steadily. ${start === null ? "" : `This one started at ${start}.`}`,
      "layers.html#layer-scale", "Layer scale")}</div>`;
}

function panelOfSum() {
  return `<div class="card wide" id="panel-7">
    <h3>7. Plus the input <span>the residual connection</span></h3>
    <div class="maps">${mapFigure("map-before", "what came in")}
      ${mapFigure("map-scaled", "+ what the block adds")}
      ${mapFigure("map-output", "= what goes on")}</div>
    <p id="sum-said"></p>
    ${why(`the block only has to learn a correction, and in training the early blocks hear from the
      end of the network directly. This is also why you can take a block away and still get an
      answer.`, "resnet.html#the-bottleneck-block", "The bottleneck block")}</div>`;
}

function makeStrip() {
  $("strip").innerHTML = [panelOfConvolution(config), panelOfNorm(), panelOfWidening(),
    panelOfGelu(), panelOfNarrowing(config), panelOfSum()].join("\n");
  for (const canvas of $("strip").querySelectorAll("canvas[tabindex]")) followPixel(canvas);
  for (const canvas of $("strip").querySelectorAll("canvas.bars:not(#curve)")) tellBars(canvas);
}

// The pointer over bars, or the arrow keys: the line below tells the channel and its number.
function tellBars(canvas) {
  const line = $(`${canvas.id}-words`);
  const name = canvas.id === "bars-wide" ? "hidden unit" : "channel";
  let at = -1;
  function tell(to) {
    if (!canvas.bars) return;
    line.style.minHeight = `${line.offsetHeight}px`;  // so that nothing jumps
    at = Math.min(canvas.bars.length - 1, Math.max(0, to));
    line.textContent = `${name} ${at}: ${number(canvas.bars[at])}`;
  }
  function point(event) {
    const {left, width} = canvas.getBoundingClientRect();
    if (canvas.bars) tell(barAt((event.clientX - left) / width, canvas.bars.length));
  }
  function restore() { line.textContent = canvas.dataset.words || line.textContent; }
  canvas.tabIndex = 0;
  canvas.onpointermove = canvas.onpointerdown = point;
  canvas.onpointerleave = event => { if (event.pointerType !== "touch") restore(); };
  canvas.onblur = restore;
  canvas.onkeydown = event => {
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!by) return;
    event.preventDefault();
    tell(at + by);
    say(line.textContent);
  };
}
