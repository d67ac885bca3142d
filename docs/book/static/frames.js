// Sliders and menus of the notebooks' controls, without a kernel: every state was drawn when the book was made
// (docs/book/frames.py), and this script shows the picture of the state that is set.

/** One control: its element `root` holds the knobs, the picture, the text under it and the list of all states. */
function bringToLife(root) {
  const { folder, start, states } = JSON.parse(root.querySelector("script").textContent);
  const knobs = [...root.querySelectorAll("input, select")];
  const picture = root.querySelector("img");
  const note = root.querySelector(".ldm-note");
  const first = start.split(",");

  /** The state that the knobs stand at, as the list names it: "3,0" is the first knob's value 3, the second's value 0. */
  const stateNow = () => knobs.map((knob) => knob.value).join(",");

  /** Put the other knobs back to their first settings where their combination was not drawn: sliders first, then menus. */
  function makeRoom(turned) {
    for (const kind of ["INPUT", "SELECT"]) {
      if (states[stateNow()]) return;
      knobs.forEach((knob, k) => {
        if (knob !== turned && knob.tagName === kind) knob.value = first[k];
      });
    }
  }

  /** Say each slider's value in words: what its positions stand for. */
  function showValues() {
    for (const knob of knobs.filter((knob) => knob.dataset.texts)) {
      const text = JSON.parse(knob.dataset.texts)[knob.value];
      knob.setAttribute("aria-valuetext", text);
      root.querySelector(`output[for="${knob.id}"]`).textContent = text;
    }
  }

  function show() {
    if (!states[stateNow()]) knobs.forEach((knob, k) => (knob.value = first[k])); // it could not be drawn
    showValues();
    const [file, text] = states[stateNow()];
    picture.src = folder + file;
    picture.alt = text;
    note.textContent = text;
  }

  function reset() {
    knobs.forEach((knob, k) => (knob.value = first[k]));
    show();
  }

  /** Fetch the pictures that the knob at hand may ask for next, so that it answers at once. */
  function prepare(knob) {
    const at = knobs.indexOf(knob);
    const parts = stateNow().split(",");
    for (const state of Object.keys(states)) {
      const near = state.split(",").every((value, k) => k === at || value === parts[k]);
      if (near) new Image().src = folder + states[state][0];
    }
  }

  for (const knob of knobs) {
    knob.addEventListener("input", () => {
      makeRoom(knob);
      show();
    });
    knob.addEventListener("focus", () => prepare(knob));
  }
  root.querySelector("button").addEventListener("click", reset);
  reset(); // a browser may have kept the knobs of the last visit
  for (const still of root.closest(".cell_output").querySelectorAll("img")) {
    if (!root.contains(still)) still.hidden = true;
  }
  root.hidden = false;
}

document.querySelectorAll(".ldm-frames").forEach(bringToLife);
