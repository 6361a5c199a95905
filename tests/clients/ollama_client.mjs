// Ollama's client for JavaScript: models, chat, generation, streams, errors.

import assert from "node:assert/strict";
import { Ollama } from "ollama";

const client = new Ollama({ host: process.argv[2] });
const messages = [{ role: "user", content: "Where is the lift?" }];
const options = { temperature: 0, num_predict: 20 };

const model = (await client.list()).models[0].name;
assert.equal((await client.ps()).models[0].name, model);
assert.ok((await client.show({ model })).capabilities.includes("completion"));

const whole = await client.chat({ model, messages, options });
const text = whole.message.content;
assert.ok(text && whole.done);
let said = "";
for await (const piece of await client.chat({ model, messages, options, stream: true })) {
  said += piece.message.content;
}
assert.equal(said, text);

const prompt = "Where is the lift?";
assert.equal((await client.generate({ model, prompt, options })).response, text);
said = "";
for await (const piece of await client.generate({ model, prompt, options, stream: true })) {
  said += piece.response;
}
assert.equal(said, text);

const wrong = client.chat({ model, messages, options: { temperature: -1 } });
await assert.rejects(wrong, (error) => error.message.includes("options.temperature"));

const parameters = { type: "object", properties: { on: { type: "boolean" } }, required: ["on"] };
const tool = { type: "function", function: { name: "light", description: "", parameters } };
const heard = await client.chat({ model, messages, tools: [tool], options: { num_predict: 8 } });
assert.ok(heard.done && typeof heard.message.content === "string");
const format = { ...parameters, additionalProperties: false };
const formed = await client.chat({ model, messages, format, options: { seed: 1 } });
assert.equal(typeof JSON.parse(formed.message.content).on, "boolean");
