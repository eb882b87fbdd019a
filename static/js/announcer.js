/** Tells screen readers what is written, block by block, in one polite live region. */

const LONGEST = 3_000; // characters of one block
const region = () => document.querySelector("[data-announcer]");

export function clear() {
  region().replaceChildren();
}

export function say(text) {
  const words = text.trim().replace(/\s+/g, " ").slice(0, LONGEST);
  if (!words) return;
  const line = document.createElement("p");
  line.textContent = words;
  region().append(line);
}
