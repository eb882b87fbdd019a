/** Compares what arrived with what the server says it has sent (the `view` of an end event). */

/** The blocks as one text; null if there is one too many. */
function joined(blocks, count) {
  for (const [index, html] of blocks) if (index >= count && html) return null;
  return Array.from({ length: count }, (_, index) => blocks.get(index)).join("\n");
}

/** The server counts code points, a string of ours two units for some of them. */
const codePoints = (text) => text.length - (text.match(/[\ud800-\udbff][\udc00-\udfff]/g)?.length ?? 0);

async function sha256(text) {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Browsers have no digests for pages that came by plain HTTP from another machine. */
export const isExact = Boolean(globalThis.crypto?.subtle);

/** Whether `blocks` (index → HTML) are those of the `view`: their number and their length, and,
 * where the check is exact, every byte. */
export async function agrees(blocks, view) {
  const html = joined(blocks, view.blocks);
  if (html === null || codePoints(html) !== view.length) return false;
  return !isExact || (await sha256(html)) === view.sha256;
}
