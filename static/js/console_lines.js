/** A console: one line an event, the newest last; to clear, copy and download. */

import { copyWith } from "./clipboard.js";
import { clockTime } from "./format.js";

const MOST = 1_000; // lines
const NEAR = 24; // px
const frame = document.querySelector("[data-console-frame]");
const lines = document.querySelector("[data-console]");
const empty = document.querySelector("[data-console-empty]");

/** Levels are `info`, `success`, `warning` and `error`. */
export function write(level, text) {
  const isAtEnd = frame.scrollHeight - frame.clientHeight - frame.scrollTop < NEAR;
  const line = document.createElement("li");
  line.className = "console-line";
  line.dataset.level = level;
  for (const [name, words] of [["time", clockTime(new Date())], ["level", level], ["text", text]]) {
    const cell = document.createElement("span");
    cell.className = `console-${name}`;
    cell.textContent = words;
    line.append(cell);
  }
  lines.append(line);
  if (lines.childElementCount > MOST) lines.firstElementChild.remove();
  empty.hidden = true;
  if (isAtEnd) frame.scrollTop = frame.scrollHeight;
}

const asText = () =>
  [...lines.children].map((line) => [...line.children].map((cell) => cell.textContent).join("\t")).join("\n");

document.querySelector("[data-console-clear]").addEventListener("click", () => {
  lines.replaceChildren();
  empty.hidden = false;
});

document.querySelector("[data-console-copy]").addEventListener("click", ({ currentTarget }) => {
  copyWith(currentTarget, asText());
});

document.querySelector("[data-console-download]").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${asText()}\n`], { type: "text/plain" }));
  link.download = `console-${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.txt`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1_000);
});
