/** Follows the events of a run until its end, through whatever network there is.
 *
 * The way is a stream (an EventSource). But scripts do not see its pings, so a stream that brings
 * nothing may be a provider at work, a connection that died unnoticed (a laptop that slept, a phone
 * that changed networks) or a proxy that holds the stream back. After a while of silence we ask
 * once, by a plain request, what there is. If that brings what the stream did not, the stream is
 * opened anew; and if that happens to the new one too, we ask every second, until the end.
 *
 * All ways bring the same events with the same numbers, and none is delivered twice.
 */

import { poll } from "./poll.js";
import { numberOf } from "./sse.js";

const FIRST_WAIT = 1_000; // ms before the server is tried again
const LONGEST_WAIT = 15_000;
const QUIET = 600; // ms that a connection may be away before anyone is told
const SILENCE = 4_000; // ms without an event after which we ask; it grows while that brings nothing
const LONGEST_SILENCE = 15_000;
const SUSPICION = 2_000; // ms, the same for a stream that follows on one that brought nothing
const GRACE = 1_000; // ms in which a stream may still bring what we have heard by asking
const FAILED_STREAMS = 2; // after which we only ask
const POLL = 1_000; // ms between two questions then
const SHARE = 0.25; // of the time that they may take at the most: the server renders for each
const LONGEST_POLL = 5_000; // ms
const STALE = 3_000; // ms without an event after which we ask when the page comes back

const wait = (attempt) => Math.min(FIRST_WAIT * 2 ** attempt, LONGEST_WAIT) * (0.75 + Math.random() / 2);

/** Calls `onEvent(event, number)` for each event, in order and once, and returns a function that
 * ends it. Event number 1 again means that the server starts over. `onConnection` is told "lost",
 * "resumed", and "polling" where streams do not get through.
 *
 * A browser reconnects by itself after a broken connection, but not after a refusal (nor after a
 * 204, which looks the same to it). Then `onRefused()` is asked whether the run is over; if it
 * answers false, we connect again, with growing pauses.
 */
export function follow(eventsUrl, { onEvent, onConnection = () => {}, onRefused = async () => false }) {
  let lastId = ""; // of the last event that was delivered
  let last = 0; // its number
  let isOver = false;

  let source = null; // null while we only ask
  let streamHeardAt = 0; // when the stream brought anything, on the page's clock
  let refusals = 0;
  let connectTimer = 0;

  let asking = null; // the controller of the question under way
  let askTimer = 0;
  let silence = SILENCE;
  let quietSince = performance.now(); // the last event, or the last question
  let heardAt = Date.now(); // the same; the page's own clock may stand still while the machine sleeps
  let failedStreams = 0;
  let failedPolls = 0;

  let quietTimer = 0;
  let isLost = false;
  let ending = null;

  const isPolling = () => failedStreams >= FAILED_STREAMS;

  function address(parameters = {}) {
    const url = new URL(eventsUrl, location.href);
    if (lastId) url.searchParams.set("last_event_id", lastId);
    for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);
    return url;
  }

  /** Delivers an event if it is due; whether it brings something new. `before` is the number of the
   * event before it on the same way, or that at which this way began. */
  function deliver({ data, lastEventId }, before) {
    if (isOver) return false;
    const number = numberOf(lastEventId);
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      return false; // damaged on its way: what is missing then is found at the end
    }
    const startsOver = number === 1 && before >= 1;
    const isNew = startsOver || number > last;
    // Blocks share the number of the last event that they cover, and may come again: drawing one
    // twice changes nothing. An older one, or anything else that came before, is dropped.
    if (!isNew && !(event.type === "block" && number === last)) return false;
    last = number;
    lastId = lastEventId;
    if (event.type === "done" || event.type === "error") stop(); // or it would reconnect
    onEvent(event, number);
    return isNew;
  }

  function heard() {
    quietSince = performance.now();
    heardAt = Date.now();
  }

  // What people are told: one sign, and not for a moment only.

  function lost() {
    if (quietTimer || isLost || isOver) return;
    quietTimer = setTimeout(() => {
      isLost = true;
      onConnection("lost");
    }, QUIET);
  }

  function back() {
    refusals = 0;
    clearTimeout(quietTimer);
    quietTimer = 0;
    if (isLost) {
      isLost = false;
      onConnection("resumed");
    }
  }

  // The stream

  function connect() {
    clearTimeout(connectTimer);
    source?.close();
    const stream = new EventSource(address());
    source = stream;
    let before = last;
    const receive = (message) => {
      if (isOver || stream !== source) return;
      streamHeardAt = performance.now();
      back();
      if (deliver(message, before)) {
        heard();
        if (silence !== SILENCE) askIn((silence = SILENCE));
      }
      before = numberOf(message.lastEventId);
    };
    stream.onopen = () => stream === source && back();
    stream.onmessage = receive;
    stream.addEventListener("request_data", receive);
    stream.onerror = async () => {
      if (isOver || stream !== source) return;
      lost();
      if (stream.readyState !== EventSource.CLOSED) return;
      if ((await isFinished()) || stream !== source) return;
      clearTimeout(connectTimer);
      connectTimer = setTimeout(connect, wait(refusals));
      refusals += 1;
    };
  }

  /** After a refusal: whether the run is over. The two ways may ask at the same time. */
  async function isFinished() {
    ending ??= onRefused()
      .catch(() => false)
      .finally(() => {
        ending = null;
      });
    if (await ending) stop();
    return isOver;
  }

  // The questions

  function askIn(time) {
    clearTimeout(askTimer);
    askTimer = setTimeout(askIfQuiet, time);
  }

  function askIfQuiet() {
    const left = isPolling() || failedPolls ? 0 : quietSince + silence - performance.now();
    if (left > 0) askIn(left);
    else ask();
  }

  /** Asks what there is. That a stream is dead tells nothing about the network if the page
   * `hasSlept`. */
  async function ask({ hasSlept = false } = {}) {
    if (isOver || asking) return;
    clearTimeout(askTimer);
    const question = new AbortController();
    asking = question;
    const askedAt = performance.now();
    const askedFrom = last;
    const stream = source;
    const events = await poll(address({ poll: 1 }), question).catch(() => undefined);
    if (isOver || asking !== question) return;
    asking = null;
    heard();
    if (!events) {
      askIn(wait(failedPolls));
      failedPolls += 1;
      if (events === undefined) lost();
      else await isFinished();
      return;
    }
    failedPolls = 0;

    let before = askedFrom;
    let isNews = false;
    for (const message of events) {
      isNews = deliver(message, before) || isNews;
      before = numberOf(message.lastEventId);
    }
    if (isOver) return;
    if (isNews || source?.readyState !== EventSource.CLOSED) back();
    if (isPolling()) {
      askIn(Math.min(Math.max(POLL, (performance.now() - askedAt) / SHARE), LONGEST_POLL));
    } else if (!isNews) {
      silence = Math.min(silence * 1.6, LONGEST_SILENCE); // the provider is silent, all is well
      askIn(silence);
    } else {
      askIn((silence = SILENCE));
      if (askedFrom && numberOf(events[0].lastEventId) === 1) connect(); // the server starts over
      else setTimeout(() => judge(stream, askedAt, hasSlept), GRACE);
    }
  }

  /** Gives up a stream that has not brought what we have heard by asking. */
  function judge(stream, askedAt, hasSlept) {
    if (isOver || stream !== source || isPolling() || streamHeardAt >= askedAt) return;
    if (!hasSlept) failedStreams += 1;
    if (isPolling()) {
      clearTimeout(connectTimer);
      source.close();
      source = null;
      onConnection("polling");
      ask();
    } else {
      connect();
      askIn((silence = SUSPICION));
    }
  }

  // The network and the page come and go

  const offline = () => lost(); // often noticed late by the connection itself

  /** The connections of before are dead, whatever they look like. */
  function online() {
    refusals = 0;
    failedPolls = 0;
    asking?.abort();
    asking = null;
    if (isPolling()) {
      ask();
    } else {
      connect();
      askIn((silence = SUSPICION));
    }
  }

  const restored = ({ persisted }) => persisted && online();

  function shown() {
    if (document.hidden || Date.now() - heardAt < STALE) return;
    asking?.abort();
    asking = null;
    ask({ hasSlept: true });
  }

  function stop() {
    isOver = true;
    for (const timer of [connectTimer, askTimer, quietTimer]) clearTimeout(timer);
    asking?.abort();
    source?.close();
    removeEventListener("offline", offline);
    removeEventListener("online", online);
    removeEventListener("pageshow", restored);
    document.removeEventListener("visibilitychange", shown);
  }

  addEventListener("offline", offline);
  addEventListener("online", online);
  addEventListener("pageshow", restored);
  document.addEventListener("visibilitychange", shown);
  connect();
  askIn(silence);
  return stop;
}
