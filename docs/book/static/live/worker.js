// The model in a thread of its own, so that the page never stands still.
// Messages in, by their kind: draw (with id, prompt, seed and how to sample) and stop. Messages out: progress, step, done,
// stopped, failed.

import * as ort from "./ort/ort.wasm.min.mjs";
import { Model } from "./model.js";

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
const RUNTIME = "../ort/ort-wasm-simd-threaded.wasm.gz"; // plain file servers compress nothing, so it lies there compressed

let model = null;
let wanted = 0; // the number of the drawing that is still wanted
let received = 0;

/** The bytes of a file, counted while they come. */
async function fetchBytes(name) {
  const response = await fetch(new URL(`./model/${name}`, import.meta.url));
  if (!response.ok) throw new Error(`${name} is not there (${response.status})`);
  const parts = [];
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    received += value.length;
    postMessage({ kind: "progress", received });
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function load() {
  const packed = new Blob([await fetchBytes(RUNTIME)]).stream();
  ort.env.wasm.wasmBinary = await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  return Model.load(ort, fetchBytes);
}

class Stopped extends Error {}

async function draw({ id, prompt, seed, ...how }) {
  try {
    if (!model) model = await load();
    const length = model.tokenizer.encode(prompt).length;
    if (length > model.tokenizer.length) {
      throw new Error(`The prompt is too long (${length} tokens, the model reads ${model.tokenizer.length}): shorten it to a sentence.`);
    }
    const start = performance.now();
    const z = await model.sample(prompt, BigInt(seed), how, async (i, steps, now) => {
      await new Promise((go) => setTimeout(go)); // let a message in
      if (id !== wanted) throw new Stopped();
      const preview = i + 1 < steps && i % 2 === 1 ? await model.decode(now) : null;
      postMessage({ kind: "step", id, done: i + 1, steps, ...preview });
    });
    postMessage({ kind: "done", id, ...(await model.decode(z)), seconds: (performance.now() - start) / 1000 });
  } catch (error) {
    if (error instanceof Stopped) postMessage({ kind: "stopped", id });
    else postMessage({ kind: "failed", id, reason: error.message });
  }
}

let queue = Promise.resolve();
onmessage = ({ data }) => {
  wanted = data.kind === "draw" ? data.id : 0;
  if (data.kind === "draw") queue = queue.then(() => data.id === wanted && draw(data));
};
