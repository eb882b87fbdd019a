/** The request inspector: the running request as soon as it is known, or that of any answer. */

import { fragment } from "./fragments.js";
import { toggle } from "./panel.js";

const frame = document.querySelector("[data-inspector]");
const note = document.querySelector("[data-inspector-note]");
const urls = new Map(); // run → address
const folded = new Map(); // section → is it open, as the reader left it
let shown = null;

async function load(run, url, label) {
  shown = run;
  note.textContent = label;
  try {
    await window.htmx.ajax("GET", url, { source: frame, target: frame, swap: "innerHTML" });
  } catch {
    // The server keeps it: Details gets it from there.
    if (shown === run) note.textContent = "not loaded: choose Details again";
  }
}

document.addEventListener("run:started", ({ detail }) => {
  urls.set(detail.run, detail.inspectorUrl);
  shown = detail.run;
  note.textContent = "this answer";
  frame.replaceChildren(fragment("spinner"));
});

document.addEventListener("run:event", ({ detail: { run, event } }) => {
  if (event.type === "request_data" && run === shown) load(run, urls.get(run), "this answer");
});

document.addEventListener("run:settled", ({ detail: { run } }) => {
  if (run === shown && urls.has(run)) load(run, urls.get(run), "latest answer");
});

document.addEventListener("run:ended", ({ detail: { run, event } }) => {
  if (run === shown && event?.type === "error" && frame.querySelector(".spinner")) {
    load(run, urls.get(run), "latest answer");
  }
});

document.addEventListener("answer:whole", ({ detail }) => {
  if (detail.inspectorUrl) load(detail.run, detail.inspectorUrl, "latest answer");
});

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("[data-inspect]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
  event.preventDefault();
  toggle("monitor", true);
  const section = frame.closest(".monitor-section");
  section.parentElement.scrollTop = section.offsetTop; // where the panel scrolls as a whole
  frame.replaceChildren(fragment("spinner"));
  load(link.dataset.inspect, link.href, "chosen answer").then(() => frame.focus({ preventScroll: true }));
});

frame.addEventListener("toggle", ({ target }) => {
  if (target.matches("[data-section]")) folded.set(target.dataset.section, target.open);
}, true);

document.addEventListener("htmx:afterSwap", ({ detail }) => {
  if (detail.target !== frame) return;
  for (const section of frame.querySelectorAll("[data-section]")) {
    if (folded.has(section.dataset.section)) section.open = folded.get(section.dataset.section);
  }
});
