"use strict";
// Where pictures come from: examples, a file, the clipboard, a drop, the camera, a sketch.

async function fromBlob(blob) {
  let bitmap;
  try { bitmap = await createImageBitmap(blob); }  // turned as the camera was held
  catch { return complain("This file is no picture that the browser can read."); }
  await show(bitmap);
}

for (const button of $("examples").querySelectorAll("button"))
  button.onclick = async () => {
    const picture = button.querySelector("img");
    await picture.decode();
    await show(await createImageBitmap(picture), button.dataset);
  };

$("examples").querySelector("button").onclick();

$("file").onchange = event => {
  if (event.target.files.length) fromBlob(event.target.files[0]);
  event.target.value = "";  // so that the same file can be chosen again
};

document.ondragover = event => event.preventDefault();
document.ondrop = event => {
  event.preventDefault();
  const file = [...event.dataTransfer.files].find(one => one.type.startsWith("image/"));
  if (file) fromBlob(file);
  else complain("What was dropped is no picture.");
};

document.onpaste = event => {
  const item = [...event.clipboardData.items].find(one => one.type.startsWith("image/"));
  if (item) fromBlob(item.getAsFile());
};

// Camera and sketch pad share a dialog; `use` is what its button does.
let use = null;
function openDialog(title, shown, action) {
  $("dialog-title").textContent = title;
  for (const id of ["video", "pad", "inks", "tools"]) $(id).hidden = !shown.includes(id);
  use = action;
  $("dialog").showModal();
}

$("take").onclick = async () => {
  let bitmap;
  try { bitmap = await use(); }
  catch (error) { complain(`There is no picture yet: ${error.message}`); }
  $("dialog").close();
  if (bitmap) await show(bitmap);
};
$("leave").onclick = () => $("dialog").close();
function stopCamera() {
  for (const track of $("video").srcObject?.getTracks() || []) track.stop();
  $("video").srcObject = null;
}
$("dialog").onclose = stopCamera;

let starting = false;  // of two cameras, one would stay on
$("camera").onclick = async () => {
  if (!navigator.mediaDevices) return complain("No camera: the browser gives none to this page.");
  if (starting) return;
  starting = true;
  try {
    const wanted = {video: {facingMode: "environment"}};  // a phone's camera on the back
    $("video").srcObject = await navigator.mediaDevices.getUserMedia(wanted);
    await $("video").play();
    openDialog("Camera", ["video"], () => createImageBitmap($("video")));
  } catch (error) {
    stopCamera();
    complain(`No camera: ${error.message || "the browser gives none to this page"}.`);
  }
  starting = false;
};

// The sketch pad.
const INKS = [
  ["black", "#1d2129"], ["red", "#d43a2f"], ["orange", "#f08a24"], ["yellow", "#f5cf3b"],
  ["green", "#3f9b45"], ["blue", "#2f6fd0"], ["brown", "#8a5a33"], ["white", "#ffffff"]];
let ink = INKS[0][1];

for (const [name, shade] of INKS) {
  const button = document.createElement("button");
  button.style.background = shade;
  button.setAttribute("aria-label", name);
  button.setAttribute("aria-pressed", String(shade === ink));
  button.onclick = () => {
    ink = shade;
    for (const other of $("inks").children)
      other.setAttribute("aria-pressed", String(other === button));
  };
  $("inks").append(button);
}

// The sheet stays as it is when the dialog closes. Before each stroke a copy is kept, for Undo.
const pad = $("pad").getContext("2d", {willReadFrequently: true});
const copies = [];

function keepCopy() {
  copies.push(pad.getImageData(0, 0, $("pad").width, $("pad").height));
  if (copies.length > 30) copies.shift();
}

function clearPad() {
  pad.fillStyle = "#fff";
  pad.fillRect(0, 0, $("pad").width, $("pad").height);
}
clearPad();

$("draw").onclick = () => openDialog("Draw something", ["pad", "inks", "tools"],
                                     () => createImageBitmap($("pad")));
$("clear").onclick = () => { keepCopy(); clearPad(); };
$("undo").onclick = () => { if (copies.length) pad.putImageData(copies.pop(), 0, 0); };

let last = null;  // where the stroke has come to
function stroke(event) {
  if (!event.buttons) return;
  const {left, top, width} = $("pad").getBoundingClientRect(), scale = $("pad").width / width;
  const here = [(event.clientX - left) * scale, (event.clientY - top) * scale];
  Object.assign(pad, {strokeStyle: ink, lineWidth: 18, lineCap: "round"});
  pad.beginPath();
  pad.moveTo(...last || here);
  pad.lineTo(...here);
  pad.stroke();
  last = here;
}
$("pad").onpointermove = stroke;
$("pad").onpointerdown = event => {
  keepCopy();
  last = null;
  stroke(event);
};
