// The random numbers of torch.randn on a CPU: a seed means the same picture in the page and in Python.
// Mersenne Twister: Matsumoto and Nishimura 1998. From uniform to normally distributed numbers: Box and Muller 1958.

const WORDS = 624;
const BLOCK = 16; // torch fills a tensor in blocks of sixteen numbers

class MersenneTwister {
  constructor(seed) {
    this.state = new Uint32Array(WORDS);
    this.state[0] = seed >>> 0;
    for (let i = 1; i < WORDS; i++) {
      const before = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(1812433253, before) + i;
    }
    this.next = WORDS;
  }

  twist() {
    const state = this.state;
    for (let i = 0; i < WORDS; i++) {
      const word = (state[i] & 0x80000000) | (state[(i + 1) % WORDS] & 0x7fffffff);
      const odd = word & 1 ? 0x9908b0df : 0;
      state[i] = state[(i + 397) % WORDS] ^ (word >>> 1) ^ odd;
    }
    this.next = 0;
  }

  word() {
    if (this.next === WORDS) this.twist();
    let y = this.state[this.next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    y ^= y >>> 18;
    return y >>> 0;
  }
}

/** `count` numbers of N(0, 1) as float32; `seed` a BigInt or a whole number, `count` a multiple of 16. */
export function randn(seed, count) {
  if (count < BLOCK || count % BLOCK) throw new Error(`the noise needs a multiple of ${BLOCK} numbers, not ${count}`);
  const twister = new MersenneTwister(Number(BigInt(seed) & 0xffffffffn)); // torch uses the low 32 bits
  const noise = new Float32Array(count);
  for (let start = 0; start < count; start += BLOCK) {
    const uniform = [];
    for (let k = 0; k < BLOCK; k++) uniform.push((twister.word() & 0xffffff) / 2 ** 24); // 0 to 1
    for (let k = 0; k < BLOCK / 2; k++) {
      const radius = Math.sqrt(-2 * Math.log(1 - uniform[k]));
      const angle = 2 * Math.PI * uniform[k + BLOCK / 2];
      noise[start + k] = radius * Math.cos(angle);
      noise[start + k + BLOCK / 2] = radius * Math.sin(angle);
    }
  }
  return noise;
}
