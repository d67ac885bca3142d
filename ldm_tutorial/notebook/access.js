// In the page, and unseen: alternative text for the picture, names for the knobs, and keys that reach them.

function mend(control, alt) {
  control.querySelector(".ldm-picture")?.setAttribute("alt", alt);
  control.querySelector(".ldm-note")?.setAttribute("role", "status");
  for (const knob of control.querySelectorAll(".ldm-knob")) {
    const name = knob.querySelector("label")?.textContent;
    for (const part of knob.querySelectorAll("[role=slider], [contenteditable], input"))
      if (name) part.setAttribute("aria-label", name);
  }
}
function render({ model, el }) {
  el.style.display = "none";
  let control = null;
  const again = () => control && mend(control, model.get("alt"));
  const watcher = new MutationObserver(again);
  const keep = event => {  // plain keys are the knob's, Ctrl+S and Shift+Enter stay JupyterLab's
    if (!control?.contains(event.target)) return;
    const plain = !(event.ctrlKey || event.metaKey || event.altKey || (event.shiftKey && event.key === "Enter"));
    event.target.toggleAttribute("data-lm-suppress-shortcuts", plain);
  };
  window.addEventListener("keydown", keep, true);
  model.on("change:alt", again);
  (function begin() {  // once the whole control is in the page
    control = el.closest(".ldm-control");
    if (!control) return setTimeout(begin, 50);
    watcher.observe(control, { childList: true, subtree: true });
    again();
  })();
  return () => {
    watcher.disconnect();
    model.off("change:alt", again);
    window.removeEventListener("keydown", keep, true);
  };
}
export default { render };
