/** Asks once, by a plain request, for the events of a run that there are at this moment. */

import { parse } from "./sse.js";

const PATIENCE = 10_000; // ms

/** The events in the answer; null if it says that there is nothing to be had here: the run is over
 * and known to its end, the person is signed out, or the run is gone. Throws where the server was
 * not reached, was busy, or somebody else answered in its place. */
export async function poll(url, controller) {
  const timer = setTimeout(() => controller.abort(), PATIENCE);
  try {
    const answer = await fetch(url, { signal: controller.signal, cache: "no-store" });
    if (answer.status === 429 || answer.status >= 500) throw new Error(`The server is busy (${answer.status}).`);
    if (answer.status !== 200 || answer.redirected) return null;
    return parse(await answer.text());
  } finally {
    clearTimeout(timer);
  }
}
