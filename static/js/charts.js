/** Reads out the day of a chart that the pointer is on, or that the arrow keys lead to. */

const MOVES = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };

function watch(chart) {
  const frame = chart.querySelector("[data-frame]");
  const reading = chart.querySelector("[data-reading]");
  if (!frame) return;
  const days = [...frame.querySelectorAll("[data-day]")];
  const words = reading.textContent;
  let at = days.length; // the first step to the left is the newest day

  function show(next) {
    days[at]?.classList.remove("is-read");
    at = next;
    days[at]?.classList.add("is-read");
    reading.textContent = days[at]?.querySelector("title").textContent ?? words;
  }

  for (const name of ["pointermove", "pointerdown"]) { // a finger does not move first
    frame.addEventListener(name, ({ target }) => {
      const day = target.closest("[data-day]");
      if (day && day !== days[at]) show(days.indexOf(day));
    });
  }
  frame.addEventListener("blur", () => show(days.length));
  frame.addEventListener("pointerleave", ({ pointerType }) => {
    if (pointerType === "mouse") show(days.length); // a finger leaves at once
  });
  frame.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (move === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    show(Math.min(Math.max(at + move, 0), days.length - 1));
  });
}

for (const chart of document.querySelectorAll("[data-chart]")) watch(chart);
