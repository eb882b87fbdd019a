/** The console beside the chat: what happens to the runs of this session. */

import { write } from "./console_lines.js";
import { count, money, plural, seconds } from "./format.js";

const runs = new Map(); // run → {began, hasText}

function firstChunk(run) {
  if (run.hasText) return;
  run.hasText = true;
  run.latency = (performance.now() - run.began) / 1000;
  if (run.isFresh) write("info", `First chunk seen after ${seconds(run.latency, 2)}`);
  else write("info", "First chunk seen");
}

function ended(event) {
  const { metrics } = event;
  if (event.type === "error") {
    write("error", `${event.code}: ${event.message}`);
    return;
  }
  const about = metrics.estimated ? "≈" : "";
  const facts = [];
  if (metrics.total_tokens !== null) {
    facts.push(`${about}${count(metrics.prompt_tokens)} + ${about}${count(metrics.completion_tokens)} tokens`);
  }
  facts.push(metrics.cost_usd === null ? "cost unknown" : money(metrics.cost_usd));
  if (metrics.processing_time !== null) facts.push(seconds(metrics.processing_time, 2));
  if (metrics.time_to_first_chunk !== null) facts.push(`first chunk ${seconds(metrics.time_to_first_chunk, 2)}`);
  const reason = event.finish_reason && event.finish_reason !== "stop" ? ` (${event.finish_reason})` : "";
  if (event.stopped) write("warning", `Stopped: ${facts.join(", ")}`);
  else write("success", `Completed${reason}: ${facts.join(", ")}`);
}

document.addEventListener("run:started", ({ detail }) => {
  runs.set(detail.run, { began: detail.began ?? performance.now(), isFresh: detail.isFresh, hasText: false, earlierTokens: -1 });
});

document.addEventListener("run:event", ({ detail: { run: id, event } }) => {
  const run = runs.get(id);
  if (!run) return;
  switch (event.type) {
    case "metadata":
      write("info", `Stream started, run ${event.run_id.slice(0, 8)}`);
      write("info", `≈${count(event.input_tokens)} tokens in, ${count(event.context_size)} earlier messages`);
      run.earlierTokens = event.continues?.tokens ?? -1;
      if (event.continues) write("info", `Goes on with an answer of ≈${count(run.earlierTokens)} tokens`);
      break;
    case "request_data":
      write("info", `Request to ${event.metadata.provider}: ${event.metadata.model}`);
      break;
    case "reasoning":
      if (event.earlier) break;
      if (!run.isThinking) write("info", "Thinking");
      run.isThinking = true;
      break;
    case "block":
      if (event.tokens > run.earlierTokens) firstChunk(run);
      break;
    case "tool_call":
      firstChunk(run);
      if (event.name) write("info", `Tool call: ${event.name}`);
      break;
    case "retry":
      write("warning", `${event.code}: attempt ${event.attempt} of ${event.max_attempts} in ${seconds(event.delay)}`);
      break;
    case "done":
    case "error":
      ended(event);
      break;
  }
});

const CONNECTION = {
  lost: ["warning", "Connection lost"],
  resumed: ["info", "Connection resumed"],
  polling: ["warning", "The connection holds the stream back; asking every second instead"],
};

document.addEventListener("run:connection", ({ detail }) => {
  write(...CONNECTION[detail.state]);
});

document.addEventListener("run:checked", ({ detail }) => {
  if (!detail.isWhole) write("warning", "What arrived differed from what is stored: read again");
  else if (detail.length) {
    const how = detail.isExact ? "checked" : "checked by length";
    write("info", `Text complete: ${plural(detail.length, "character", "characters")}, ${how}`);
  }
});

const figure = (text) => (text ? Number(text) : null);

/** The end event of an answer that came at once, from what its markup says. */
document.addEventListener("answer:whole", ({ detail: answer }) => {
  if (!answer.run) return;
  write("info", `Answered without streaming, run ${answer.run.slice(0, 8)}`);
  const [tokensIn, tokensOut] = [figure(answer.tokensIn), figure(answer.tokensOut)];
  ended({
    type: answer.errorCode ? "error" : "done",
    code: answer.errorCode,
    message: answer.errorMessage,
    stopped: answer.status === "stopped",
    finish_reason: answer.finishReason,
    metrics: {
      prompt_tokens: tokensIn,
      completion_tokens: tokensOut,
      total_tokens: tokensIn === null || tokensOut === null ? null : tokensIn + tokensOut,
      cost_usd: figure(answer.cost),
      estimated: Boolean(answer.estimated),
      processing_time: figure(answer.seconds),
      time_to_first_chunk: figure(answer.firstChunk),
    },
  });
});
