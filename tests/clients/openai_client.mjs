// OpenAI's client for JavaScript: models, chat, streams, log-probabilities, errors, leaving, tools, Responses.

import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Where is the lift?" }];
const model = (await client.models.list()).data[0].id;
const chat = (more) => client.chat.completions.create({ model, messages, ...more });

const whole = await chat({ temperature: 0, max_tokens: 20 });
const text = whole.choices[0].message.content;
assert.ok(text);
const { prompt_tokens, completion_tokens, total_tokens } = whole.usage;
assert.equal(total_tokens, prompt_tokens + completion_tokens);

const settings = { temperature: 0, max_tokens: 20, stream: true };
let said = "";
let usage;
for await (const chunk of await chat({ ...settings, stream_options: { include_usage: true } })) {
  said += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(said, text);
assert.equal(usage.total_tokens, total_tokens);
// The second time the prompt is known.
assert.ok(usage.prompt_tokens_details.cached_tokens > 0);

// The client's own accumulation of a stream.
const runner = client.chat.completions.stream({ model, messages, temperature: 0, max_tokens: 20 });
assert.equal(await runner.finalContent(), text);

const tokens = (await chat({ max_tokens: 3, temperature: 0, logprobs: true, top_logprobs: 2 }))
  .choices[0].logprobs.content;
assert.equal(tokens.length, 3);
assert.ok(tokens.every((token) => token.top_logprobs.length === 2));

await assert.rejects(chat({ temperature: -1 }), (error) => {
  return error instanceof OpenAI.BadRequestError && error.param === "temperature";
});

// Leaving in the middle of an answer frees its place for the next.
for (let turn = 0; turn < 5; turn++) {
  const stream = await chat({ stream: true, max_tokens: 800, ignore_eos: true });
  for await (const _ of stream) {
    break;
  }
  stream.controller.abort();
}
assert.equal((await chat({ temperature: 0, max_tokens: 20 })).choices[0].message.content, text);

// Tools, put together by the client; and Responses as events.
const parameters = {
  type: "object",
  properties: { floor: { type: "integer", minimum: 0, maximum: 9 } },
  required: ["floor"],
  additionalProperties: false,
};
const forced = {
  tools: [{ type: "function", function: { name: "go", parameters } }],
  tool_choice: "required",
  parallel_tool_calls: false,
  temperature: 1,
  seed: 4,
};
const [call] = (await chat(forced)).choices[0].message.tool_calls;
assert.ok(JSON.parse(call.function.arguments).floor <= 9);
const streamed = client.chat.completions.stream({ model, messages, ...forced });
const [same] = (await streamed.finalChatCompletion()).choices[0].message.tool_calls;
assert.equal(same.function.arguments, call.function.arguments);

const flat = { type: "function", name: "go", parameters, strict: true };
const about = { model, input: "Take me up.", temperature: 1, parallel_tool_calls: false };
const response = await client.responses.create({ ...about, tools: [flat], tool_choice: "required" });
assert.equal(response.output[0].type, "function_call");
const asked = { model, input: "Where is the lift?", temperature: 0, max_output_tokens: 20 };
const whole20 = await client.responses.create(asked);
assert.equal(whole20.output_text, text);
const kinds = [];
let delta = "";
for await (const event of await client.responses.create({ ...asked, stream: true })) {
  kinds.push(event.type);
  delta += event.type === "response.output_text.delta" ? event.delta : "";
}
assert.equal(delta, text);
assert.equal(kinds[0], "response.created");
assert.ok(["response.completed", "response.incomplete"].includes(kinds.at(-1)));
