/** Keys that work everywhere in the chat, and the list of them. */

import { codeOf, copyWith } from "./clipboard.js";
import { toggle } from "./panel.js";

const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
const dialog = document.querySelector("[data-shortcuts]");
if (isMac) for (const key of dialog.querySelectorAll("[data-mod]")) key.textContent = "⌘";

function showList() {
  for (const menu of document.querySelectorAll(":popover-open")) menu.hidePopover();
  if (!dialog.open) dialog.showModal();
}

const last = (selector) => [...document.querySelectorAll(selector)].at(-1);

function copyLastCode() {
  const block = last("[data-transcript] .code-block");
  if (block) copyWith(block.querySelector("[data-copy-code]"), codeOf(block));
}

const WITH_SHIFT = {
  KeyO: () => document.querySelector("[data-new-chat]").requestSubmit(),
  KeyS: () => toggle("sidebar"),
  KeyC: () => last("[data-copies-answer]")?.click(),
  Semicolon: copyLastCode,
};

document.addEventListener("click", ({ target }) => {
  if (target.closest?.("[data-open-shortcuts]")) showList();
});

document.addEventListener("keydown", (event) => {
  if (event.isComposing || event.altKey) return;
  const withMod = isMac ? event.metaKey : event.ctrlKey;
  if (event.shiftKey && event.key === "Escape") {
    event.preventDefault();
    document.getElementById("prompt")?.focus();
  } else if (withMod && event.shiftKey && event.code in WITH_SHIFT) {
    event.preventDefault();
    WITH_SHIFT[event.code]();
  } else if (withMod && !event.shiftKey && event.key === "/") {
    event.preventDefault();
    showList();
  } else if (event.key === "?" && !withMod && !event.target.closest?.("input, textarea, [contenteditable]")) {
    event.preventDefault();
    showList();
  }
});
