/** OpenAI's own JavaScript client against the address and with the token of the environment. Writes
 * what it found as one JSON object. */

import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0 }); // OPENAI_BASE_URL, OPENAI_API_KEY
const messages = [{ role: "user", content: "hello" }];
const found = { models: [] };

for await (const model of await client.models.list()) found.models.push(model.id);

const whole = await client.chat.completions.create({ model: "double", messages });
found.whole = whole.choices[0].message.content;
found.usage = whole.usage.total_tokens;

found.pieces = [];
const stream = await client.chat.completions.create({ model: "double", messages, stream: true });
for await (const chunk of stream) {
  const text = chunk.choices[0]?.delta?.content;
  if (text) found.pieces.push(text);
}

try {
  await client.chat.completions.create({ model: "nobody", messages });
} catch (error) {
  found.error = { name: error.constructor.name, status: error.status, code: error.code };
}

process.stdout.write(JSON.stringify(found));
