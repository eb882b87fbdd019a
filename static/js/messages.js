/** What can be done with messages that are there: delete one, ask one again. */

import { seconds } from "./format.js";
import { announce } from "./fragments.js";

const transcript = () => document.querySelector("[data-transcript]");

// Deleting may change more than the message itself: the server's transcript takes its place.
document.addEventListener("htmx:afterRequest", async ({ detail }) => {
  if (!detail.requestConfig.elt.matches("[data-deletes-message]") || !detail.successful) return;
  await window.htmx.ajax("GET", location.pathname, {
    source: transcript(),
    target: transcript(),
    select: "#transcript > *",
    swap: "innerHTML",
  });
  announce("transcript:changed", { isOurs: true });
});

// Retry waits as long as the provider asked for.

function countDown() {
  let isCounting = false;
  for (const button of document.querySelectorAll("[data-retry-after]")) {
    const ends = Date.parse(button.dataset.ended) + Number(button.dataset.retryAfter) * 1_000;
    const left = (ends - Date.now()) / 1_000;
    const label = button.querySelector("[data-retry-label]");
    if (left > 0) {
      isCounting = true;
      button.disabled = true;
      label.textContent = `Retry in ${seconds(Math.ceil(left), 0)}`;
    } else {
      button.disabled = false;
      label.textContent = "Retry";
      delete button.dataset.retryAfter;
    }
  }
  if (isCounting) setTimeout(countDown, 250);
}

let isWaiting = false;
function watch() {
  if (isWaiting) return;
  isWaiting = true;
  queueMicrotask(() => {
    isWaiting = false;
    countDown();
  });
}

document.addEventListener("run:settled", watch);
document.addEventListener("transcript:changed", watch);
document.addEventListener("htmx:afterSwap", watch);
watch();

// Retry, Ask again and Continue start a run like the message box does.

const LABELS = "[data-retry-label], [data-continue-label]";
const asksAgain = ({ elt }) => elt.matches("[data-retry], [data-asks-again], [data-continue]");

function label(button, isRunning) {
  const words = button.querySelector(LABELS);
  if (!words) return;
  if (button.matches("[data-continue]")) words.textContent = isRunning ? "Continuing" : "Continue";
  else words.textContent = isRunning ? "Retrying" : "Retry";
}

document.addEventListener("htmx:beforeRequest", ({ detail }) => {
  if (!asksAgain(detail.requestConfig)) return;
  label(detail.requestConfig.elt, true);
  announce("run:pending", { isRetry: true });
});
document.addEventListener("htmx:afterRequest", ({ detail }) => {
  if (!asksAgain(detail.requestConfig)) return;
  label(detail.requestConfig.elt, false);
  announce("run:answered");
});
