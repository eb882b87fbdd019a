/** `<local-time datetime="…">`: the reader's own time, with the exact UTC moment on hover. */

const clock = { hour: "2-digit", minute: "2-digit" };
const date = { day: "numeric", month: "short" };
// Made once: a page may have hundreds of times, and each formatter takes a while.
const formats = {
  time: new Intl.DateTimeFormat(undefined, clock),
  date: new Intl.DateTimeFormat(undefined, { ...date, ...clock }),
  year: new Intl.DateTimeFormat(undefined, { ...date, ...clock, year: "numeric" }),
  full: new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" }),
};

function label(moment, isFull) {
  if (isFull) return formats.full.format(moment);
  const now = new Date();
  if (moment.toDateString() === now.toDateString()) return formats.time.format(moment);
  return formats[moment.getFullYear() === now.getFullYear() ? "date" : "year"].format(moment);
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
