// CLIP's tokenizer: byte-pair encoding (Sennrich et al. 2016), read from the same tokenizer.json as in Python.

const WORD = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/gu;
const END_OF_WORD = "</w>";

/** Each byte as a letter that can be printed (the table of GPT-2). */
function byteLetters() {
  const letters = [];
  let spare = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte > 32 && byte < 127) || (byte > 160 && byte < 173) || byte > 173;
    letters.push(String.fromCharCode(printable ? byte : spare++));
  }
  return letters;
}

export class Tokenizer {
  /** `file`: the content of tokenizer.json; `length`: how many tokens the model reads; `pad`: the id that fills up. */
  constructor(file, length, pad) {
    this.vocabulary = new Map(Object.entries(file.model.vocab));
    this.rank = new Map(file.model.merges.map((pair, rank) => [(Array.isArray(pair) ? pair : pair.split(" ")).join(" "), rank]));
    this.letters = byteLetters();
    this.length = length;
    this.pad = pad;
    this.start = this.vocabulary.get("<|startoftext|>");
    this.end = this.vocabulary.get("<|endoftext|>");
  }

  /** The tokens of one word: the pair that was learned first is merged first. */
  merge(word) {
    let parts = [...word];
    parts[parts.length - 1] += END_OF_WORD;
    while (parts.length > 1) {
      let best = -1;
      let lowest = Infinity;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.rank.get(`${parts[i]} ${parts[i + 1]}`);
        if (rank !== undefined && rank < lowest) {
          lowest = rank;
          best = i;
        }
      }
      if (best < 0) break;
      const [left, right] = [parts[best], parts[best + 1]];
      const merged = [];
      for (let i = 0; i < parts.length; i++) {
        if (parts[i] === left && parts[i + 1] === right) {
          merged.push(left + right);
          i++;
        } else {
          merged.push(parts[i]);
        }
      }
      parts = merged;
    }
    return parts;
  }

  /** The ids of a text, start and end token included, neither cut nor padded. */
  encode(text) {
    const ids = [this.start];
    const plain = text.normalize("NFC").replace(/\s+/gu, " ").toLowerCase();
    for (const word of plain.match(WORD) ?? []) {
      const bytes = new TextEncoder().encode(word);
      const letters = Array.from(bytes, (byte) => this.letters[byte]).join("");
      for (const token of this.merge(letters)) ids.push(this.vocabulary.get(token) ?? this.end);
    }
    return [...ids, this.end];
  }

  /** The ids of a text, cut or padded to the model's length. */
  padded(text) {
    let ids = this.encode(text);
    if (ids.length > this.length) ids = [...ids.slice(0, this.length - 1), this.end];
    while (ids.length < this.length) ids.push(this.pad);
    return ids;
  }
}
