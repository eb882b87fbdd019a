/** Tokens and cost of the chat, in its head. */

import { count, money } from "./format.js";

const box = () => document.querySelector("[data-totals]");

/** The server's own figures came with an answer. */
export function replace(totals) {
  box().replaceWith(document.importNode(totals, true));
}

/** Until they do, the run's are added to those that stand there. */
export function add(metrics) {
  const totals = box();
  const tokens = Number(totals.dataset.tokens) + (metrics.total_tokens ?? 0);
  totals.dataset.tokens = tokens;
  totals.querySelector("[data-totals-tokens]").textContent = count(tokens);
  if (totals.dataset.cost === "" && tokens !== metrics.total_tokens) return;
  if (metrics.cost_usd === null) return;
  const cost = Number(totals.dataset.cost) + metrics.cost_usd;
  totals.dataset.cost = cost;
  totals.querySelector("[data-totals-cost]").textContent = money(cost);
}

/** A run that failed does not say what it used: the page knows. */
export function reload() {
  const figures = { source: box().parentElement, target: box(), select: "#chat-totals", swap: "outerHTML" };
  // Without a network the old figures stay, until the next answer or a reload.
  return window.htmx.ajax("GET", location.pathname, figures).catch(() => {});
}
