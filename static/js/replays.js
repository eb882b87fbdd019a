/** Fills the columns of replays that are still running: plain text as it comes, and at the end the
 * column as the server shows it. */

import { follow } from "./stream.js";

for (const column of document.querySelectorAll("[data-running]")) {
  const answer = column.querySelector("[data-answer]");
  answer.replaceChildren();
  answer.classList.add("is-plain");
  const settle = () =>
    window.htmx.ajax("GET", column.dataset.columnUrl, { target: column, swap: "outerHTML" });
  follow(column.dataset.eventsUrl, {
    onEvent(event, number) {
      if (number === 1) answer.replaceChildren();
      if (event.type === "chunk") answer.append(event.content);
      if (event.type === "done" || event.type === "error") settle();
    },
    async onRefused() {
      settle();
      return true;
    },
  });
}
