/** Follows the events of a run until its end, through lost connections. */

const FIRST_WAIT = 1_000; // ms
const LONGEST_WAIT = 15_000; // ms
const QUIET = 600; // ms that a connection may be away before anyone is told

/** Calls `onEvent(event, number)` for each event, in order and once, and returns a function that
 * ends it. Event number 1 again means that the server starts over.
 *
 * A browser reconnects by itself after a broken connection, but not after a refusal (nor after a
 * 204, which looks the same to it). Then `onRefused()` is asked whether the run is over; if it
 * answers false, we connect again, with growing pauses.
 */
export function follow(eventsUrl, { onEvent, onConnection = () => {}, onRefused = async () => false }) {
  let source = null;
  let lastId = "";
  let lastNumber = 0;
  let refusals = 0;
  let timer = 0;
  let quietTimer = 0;
  let isLost = false;
  let isOver = false;

  const deliver = ({ data, lastEventId }) => {
    if (isOver) return;
    back();
    const number = Number(lastEventId.slice(lastEventId.lastIndexOf(":") + 1));
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      return; // not ours, or cut: the next reading of the log has it whole
    }
    // Blocks share the number of the last event that they cover, and may come again: drawing one
    // twice changes nothing. Anything else that came before is dropped.
    if (event.type !== "block") {
      if (number > 1 && number <= lastNumber) return;
      lastNumber = number;
    }
    lastId = lastEventId;
    if (event.type === "done" || event.type === "error") stop(); // or it would reconnect
    onEvent(event, number);
  };

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

  function connect() {
    clearTimeout(timer);
    source?.close();
    const url = new URL(eventsUrl, location.href);
    if (lastId) url.searchParams.set("last_event_id", lastId);
    source = new EventSource(url);
    source.onopen = back;
    source.onmessage = deliver;
    source.addEventListener("request_data", deliver);
    source.onerror = async ({ target }) => {
      if (isOver || target !== source) return;
      lost();
      if (source.readyState !== EventSource.CLOSED) return;
      const isFinished = await onRefused().catch(() => false);
      if (isOver || target !== source) return;
      if (isFinished) stop();
      else again();
    };
  }

  function again() {
    const wait = Math.min(FIRST_WAIT * 2 ** refusals, LONGEST_WAIT);
    refusals += 1;
    clearTimeout(timer);
    timer = setTimeout(connect, wait * (0.75 + Math.random() / 2));
  }

  // A dead network is often noticed late by the connection itself.
  const offline = () => lost();
  const online = () => {
    refusals = 0;
    connect();
  };
  const restored = ({ persisted }) => persisted && connect();

  function stop() {
    isOver = true;
    clearTimeout(timer);
    clearTimeout(quietTimer);
    source?.close();
    removeEventListener("offline", offline);
    removeEventListener("online", online);
    removeEventListener("pageshow", restored);
  }

  addEventListener("offline", offline);
  addEventListener("online", online);
  addEventListener("pageshow", restored);
  connect();
  return stop;
}
