/** Judges how a stream of probes arrived, and says what to change. Pure: figures in, words out.
 *
 * A record: {
 *   status, type        of the HTTP answer: its code and Content-Type
 *   headers             {name in lower case: value}, those that tell of a proxy
 *   of                  how many events were asked for
 *   interval, silence   seconds between two events, and those of the silence after the last
 *   events              [{sentAt, arrivedAt}], seconds; the two clocks begin at moments of their own
 *   end                 the same of the last event, which follows the silence; null: it never came
 *   endedAt             when the connection was over, on the clock of the arrivals
 *   lastByteAt          when anything came last, pings too
 * }
 */

const SLOW = 0.25; // s that an event may be late on an ordinary way
const TOGETHER = 0.02; // s between events that arrived in one lump
const FLOWING = 1.5; // s since the last byte within which a cut is not for want of bytes

const median = (values) => {
  const sorted = [...values].sort((one, other) => one - other);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

/** What happened: {
 *   verdict      "live", "buffered", "cut", "failed"
 *   isHeld       events came later than they were sent; also where the verdict is "cut"
 *   isAtEnd      all of them together, when the stream ended
 *   lumps        in how many lumps they came
 *   heldFor      s that the latest of them was late, compared with the quickest
 *   usualDelay   the median of that
 *   longestGap   s between two events
 *   cutAfter     s from the first sign to the cut; null: it was not cut
 *   silentFor    s without a byte before the cut
 *   isByTime     cut although bytes were coming
 *   encoding     how the stream is compressed, or ""
 * }
 */
export function judge(record) {
  const encoding = (record.headers["content-encoding"] ?? "").replace("identity", "");
  const nothing = {
    isHeld: false,
    isAtEnd: false,
    lumps: 0,
    heldFor: 0,
    usualDelay: 0,
    longestGap: 0,
    cutAfter: null,
    silentFor: 0,
    isByTime: false,
    encoding,
  };
  if (record.status !== 200 || !record.type.startsWith("text/event-stream")) {
    return { ...nothing, verdict: "failed" };
  }
  const { events, end } = record;
  const isCut = end === null;
  // The clocks differ by an unknown amount: the quickest event is the measure for the others.
  const lags = [...events, ...(end ? [end] : [])].map(({ sentAt, arrivedAt }) => arrivedAt - sentAt);
  const quickest = Math.min(...lags);
  const delays = lags.slice(0, events.length).map((lag) => lag - quickest);
  const gaps = events.slice(1).map(({ arrivedAt }, index) => arrivedAt - events[index].arrivedAt);
  const lumps = events.length ? 1 + gaps.filter((gap) => gap > Math.min(TOGETHER, record.interval / 2)).length : 0;
  const usualDelay = delays.length ? median(delays) : 0;
  const isHeld = usualDelay > Math.max(SLOW, 2 * record.interval);
  const first = events[0]?.arrivedAt ?? 0;
  const silentFor = isCut ? record.endedAt - record.lastByteAt : 0;
  return {
    ...nothing,
    verdict: isCut ? "cut" : isHeld ? "buffered" : "live",
    isHeld,
    isAtEnd: isHeld && lumps === 1 && record.endedAt - first < FLOWING,
    lumps,
    heldFor: delays.length ? Math.max(...delays) : 0,
    usualDelay,
    longestGap: gaps.length ? Math.max(...gaps) : 0,
    cutAfter: isCut ? record.endedAt : null,
    silentFor,
    isByTime: isCut && !isHeld && events.length > 0 && silentFor < FLOWING && record.endedAt > FLOWING,
  };
}

const s = (value) => `${value.toFixed(value < 10 ? 2 : 1)} s`;

/** The same in words for people: {title, text}. */
export function words(found, record) {
  switch (found.verdict) {
    case "failed":
      return {
        title: `No stream: the answer was ${record.status}`,
        text: "Something between this browser and the server answered in its place, or the server refused. The log of the proxy says more.",
      };
    case "live":
      return {
        title: "Live",
        text: `Each event arrived as it was sent, and the silence of ${s(record.silence)} did not end the stream.`,
      };
    case "buffered":
      return {
        title: found.isAtEnd ? "Buffered: everything came at the end" : `Buffered: ${record.events.length} events came in ${found.lumps} ${found.lumps === 1 ? "lump" : "lumps"}`,
        text: `Events arrived up to ${s(found.heldFor)} late. Something on the way collects the stream before it passes it on, so answers do not appear as they are written.`,
      };
    case "cut": {
      const title = `Cut after ${s(found.cutAfter)}`;
      const held = found.isHeld ? " Until then it was held back, too." : "";
      if (record.events.length === 0) {
        return { title, text: "Not one event arrived before the connection was closed. Something on the way waits for the whole answer, and loses patience first." };
      }
      if (found.isByTime) {
        return { title, text: `The connection was closed while data were coming: something on the way limits how long an answer may take.${held}` };
      }
      return { title, text: `The connection was closed after ${s(found.silentFor)} without data. Something on the way does not wait until the next ping.${held}` };
    }
  }
}

const PROXIES = [
  ["cloudflare", /cloudflare/i],
  ["caddy", /caddy/i],
  ["apache", /apache/i],
  ["iis", /microsoft-iis|\barr\b/i],
  ["nginx", /nginx|openresty/i],
  ["traefik", /traefik/i],
];

/** Which proxy the headers of an answer speak of: a key of ADVICE, or null for none that is known. */
export function proxyOf(headers) {
  const said = ["server", "via", "x-powered-by"].map((name) => headers[name] ?? "").join(" ");
  const named = PROXIES.find(([, pattern]) => pattern.test(said))?.[0];
  // nginx alone takes this header out of what it passes on.
  return named ?? ("x-accel-buffering" in headers ? null : "nginx");
}

/** By proxy: its name, where the lines belong, and what they are for streams that are held back
 * and for streams that are cut. */
export const ADVICE = {
  nginx: {
    name: "nginx",
    where: "In the location that passes to llmchat. Take out any “proxy_ignore_headers X-Accel-Buffering”.",
    held: ["proxy_buffering off;", "gzip off;"],
    cut: ["proxy_read_timeout 60s;"],
  },
  apache: {
    name: "Apache",
    where: "In the virtual host, with mod_proxy_http.",
    held: ['ProxyPass "/" "http://127.0.0.1:8000/" flushpackets=on', "SetEnv no-gzip 1"],
    cut: ["ProxyTimeout 60"],
  },
  caddy: {
    name: "Caddy",
    where: "In the Caddyfile, in place of the reverse_proxy line.",
    held: ["reverse_proxy 127.0.0.1:8000 {", "    flush_interval -1", "}"],
    cut: ["reverse_proxy 127.0.0.1:8000 {", "    transport http {", "        read_timeout 60s", "    }", "}"],
  },
  traefik: {
    name: "Traefik",
    where: "Use no buffering middleware for this router; compression has to leave streams alone. Timeouts belong to the entry point.",
    held: ["http:", "  middlewares:", "    compressed:", "      compress:", "        excludedContentTypes:", "          - text/event-stream"],
    cut: ["entryPoints:", "  websecure:", "    transport:", "      respondingTimeouts:", "        writeTimeout: 0s"],
  },
  iis: {
    name: "IIS (Application Request Routing)",
    where: "In system.webServer: the proxy in applicationHost.config, the compression in web.config.",
    held: ['<proxy enabled="true" responseBufferLimit="0" />', '<urlCompression doDynamicCompression="false" />'],
    cut: ['<proxy enabled="true" timeout="00:01:00" />'],
  },
};

/** What to change: [{proxy, name, where, lines, isLikely}], the likeliest first; empty where
 * nothing is wrong, or nothing of the kind helps. */
export function advice(found, proxy) {
  if (found.verdict !== "buffered" && found.verdict !== "cut") return [];
  return Object.entries(ADVICE)
    .map(([key, { name, where, held, cut }]) => ({
      proxy: key,
      name,
      where,
      lines: [...(found.isHeld ? held : []), ...(found.verdict === "cut" ? cut : [])].join("\n"),
      isLikely: key === proxy,
    }))
    .sort((one, other) => other.isLikely - one.isLikely);
}
