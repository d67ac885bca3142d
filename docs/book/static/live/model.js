// From a prompt to a picture: text encoder, U-Net and decoder as ONNX graphs, the loop between them in plain JavaScript.
// The same as ldm_tutorial/engine/engine.py, without Python.

import { randn } from "./noise.js";
import { SAMPLERS } from "./samplers.js";
import { Tokenizer } from "./tokenizer.js";

// The graphs hold no weights: they point into the safetensors files of the model.
export const PARTS = {
  textEncoder: { graph: "text_encoder/model.onnx", weights: "text_encoder/model.safetensors" },
  unet: { graph: "unet/model.onnx", weights: "unet/diffusion_pytorch_model.safetensors" },
  decoder: { graph: "vae/decoder.onnx", weights: "vae/diffusion_pytorch_model.safetensors" },
};

export class Model {
  /** `ort`: onnxruntime-web; `fetchBytes(name)`: the bytes of one of the model's files, as a promise. */
  static async load(ort, fetchBytes) {
    const model = new Model();
    model.ort = ort;
    const text = async (name) => new TextDecoder().decode(await fetchBytes(name));
    model.settings = JSON.parse(await text("engine.json"));
    const { model_max_length: length, pad_token_id: pad } = model.settings;
    model.tokenizer = new Tokenizer(JSON.parse(await text("tokenizer/tokenizer.json")), length, pad);
    for (const [name, { graph, weights }] of Object.entries(PARTS)) {
      const data = await fetchBytes(weights);
      const options = { executionProviders: ["wasm"], externalData: [{ path: weights.split("/").pop(), data }] };
      model[name] = await ort.InferenceSession.create(await fetchBytes(graph), options);
    }
    return model;
  }

  /** Texts -> the states that the U-Net reads, [texts, 77, width]. */
  async encodeText(texts) {
    const ids = texts.flatMap((text) => this.tokenizer.padded(text)).map(BigInt);
    const tensor = new this.ort.Tensor("int64", BigInt64Array.from(ids), [texts.length, this.tokenizer.length]);
    return first(await this.textEncoder.run({ input_ids: tensor }));
  }

  /** The U-Net's answer for noisy latents at timestep `t`; `copies` of the latents meet as many texts. */
  async predict(z, t, states, copies) {
    const shape = this.settings.latent_shape;
    const both = new Float32Array(copies * z.length);
    for (let k = 0; k < copies; k++) both.set(z, k * z.length);
    const inputs = {
      sample: new this.ort.Tensor("float32", both, [copies, ...shape]),
      timestep: new this.ort.Tensor("int64", BigInt64Array.from([BigInt(t)]), []),
      encoder_hidden_states: states,
    };
    return first(await this.unet.run(inputs)).data;
  }

  /** Scaled latents -> a picture, uint8 red, green, blue, opacity for each pixel: what a canvas takes. */
  async decode(z) {
    const latents = new this.ort.Tensor("float32", Float32Array.from(z), [1, ...this.settings.latent_shape]);
    const pixels = first(await this.decoder.run({ latents }));
    const [, , height, width] = pixels.dims;
    const picture = new Uint8ClampedArray(4 * height * width);
    for (let i = 0; i < height * width; i++) {
      for (let c = 0; c < 3; c++) {
        const share = Math.min(1, Math.max(0, pixels.data[c * height * width + i] / 2 + 0.5));
        picture[4 * i + c] = Math.round(255 * share);
      }
      picture[4 * i + 3] = 255;
    }
    return { picture, width, height };
  }

  /** The latents of a prompt and a seed. `onStep(i, steps, z)` is awaited after each step; it may throw to stop. */
  async sample(prompt, seed, { sampler, steps, guidance, interval, negative = "" }, onStep) {
    const { schedulers, alphas_cumprod: alphas, latent_shape: shape } = this.settings;
    const solver = new SAMPLERS[sampler](schedulers[sampler], alphas, steps);
    const texts = await this.encodeText([negative, prompt]);
    const half = texts.data.length / 2;
    const conditional = new this.ort.Tensor("float32", texts.data.slice(half), [1, ...texts.dims.slice(1)]);
    let z = randn(seed, shape[0] * shape[1] * shape[2]);
    const firstGuided = Math.floor(interval[0] * steps);
    const afterGuided = Math.floor(interval[1] * steps);
    for (let i = 0; i < steps; i++) {
      const t = solver.timesteps[i];
      let predicted;
      if (guidance > 1 && i >= firstGuided && i < afterGuided) {
        const both = await this.predict(z, t, texts, 2);
        const [without, withText] = [both.subarray(0, z.length), both.subarray(z.length)];
        predicted = without.map((value, k) => value + guidance * (withText[k] - value));
      } else {
        predicted = await this.predict(z, t, conditional, 1);
      }
      z = solver.step(i, predicted, z);
      if (onStep) await onStep(i, steps, z);
    }
    return z;
  }
}

function first(outputs) {
  return Object.values(outputs)[0];
}
