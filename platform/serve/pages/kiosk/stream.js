// Answers as the server streams them: server-sent events with OpenAI's chunks.

/** The server refused. */
export class Refusal extends Error {
  constructor(status, error) {
    super(error?.message ?? `status ${status}`);
    this.status = status;
    this.code = error?.code ?? null;
  }
}

/** The stream ended before the answer did. */
export class Broken extends Error {}

/** Asks with a conversation; gives what the model says and thinks, and last how it ended. */
export async function* answer(messages, signal) {
  const response = await fetch("/kiosk/chat", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ messages }),
    cache: "no-store",
    signal,
  });
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    throw new Refusal(response.status, body?.error);
  }
  let ending = null;
  for await (const chunk of events(response.body)) {
    if (chunk.error) throw new Refusal(500, chunk.error);
    const choice = chunk.choices?.[0];
    if (choice?.delta?.reasoning_content) yield { thinking: choice.delta.reasoning_content };
    if (choice?.delta?.content) yield { text: choice.delta.content };
    ending = choice?.finish_reason ?? ending;
  }
  if (ending === null) throw new Broken("no ending");
  yield { ending };
}

/** The data of the events of a body, up to the last word. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Broken("the stream ended early");
      held += value;
      const whole = held.split("\n\n");
      held = whole.pop();
      for (const event of whole) {
        // Lines that begin with a colon only keep the connection open.
        if (!event.startsWith("data: ")) continue;
        const data = event.slice("data: ".length);
        if (data === "[DONE]") return;
        yield JSON.parse(data);
      }
    }
  } finally {
    // Whoever stops reading leaves; the server then frees the place.
    reader.cancel().catch(() => {});
  }
}
