// What the command line says about words for which Curios has nothing, said in the page.

/** A sentence about a prompt, or "" where there is nothing to say. `words` is words.json, made by docs/book/live.py. */
export function noteUnknownWords(prompt, words) {
  const text = prompt.toLowerCase();
  const asked = [...new Set(text.match(/[a-z0-9]{2,}/g) ?? [])];
  const known = new Set([...words.known, ...words.silent]);
  const unknown = asked.filter((word) => !known.has(word) && !known.has(word.replace(/s+$/, "")));
  const plain = ` ${text.replace(/[^a-z0-9]+/g, " ")} `;
  const object = words.objects.some((name) => plain.includes(` ${name} `) || plain.includes(` ${name}s `));
  const notes = [];
  if (unknown.length) {
    const hints = unknown.slice(0, 6).map((word) => {
      const near = words.near[word] ?? words.near[word.replace(/s+$/, "")];
      return near ? `"${word}" (nearest: "${near}")` : `"${word}"`;
    });
    notes.push(`Curios has nothing called ${hints.join(", ")}${unknown.length > 6 ? " and more" : ""}.`);
  }
  if (!object) notes.push(`The model draws one of: ${words.draws.join(", ")}.`);
  return notes.join(" ");
}
