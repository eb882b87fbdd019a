/** The regions beside the transcript: folded and sized on wide screens, drawers on narrow ones. */

const root = document.documentElement;
const MOST = 720; // px
const LEAST = 300; // px
const REGIONS = {
  sidebar: matchMedia("(width < 48rem)"),
  monitor: matchMedia("(width < 64rem)"),
};
const scrim = document.querySelector("[data-scrim]");
const main = document.getElementById("main");
let opener = null;

function remembered(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null; // storage is switched off
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // As above: then it holds for this page.
  }
}

const isNarrow = (name) => REGIONS[name].matches;

export function isOpen(name) {
  return isNarrow(name) ? root.dataset.drawer === name : root.dataset[name] === "open";
}

function showDrawer(name) {
  if (name) root.dataset.drawer = name;
  else delete root.dataset.drawer;
  scrim.hidden = !name;
  main.inert = Boolean(name);
}

function show() {
  for (const button of document.querySelectorAll("[data-toggle]")) {
    button.setAttribute("aria-expanded", String(isOpen(button.dataset.toggle)));
  }
}

/** Opens (`true`), closes (`false`) or switches a region. */
export function toggle(name, wanted = !isOpen(name)) {
  if (isNarrow(name)) {
    if (wanted) {
      opener = document.activeElement;
      showDrawer(name);
      const panel = document.querySelector(`[data-drawer-panel="${name}"]`);
      panel.querySelector("[data-toggle], button")?.focus({ preventScroll: true });
    } else if (root.dataset.drawer === name) {
      showDrawer(null);
      opener?.focus?.({ preventScroll: true });
    }
  } else {
    root.dataset[name] = wanted ? "open" : "folded";
    remember(name, root.dataset[name]);
  }
  show();
}

export const closeDrawer = () => root.dataset.drawer && toggle(root.dataset.drawer, false);

// Width of the monitor

const resizer = document.querySelector("[data-resizer]");

function widen(width) {
  const most = Math.min(MOST, innerWidth * 0.6);
  const value = Math.round(Math.min(Math.max(width, LEAST), most));
  root.style.setProperty("--monitor-width", `${value}px`);
  resizer.setAttribute("aria-valuenow", value);
  remember("monitor-width", value);
}

const currentWidth = () => document.getElementById("monitor").getBoundingClientRect().width;

resizer.setAttribute("aria-valuemin", LEAST);
resizer.setAttribute("aria-valuemax", MOST);
resizer.setAttribute("aria-valuenow", 416);
resizer.addEventListener("pointerdown", (event) => {
  event.preventDefault();
  resizer.setPointerCapture(event.pointerId);
  resizer.classList.add("is-dragging");
  document.body.classList.add("is-resizing");
});
resizer.addEventListener("pointermove", (event) => {
  if (resizer.hasPointerCapture(event.pointerId)) widen(innerWidth - event.clientX);
});
for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
  resizer.addEventListener(name, () => {
    resizer.classList.remove("is-dragging");
    document.body.classList.remove("is-resizing");
  });
}
resizer.addEventListener("keydown", (event) => {
  const step = event.shiftKey ? 64 : 16;
  if (event.key === "ArrowLeft") widen(currentWidth() + step);
  else if (event.key === "ArrowRight") widen(currentWidth() - step);
  else if (event.key === "Home") widen(MOST);
  else if (event.key === "End") widen(LEAST);
  else if (event.key === "Enter") toggle("monitor", false);
  else return;
  event.preventDefault();
});
resizer.addEventListener("dblclick", () => widen(416));

// Start

for (const name of Object.keys(REGIONS)) {
  const state = remembered(name);
  if (state === "open" || state === "folded") root.dataset[name] = state;
  REGIONS[name].addEventListener("change", () => {
    showDrawer(null);
    show();
  });
}
const width = Number(remembered("monitor-width"));
if (width) widen(width);
show();

document.addEventListener("click", ({ target }) => {
  const button = target.closest?.("[data-toggle]");
  if (button) toggle(button.dataset.toggle);
});
scrim.addEventListener("click", closeDrawer);
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || event.shiftKey || !root.dataset.drawer) return;
  if (document.querySelector(":popover-open, dialog[open]")) return;
  event.preventDefault();
  closeDrawer();
});
