"use strict";
// The window slides over the map by itself, and the map that comes out fills up behind it. However
// large the map is, it takes ten seconds at most. The chosen pixel stays what it is: only the first
// panel shows where the window has come, and says so.
let sliding = null;  // {timer, pixel}

function stopSliding() {
  if (!sliding) return;
  clearInterval(sliding.timer);
  sliding = null;
  $("slide").textContent = "Slide the window";
  $("conv-said").style.minHeight = "";
  drawBlock();
}

function startSliding() {
  const {side} = opened(), start = performance.now(), seconds = Math.min(10, side ** 2 * 0.3);
  const step = () => {
    const done = Math.min(1, (performance.now() - start) / 1000 / seconds);
    sliding.pixel = Math.min(side ** 2 - 1, Math.floor(done * side ** 2));
    drawConvolution(opened());
    if (done === 1) stopSliding();
  };
  sliding = {timer: setInterval(step, 40), pixel: 0};
  $("slide").textContent = "Stop";
  $("conv-said").style.minHeight = `${$("conv-said").offsetHeight}px`;  // so that nothing jumps
}

// The place that the first panel shows.
function atWindow(at) {
  if (!sliding) return at;
  const {pixel} = sliding;
  return {...at, pixel, row: Math.floor(pixel / at.side), col: pixel % at.side};
}

$("slide").onclick = () => {
  if (sliding) stopSliding();
  else if (state.trace) startSliding();
};
