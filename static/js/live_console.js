/** The console of the live board: what happens to the runs of all sessions, as the board tells it. */

import { write } from "./console_lines.js";
import { count, seconds } from "./format.js";

const YOUNG = 3; // s
const ENDS = {
  done: ["success", "Completed"],
  stopped: ["warning", "Stopped"],
  error: ["error", "Failed"],
  interrupted: ["error", "Interrupted: its process went away"],
  deleted: ["warning", "Deleted with its chat"],
};

const about = ({ run_id: id, user, configuration }) =>
  `${user ?? "command line"}, ${configuration}, run ${id.slice(0, 8)}`;

/** What has changed between two looks, as [level, words]. */
function* changes(before, now) {
  if (!before) yield ["info", now.age > YOUNG ? `Under way for ${seconds(now.age, 0)}` : "Started"];
  else if (now.attempt > before.attempt) yield ["warning", `Attempt ${now.attempt}`];
  if (now.time_to_first_chunk !== null && !(before && before.time_to_first_chunk !== null)) {
    yield ["info", `First chunk after ${seconds(now.time_to_first_chunk, 2)}`];
  }
  if (now.state !== before?.state) {
    if (now.state === "stalled") yield ["warning", "Stalled: nothing comes any more"];
    else if (now.state === "lost") yield ["error", "Its process does not answer"];
    else if (before?.state === "stalled") yield ["info", "Goes on"];
  }
  if (now.is_stopping && !before?.is_stopping) yield ["info", "Is being stopped"];
}

document.addEventListener("live:run", ({ detail: { before, now } }) => {
  for (const [level, words] of changes(before, now)) write(level, `${words} · ${about(now)}`);
});

document.addEventListener("live:end", ({ detail: { last, status, age } }) => {
  const [level, words] = ENDS[status] ?? ["info", status];
  const tokens = last.tokens ? `, ≈${count(last.tokens)} tokens so far` : "";
  write(level, `${words} after ${seconds(age, 1)}${tokens} · ${about(last)}`);
});

const CONNECTION = {
  live: ["info", "Connected"],
  lost: ["warning", "Connection lost"],
  ended: ["warning", "Signed out"],
};

document.addEventListener("live:connection", ({ detail: { state } }) => {
  if (CONNECTION[state]) write(...CONNECTION[state]);
});
