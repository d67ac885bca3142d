// The playground of the book: boxes and buttons, and what the worker answers. The model itself is in model.js.

import { Artist, Stopped, defaultSampling, difference, fetchSettings, paint, sayLoading, whyNot } from "./artist.js";
import { noteUnknownWords } from "./words.js";

const root = document.getElementById("ldm-playground");
const get = (name) => root.querySelector(`[name=${name}]`);
const note = root.querySelector(".ldm-note");
const bar = root.querySelector("progress");
const canvases = [...root.querySelectorAll("canvas")];
const captions = [...root.querySelectorAll("figcaption")];
const SURPRISES = ["object", "material", "background"];

const artist = new Artist();
let settings = null; // live.json
let drawn = 0; // counts the drawings that were finished

const say = (text) => (note.textContent = text);

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
  const how = {
    ...defaultSampling(settings),
    steps: Number(get("steps").value),
    guidance: Number(get("guidance").value),
    negative: get("negative").value.trim(),
  };
  return prompts.map((prompt) => ({ prompt, seed, ...how }));
}

function busy(yes) {
  root.setAttribute("aria-busy", yes);
  get("draw").disabled = yes;
  get("stop").disabled = !yes;
  bar.hidden = !yes;
}

/** Draw one picture into a canvas, each preview on the way too. */
async function drawInto(index, wish) {
  const canvas = canvases[index];
  const loading = (received) => {
    bar.value = received / settings.bytes;
    say(sayLoading(received, settings));
  };
  const step = (now) => {
    bar.value = now.done / now.steps;
    if (now.picture) paint(canvas, now);
    say(`Step ${now.done} of ${now.steps}.`);
  };
  const picture = await artist.draw(wish, { loading, step });
  paint(canvas, picture);
  canvas.setAttribute("aria-label", `${wish.prompt}, seed ${wish.seed}`);
  captions[index].textContent = `${wish.prompt}, seed ${wish.seed}`;
  return picture;
}

function showDifference(one, other) {
  paint(canvases[2], difference(one, other));
  canvases[2].setAttribute("aria-label", "where the two pictures differ, black is most");
  captions[2].textContent = "where they differ: black is most";
}

async function draw() {
  const wishes = readBoxes();
  if (!wishes) return;
  canvases.slice(1).forEach((canvas) => (canvas.parentElement.hidden = wishes.length < 2));
  history.replaceState(null, "", linkOf());
  busy(true);
  try {
    const pictures = [];
    for (const [index, wish] of wishes.entries()) pictures.push(await drawInto(index, wish));
    if (pictures.length === 2) showDifference(...pictures);
    const unknown = wishes.map((wish) => noteUnknownWords(wish.prompt, settings.words)).filter(Boolean);
    say(`Drawn in ${pictures.at(-1).seconds.toFixed(1)} s. ${unknown.join(" ")}`);
    drawn += 1;
    root.dataset.drawn = drawn;
  } catch (error) {
    say(error instanceof Stopped ? "Stopped." : error.message);
  }
  busy(false);
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
  settings = await fetchSettings();
  if (!settings) {
    say("This copy of the book was built without the model in the page. `ldm generate` draws the same pictures.");
    return;
  }
  get("steps").value = settings.sampling.steps;
  get("guidance").value = settings.sampling.guidance_scale;
  readLink();
  if (whyNot()) {
    say(whyNot());
    return;
  }
  root.querySelectorAll("input, button").forEach((part) => (part.disabled = false));
  get("stop").disabled = true;
  get("draw").addEventListener("click", draw);
  get("stop").addEventListener("click", () => artist.stop());
  get("surprise").addEventListener("click", surprise);
  get("download").addEventListener("click", download);
  root.addEventListener("input", showNumbers);
  root.addEventListener("keydown", (event) => event.key === "Enter" && event.target.matches("input") && !get("draw").disabled && draw());
  say(`The first picture loads ${(settings.bytes / 1e6).toFixed(0)} MB, about ${Math.ceil(settings.bytes / 1.25e6)} s at 10 Mbit/s; then each takes a few seconds.`);
}

begin();
