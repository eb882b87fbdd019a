/** Reads server-sent events from a whole text, in the one form in which our server writes them
 * (conversations/sse.py). A text that is cut, or that somebody else has written, throws. */

const FRAME = /^id: ([0-9a-f-]{36}:\d{1,9})\n(?:event: \w+\n)?data: (\{[^\r\n]*\})$/;
const PING = ": ping";
const END = "\n\n";

/** What an EventSource gives its listeners, in order: `[{lastEventId, data}]`. */
export function parse(text) {
  if (!text.endsWith(END)) throw new SyntaxError("The events are cut.");
  return text
    .slice(0, -END.length)
    .split(END)
    .filter((frame) => frame !== PING)
    .map((frame) => {
      const found = FRAME.exec(frame);
      if (!found) throw new SyntaxError("These are no events of ours.");
      return { lastEventId: found[1], data: found[2] };
    });
}

export const numberOf = (lastEventId) => Number(lastEventId.slice(lastEventId.lastIndexOf(":") + 1));
