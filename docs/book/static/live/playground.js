// The playground of the book: boxes and buttons, and what the worker answers. The model itself is in model.js.

import { noteUnknownWords } from "./words.js";

const HERE = new URL(".", import.meta.url);
const root = document.getElementById("ldm-playground");
const get = (name) => root.querySelector(`[name=${name}]`);
const note = root.querySelector(".ldm-note");
const bar = root.querySelector("progress");
const canvases = [...root.querySelectorAll("canvas")];
const captions = [...root.querySelectorAll("figcaption")];
const SURPRISES = ["object", "material", "background"];

let worker = null;
let settings = null; // live.json: bytes, the default way of sampling, words
let asked = 0; // counts the drawings
let wishes = []; // what the drawing that is going on is to show: one prompt or two
let pictures = [];

const say = (text) => (note.textContent = text);

function paint(canvas, { picture, width, height }) {
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(new ImageData(picture, width, height), 0, 0);
}

/** Where two pictures differ, from white (equal) to black. */
function difference(a, b) {
  const picture = new Uint8ClampedArray(a.picture.length);
  for (let i = 0; i < picture.length; i += 4) {
    let most = 0;
    for (let c = 0; c < 3; c++) most = Math.max(most, Math.abs(a.picture[i + c] - b.picture[i + c]));
    picture.fill(255 - most, i, i + 3);
    picture[i + 3] = 255;
  }
  return { ...a, picture };
}

/** The boxes' content, or null after saying what is wrong with it. */
function readBoxes() {
  const prompts = [get("prompt").value.trim(), get("other").value.trim()].filter(Boolean);
  if (!get("prompt").value.trim()) {
    say('The prompt is empty: describe a picture, for example "an armchair made of avocado".');
    return null;
  }
  const seed = get("seed").value.trim();
  if (!/^[0-9]{1,19}$/.test(seed) || BigInt(seed) >= 2n ** 63n) {
    say(`The seed "${seed.slice(0, 40)}" must be a whole number from 0 to 2^63 - 1, for example 7.`);
    return null;
  }
  const own = settings.sampling;
  const guidance = Number(get("guidance").value);
  const how = { sampler: own.sampler, steps: Number(get("steps").value), guidance, interval: own.guidance_interval };
  return prompts.map((prompt) => ({ prompt, seed, ...how, negative: get("negative").value.trim() }));
}

function start() {
  if (worker) return;
  worker = new Worker(new URL("worker.js", HERE), { type: "module" });
  worker.onmessage = ({ data }) => answers[data.kind](data);
  worker.onerror = (event) => {
    say(`The model could not be started here (${event.message || "its files did not come"}). \`ldm generate\` draws the same pictures.`);
    busy(false);
    worker = null;
  };
}

function busy(yes) {
  root.setAttribute("aria-busy", yes);
  get("draw").disabled = yes;
  get("stop").disabled = !yes;
  bar.hidden = !yes;
}

const answers = {
  progress({ received }) {
    bar.value = received / settings.bytes;
    say(`Loading the model: ${(received / 1e6).toFixed(1)} of ${(settings.bytes / 1e6).toFixed(1)} MB, once.`);
  },
  step({ id, done, steps, picture, width, height }) {
    if (id !== asked) return;
    bar.value = done / steps;
    if (picture) paint(canvases[pictures.length], { picture, width, height });
    say(`Step ${done} of ${steps}.`);
  },
  done({ id, picture, width, height, seconds }) {
    if (id !== asked) return;
    const wish = wishes[pictures.length];
    const index = pictures.length;
    pictures.push({ picture, width, height });
    paint(canvases[index], pictures[index]);
    canvases[index].setAttribute("aria-label", `${wish.prompt}, seed ${wish.seed}`);
    captions[index].textContent = `${wish.prompt}, seed ${wish.seed}`;
    if (pictures.length < wishes.length) {
      ask();
      return;
    }
    if (pictures.length === 2) {
      paint(canvases[2], difference(...pictures));
      canvases[2].setAttribute("aria-label", "where the two pictures differ, black is most");
      captions[2].textContent = "where they differ: black is most";
    }
    const unknown = noteUnknownWords(wish.prompt, settings.words);
    say(`Drawn in ${seconds.toFixed(1)} s. ${unknown}`);
    root.dataset.drawn = asked;
    busy(false);
  },
  stopped() {
    say("Stopped.");
    busy(false);
  },
  failed({ reason }) {
    say(reason);
    busy(false);
  },
};

function ask() {
  asked += 1;
  worker.postMessage({ kind: "draw", id: asked, ...wishes[pictures.length] });
}

function draw() {
  const read = readBoxes();
  if (!read) return;
  wishes = read;
  pictures = [];
  canvases.slice(1).forEach((canvas) => (canvas.parentElement.hidden = wishes.length < 2));
  history.replaceState(null, "", linkOf());
  start();
  busy(true);
  ask();
}

/** The address that brings this picture back. */
function linkOf() {
  const names = ["prompt", "other", "negative", "seed", "steps", "guidance"];
  return `#${new URLSearchParams(names.map((name) => [name, get(name).value]))}`;
}

function readLink() {
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    const box = root.querySelector(`input[name="${CSS.escape(name)}"]`);
    if (box) box.value = value;
  }
  showNumbers();
}

function surprise() {
  const pick = (kind) => settings.surprises[kind][Math.floor(Math.random() * settings.surprises[kind].length)];
  const [object, material, background] = SURPRISES.map(pick);
  get("prompt").value = `${object} ${material} on ${background}`;
  get("seed").value = String(Math.floor(Math.random() * 10000));
  draw();
}

function download() {
  const link = document.createElement("a");
  link.download = `${get("prompt").value.trim().replace(/[^\p{L}\p{N}]+/gu, "_").slice(0, 60)}_${get("seed").value}.png`;
  link.href = canvases[0].toDataURL("image/png");
  link.click();
}

function showNumbers() {
  for (const name of ["steps", "guidance"]) root.querySelector(`output[for=ldm-${name}]`).textContent = get(name).value;
}

async function begin() {
  try {
    settings = await (await fetch(new URL("live.json", HERE))).json();
  } catch {
    say("This copy of the book was built without the model in the page. `ldm generate` draws the same pictures.");
    return;
  }
  get("steps").value = settings.sampling.steps;
  get("guidance").value = settings.sampling.guidance_scale;
  readLink();
  if (typeof WebAssembly === "undefined" || typeof DecompressionStream === "undefined") {
    say("This browser can't run the model (it lacks WebAssembly or DecompressionStream): a browser of 2023 or later can.");
    return;
  }
  root.querySelectorAll("input, button").forEach((part) => (part.disabled = false));
  get("stop").disabled = true;
  get("draw").addEventListener("click", draw);
  get("stop").addEventListener("click", () => worker?.postMessage({ kind: "stop" }));
  get("surprise").addEventListener("click", surprise);
  get("download").addEventListener("click", download);
  root.addEventListener("input", showNumbers);
  root.addEventListener("keydown", (event) => event.key === "Enter" && event.target.matches("input") && !get("draw").disabled && draw());
  say(`The first picture loads ${(settings.bytes / 1e6).toFixed(0)} MB, about ${Math.ceil(settings.bytes / 1.25e6)} s at 10 Mbit/s; then each takes a few seconds.`);
}

begin();
