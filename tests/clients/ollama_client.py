"""Ollama's client for Python: models, chat, generation, streams, errors."""

import json
import sys

from ollama import Client, ResponseError

client = Client(host=sys.argv[1], timeout=60)
asked = [{"role": "user", "content": "Where is the lift?"}]
options = {"temperature": 0, "num_predict": 20, "num_ctx": 8192}

listed = client.list().models
model = listed[0].model
assert len(listed) == 1 and listed[0].size > 0
assert client.ps().models[0].model == model
shown = client.show(model)
assert "completion" in shown.capabilities and shown.modelinfo

whole = client.chat(model, asked, options=options, keep_alive="5m")
text = whole.message.content
assert text and whole.done and whole.done_reason in ("stop", "length")
assert whole.eval_count <= 20 and whole.prompt_eval_count > 0 and whole.total_duration > 0
pieces = list(client.chat(model, asked, options=options, stream=True))
assert "".join(p.message.content for p in pieces) == text
assert pieces[-1].done and not any(p.done for p in pieces[:-1])

whole = client.generate(model, "Where is the lift?", options=options, think=False)
assert whole.response == text
pieces = client.generate(model, "Where is the lift?", options=options, stream=True)
assert "".join(p.response for p in pieces) == text
assert client.generate(model).done_reason == "load"
raw = client.generate(model, "The museum", raw=True, options={"num_predict": 3})
assert raw.eval_count <= 3

try:
    client.chat(model, asked, options={"temperature": -1})
    raise AssertionError("a temperature below 0 was accepted")
except ResponseError as error:
    assert error.status_code == 400 and "options.temperature" in error.error

# Tools, and a schema.
parameters = {
    "type": "object",
    "properties": {"room": {"type": "string", "enum": ["hall", "lift"]}},
    "required": ["room"],
}
tool = {"type": "function", "function": {"name": "light", "description": "On.", "parameters": parameters}}
assert "tools" in shown.capabilities
heard = client.chat(model, asked, tools=[tool], options={"num_predict": 8})
assert heard.message.content is not None
told = [*asked, {"role": "assistant", "tool_calls": [{"function": {"name": "light", "arguments": {"room": "hall"}}}]},
        {"role": "tool", "tool_name": "light", "content": "It is on."}]
assert client.chat(model, told, tools=[tool], options=options).done
formed = client.chat(model, asked, format={**parameters, "additionalProperties": False}, options={"seed": 1})
assert json.loads(formed.message.content)["room"] in ("hall", "lift")
