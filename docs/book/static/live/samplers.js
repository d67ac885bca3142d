// The steps of two samplers, number for number those of ldm_tutorial/engine/steps.py.
// DDIM: Song et al. 2021, eq. 12 with sigma = 0. UniPC of order 2 with B(h) = exp(h) - 1: Zhao et al. 2023, algorithms 1 and 2.

/** `steps` timesteps, the noisiest first, spaced as "trailing" spaces them (Lin et al. 2024, table 2). */
export function timesteps(config, steps) {
  if (config.timestep_spacing !== "trailing" || config.prediction_type !== "v_prediction") {
    throw new Error("the page runs models that predict v, with trailing timesteps");
  }
  const trained = config.num_train_timesteps;
  const found = [];
  for (let k = 0; k < steps; k++) found.push(halfToEven(trained - (k * trained) / steps) - 1);
  return found;
}

/** Rounded as numpy does: a half goes to the even number. */
function halfToEven(x) {
  const down = Math.floor(x);
  if (x - down !== 0.5) return Math.round(x);
  return down % 2 === 0 ? down : down + 1;
}

/** The clean latents that a prediction of v stands for, at signal `alpha` and noise `sigma` (both square roots). */
function cleanFromV(v, z, alpha, sigma) {
  return z.map((value, i) => alpha * value - sigma * v[i]);
}

export class DDIM {
  constructor(config, alphasCumprod, steps) {
    this.alphasCumprod = alphasCumprod;
    this.stride = Math.floor(config.num_train_timesteps / steps);
    this.timesteps = timesteps(config, steps);
    this.lastAlpha = config.set_alpha_to_one === false ? alphasCumprod[0] : 1;
  }

  /** Noisy latents at timestep number `i` and the U-Net's v for them -> the latents one step less noisy. */
  step(i, v, z) {
    const alpha = this.alphasCumprod[this.timesteps[i]];
    const before = this.timesteps[i] - this.stride;
    const alphaBefore = before >= 0 ? this.alphasCumprod[before] : this.lastAlpha;
    const clean = cleanFromV(v, z, Math.sqrt(alpha), Math.sqrt(1 - alpha));
    const noise = z.map((value, k) => Math.sqrt(alpha) * v[k] + Math.sqrt(1 - alpha) * value);
    return z.map((_, k) => Math.sqrt(alphaBefore) * clean[k] + Math.sqrt(1 - alphaBefore) * noise[k]);
  }
}

export class UniPC {
  constructor(config, alphasCumprod, steps) {
    this.timesteps = timesteps(config, steps);
    this.sigmas = this.timesteps.map((t) => Math.sqrt((1 - alphasCumprod[t]) / alphasCumprod[t]));
    this.sigmas.push(0);
    this.clean = []; // what each step took the clean latents for
    this.start = null; // the latents that the last step started from
    this.order = 0;
  }

  /** Noisy latents at timestep number `i` and the U-Net's v for them -> the latents one step less noisy. */
  step(i, v, z) {
    const { alpha, sigma } = this.alphaSigma(i);
    const clean = cleanFromV(v, z, alpha, sigma);
    if (i > 0) z = this.update(i - 1, this.start, this.order, clean);
    this.clean.push(clean);
    this.start = z;
    this.order = Math.min(2, this.timesteps.length - i, i + 1); // order 1 at both ends
    return this.update(i, z, this.order, null);
  }

  alphaSigma(i) {
    const alpha = 1 / Math.sqrt(this.sigmas[i] ** 2 + 1);
    return { alpha, sigma: this.sigmas[i] * alpha };
  }

  logSnr(i) {
    const { alpha, sigma } = this.alphaSigma(i);
    return Math.log(alpha) - Math.log(sigma); // infinite at the end, where there is no noise
  }

  /** From step i to i + 1: predicted from the answers so far, or corrected by the answer at i + 1. */
  update(i, z, order, correctedBy) {
    const { alpha, sigma } = this.alphaSigma(i + 1);
    const before = this.alphaSigma(i).sigma;
    const h = this.logSnr(i + 1) - this.logSnr(i);
    const shrink = Math.expm1(-h);
    const clean = this.clean[i];
    let ratio = 1;
    let slope = null;
    if (order === 2) {
      ratio = (this.logSnr(i - 1) - this.logSnr(i)) / h;
      slope = clean.map((value, k) => (this.clean[i - 1][k] - value) / ratio);
    }
    let change;
    if (correctedBy === null) {
      change = (k) => (order === 2 ? 0.5 * slope[k] : 0);
    } else if (order === 1) {
      change = (k) => 0.5 * (correctedBy[k] - clean[k]);
    } else {
      const [old, fresh] = correctorWeights(ratio, h);
      change = (k) => old * slope[k] + fresh * (correctedBy[k] - clean[k]);
    }
    return z.map((value, k) => (sigma / before) * value - alpha * shrink * (clean[k] + change(k)));
  }
}

/** The two weights that make UniC exact to second order (Zhao et al. 2023, eq. 5): they solve
 *  old + fresh = a and ratio * old + fresh = b. */
function correctorWeights(ratio, h) {
  const shrink = Math.expm1(-h);
  const first = shrink / -h - 1;
  const second = first / -h - 0.5;
  const a = first / shrink;
  const b = (2 * second) / shrink;
  const old = (b - a) / (ratio - 1);
  return [old, a - old];
}

export const SAMPLERS = { ddim: DDIM, unipc: UniPC };
