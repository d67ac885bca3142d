// Draws pictures in a worker, one at a time: for the playground and for the lessons' live figures.

const HERE = new URL(".", import.meta.url);

export class Stopped extends Error {}

export class Artist {
  #worker = null;
  #asked = 0; // counts the drawings
  #waiting = null; // who is to hear of the drawing that is going on

  /** One picture: what is wished is in samplers' words (prompt, seed, steps ...). `loading` hears how many bytes have come,
   * `step` each step. Throws Stopped, or an Error whose message is a sentence for the reader. */
  draw(wish, { loading, step }) {
    this.#start();
    const id = ++this.#asked;
    return new Promise((resolve, reject) => {
      this.#waiting = { id, loading, step, resolve, reject };
      this.#worker.postMessage({ kind: "draw", id, ...wish });
    });
  }

  stop() {
    this.#worker?.postMessage({ kind: "stop" });
  }

  #start() {
    if (this.#worker) return;
    this.#worker = new Worker(new URL("worker.js", HERE), { type: "module" });
    this.#worker.onmessage = ({ data }) => this.#hear(data);
    this.#worker.onerror = (event) => {
      const why = event.message || "its files did not come";
      this.#worker = null;
      this.#waiting?.reject(new Error(`The model could not be started here (${why}). \`ldm generate\` draws the same pictures.`));
    };
  }

  #hear(data) {
    const waiting = this.#waiting;
    if (data.kind === "progress") waiting.loading(data.received);
    if (data.id !== waiting.id) return;
    if (data.kind === "step") waiting.step(data);
    if (data.kind === "done") waiting.resolve(data);
    if (data.kind === "stopped") waiting.reject(new Stopped());
    if (data.kind === "failed") waiting.reject(new Error(data.reason));
  }
}

/** live.json: bytes until the first picture, the default way of sampling, words; null where the book has no model. */
export async function fetchSettings() {
  try {
    return await (await fetch(new URL("live.json", HERE))).json();
  } catch {
    return null;
  }
}

/** Why this browser can't run the model, or nothing. */
export function whyNot() {
  if (typeof WebAssembly !== "undefined" && typeof DecompressionStream !== "undefined") return "";
  return "This browser can't run the model (it lacks WebAssembly or DecompressionStream): a browser of 2023 or later can.";
}

/** The settings of the course's default way of sampling, for a worker. */
export function defaultSampling(settings) {
  const { sampler, steps, guidance_scale, guidance_interval } = settings.sampling;
  return { sampler, steps, guidance: guidance_scale, interval: guidance_interval, negative: "" };
}

export function sayLoading(received, settings) {
  return `Loading the model: ${(received / 1e6).toFixed(1)} of ${(settings.bytes / 1e6).toFixed(1)} MB, once.`;
}

export function paint(canvas, { picture, width, height }) {
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(new ImageData(picture, width, height), 0, 0);
}

/** Where two pictures differ, from white (equal) to black. */
export function difference(a, b) {
  const picture = new Uint8ClampedArray(a.picture.length);
  for (let i = 0; i < picture.length; i += 4) {
    let most = 0;
    for (let c = 0; c < 3; c++) most = Math.max(most, Math.abs(a.picture[i + c] - b.picture[i + c]));
    picture.fill(255 - most, i, i + 3);
    picture[i + 3] = 255;
  }
  return { ...a, picture };
}
