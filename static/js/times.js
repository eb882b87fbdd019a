/** `<local-time datetime="…">`: the reader's own time, with the exact UTC moment on hover. */

const DAY = 86_400_000; // ms
const clock = { hour: "2-digit", minute: "2-digit" };

function label(moment, isFull) {
  if (isFull) return moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const now = new Date();
  if (moment.toDateString() === now.toDateString()) return moment.toLocaleTimeString([], clock);
  const day = { day: "numeric", month: "short" };
  if (now - moment > 300 * DAY) day.year = "numeric";
  return moment.toLocaleString([], { ...day, ...clock });
}

class LocalTime extends HTMLElement {
  connectedCallback() {
    const moment = new Date(this.getAttribute("datetime"));
    if (Number.isNaN(moment.getTime())) return;
    this.textContent = label(moment, "full" in this.dataset);
    this.title = moment.toISOString().replace("T", " ").replace("Z", " UTC");
  }
}

customElements.define("local-time", LocalTime);
