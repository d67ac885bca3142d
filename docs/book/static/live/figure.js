// The live figures of the lessons: one slider, or two sentences, and the model draws. What a figure holds stands in its
// data-figure (docs/book/live.py): `vary` names the setting that the slider turns, or is "prompt" for two sentences.

import { Artist, Stopped, defaultSampling, difference, fetchSettings, paint, sayLoading, whyNot } from "./artist.js";
import { noteUnknownWords } from "./words.js";

const MOST = 6; // pictures that stay in view: with one more, the oldest goes
const artist = new Artist(); // one for the page: its figures draw one after the other

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function slider(id, { label, min, max, step, start }) {
  const number = element("output", { htmlFor: id, textContent: start });
  const range = element("input", { id, type: "range", min, max, step, value: start });
  range.addEventListener("input", () => (number.textContent = range.value));
  return { part: element("label", {}, label, element("span", { className: "ldm-range" }, range, number)), input: range };
}

function box(label, value) {
  const input = element("input", { type: "text", value, maxLength: 1000 });
  return { part: element("label", {}, label, input), input };
}

/** A picture with its caption, added to those in view. */
function add(pictures, picture, caption) {
  const canvas = element("canvas", { role: "img", ariaLabel: caption });
  paint(canvas, picture);
  pictures.append(element("figure", {}, canvas, element("figcaption", { textContent: caption })));
  if (pictures.children.length > MOST) pictures.firstElementChild.remove();
}

function build(root, settings, number) {
  const figure = JSON.parse(root.dataset.figure);
  const how = { ...defaultSampling(settings), ...figure.how, seed: String(figure.seed) };
  const draw = element("button", { type: "button", textContent: "Draw" });
  const stop = element("button", { type: "button", textContent: "Stop", disabled: true });
  const bar = element("progress", { max: 1, value: 0, hidden: true, ariaLabel: "how far the drawing is" });
  const note = element("p", { className: "ldm-note", role: "status" });
  const pictures = element("div", { className: "ldm-pictures" });
  const say = (text) => (note.textContent = text);
  const listeners = {
    loading(received) {
      bar.value = received / settings.bytes;
      say(sayLoading(received, settings));
    },
    step({ done, steps }) {
      bar.value = done / steps;
      say(`Step ${done} of ${steps}.`);
    },
  };
  const row = element("p", { className: "ldm-row" }, draw, stop);
  root.append(element("p", { textContent: figure.text }));

  let drawAll; // draws what the controls say, and returns what is to be said
  if (figure.vary === "prompt") {
    const boxes = figure.prompts.map((prompt, i) => box(`Sentence ${i + 1}`, prompt));
    root.append(...boxes.map(({ part }) => part));
    drawAll = async () => {
      const prompts = boxes.map(({ input }) => input.value.trim());
      if (prompts.some((prompt) => !prompt)) return 'A sentence is empty: describe a picture, for example "a golden duck".';
      const drawn = [];
      for (const prompt of prompts) drawn.push(await artist.draw({ ...how, prompt }, listeners));
      pictures.replaceChildren();
      drawn.forEach((picture, i) => add(pictures, picture, prompts[i]));
      add(pictures, difference(...drawn), "where they differ: black is most");
      const unknown = prompts.map((prompt) => noteUnknownWords(prompt, settings.words)).filter(Boolean);
      return unknown.join(" ") || "Drawn.";
    };
  } else {
    const knob = slider(`ldm-live-${number}`, figure.slider);
    root.append(knob.part);
    drawAll = async () => {
      const value = Number(knob.input.value);
      const picture = await artist.draw({ ...how, prompt: figure.prompt, [figure.vary]: value }, listeners);
      add(pictures, picture, figure.slider.caption.replace("{}", value));
      return `Drawn in ${picture.seconds.toFixed(1)} s. Turn the slider and draw again: the picture comes beside this one.`;
    };
  }
  root.append(row, bar, note, pictures);
  say(`The first picture of a page loads ${(settings.bytes / 1e6).toFixed(0)} MB.`);

  draw.addEventListener("click", async () => {
    [draw.disabled, stop.disabled, bar.hidden] = [true, false, false];
    try {
      say(await drawAll());
      root.dataset.drawn = Number(root.dataset.drawn ?? 0) + 1;
    } catch (error) {
      say(error instanceof Stopped ? "Stopped." : error.message);
    }
    [draw.disabled, stop.disabled, bar.hidden] = [false, true, true];
  });
  stop.addEventListener("click", () => artist.stop());
}

async function begin() {
  const roots = [...document.querySelectorAll(".ldm-live")];
  const settings = await fetchSettings();
  for (const [number, root] of roots.entries()) {
    if (!settings || whyNot()) root.textContent = whyNot() || "This copy of the book was built without the model in the page.";
    else build(root, settings, number);
  }
}

begin();
