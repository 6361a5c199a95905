"""What programs send first, by its shape: Home Assistant, Open WebUI, n8n, LibreChat and Continue."""

import json
import sys
import time
import urllib.error
import urllib.request

server = sys.argv[1]


def send(path, body=None, headers=None):
    """The status, and the body as text."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": "Bearer none", **(headers or {})}
    request = urllib.request.Request(server + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def ok(path, body=None, headers=None):
    status, text = send(path, body, headers)
    assert status == 200, (path, status, text)
    return text


def last(text):
    """The last event of a stream with a choice."""
    events = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events if json.loads(event)["choices"]][-1]


# All of them want the models soon.
start = time.monotonic()
model = json.loads(ok("/v1/models"))["data"][0]["id"]
assert json.loads(ok("/api/tags"))["models"][0]["model"] == model
assert time.monotonic() - start < 10
hello = [{"role": "user", "content": "Hello"}]

# Home Assistant: the model, then a conversation with many tools, as lines.
assert "tools" in json.loads(ok("/api/show", {"model": model}))["capabilities"]
switch = {
    "type": "object",
    "required": [],
    "properties": {
        "name": {"type": "string"},
        "area": {"type": "string"},
        "floor": {"type": "string"},
        "domain": {"type": "array", "items": {"type": "string"}},
        "device_class": {"type": "array", "items": {"type": "string", "enum": ["outlet", "switch"]}},
        "brightness": {"type": "integer", "minimum": 0, "maximum": 100, "description": "0 to 100"},
        "color": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
}
names = ["HassTurnOn", "HassTurnOff", "HassLightSet", "GetLiveContext"]
tools = [
    {"type": "function", "function": {"name": name, "description": "", "parameters": switch}}
    for name in names
]
system = {"role": "system", "content": "You are a voice assistant for Home Assistant."}
lines = ok(
    "/api/chat",
    {"model": model, "messages": [system, *hello], "tools": tools, "stream": True, "think": False,
     "format": "", "keep_alive": "-1s", "options": {"num_ctx": 8192, "num_predict": 4}},
)
assert json.loads(lines.splitlines()[-1])["done"]

# Open WebUI: a stream with usage, and its tasks for titles and tags.
stream = ok(
    "/v1/chat/completions",
    {"model": model, "messages": hello, "stream": True, "stream_options": {"include_usage": True},
     "max_tokens": 4, "metadata": {"chat_id": "1"}, "user": "u"},
)
assert last(stream)["choices"][0]["finish_reason"]
title = {"model": model, "messages": hello, "stream": False, "max_completion_tokens": 4}
assert json.loads(ok("/v1/chat/completions", title))["choices"]
json.loads(ok("/api/version"))

# n8n: Responses, with a strict schema and an agent's tools.
strict = {"type": "object", "properties": {"output": {"type": "string", "maxLength": 8}},
          "required": ["output"], "additionalProperties": False}
ok(
    "/v1/responses",
    {"model": model, "input": [{"type": "message", "role": "user", "content": "Hello"}], "store": False,
     "stream": False, "max_output_tokens": 4, "parallel_tool_calls": True, "truncation": "disabled",
     "tools": [{"type": "function", "name": "calculator", "description": "", "strict": False,
                "parameters": {"type": "object", "properties": {"input": {"type": "string"}},
                               "additionalProperties": False,
                               "$schema": "http://json-schema.org/draft-07/schema#"}}],
     "text": {"format": {"type": "text"}}, "metadata": {}},
)
ok(
    "/v1/responses",
    {"model": model, "input": "Hello", "stream": True, "max_output_tokens": 40,
     "text": {"format": {"type": "json_schema", "name": "extract", "strict": True, "schema": strict}}},
)

# LibreChat: a title by itself, then a stream; its agents probe with a tool that has nothing.
probe = {"type": "function", "function": {"name": "noop", "description": "", "parameters": {}}}
for parameters in [{}, {"type": "object", "properties": {}}, None]:
    probe["function"]["parameters"] = parameters
    probed = {"model": model, "messages": hello, "tools": [probe], "max_tokens": 3}
    assert json.loads(ok("/v1/chat/completions", probed))["choices"][0]["finish_reason"]
stream = ok(
    "/v1/chat/completions",
    {"model": model, "messages": hello, "stream": True, "tools": [probe], "tool_choice": "auto",
     "max_tokens": 4, "temperature": 0, "presence_penalty": 0, "frequency_penalty": 0, "top_p": 1, "stop": []},
)
assert last(stream)["choices"][0]["finish_reason"] == "length"

# Continue: Ollama's show, a stream of a chat, and a completion that fills in.
shown = json.loads(ok("/api/show", {"name": model}))
assert shown["model_info"] and isinstance(shown["parameters"], str)
ok("/api/chat", {"model": model, "messages": hello, "stream": True, "keep_alive": 1800,
                 "options": {"num_predict": 4, "stop": ["<|im_end|>"], "num_ctx": 4096}})
ok("/api/generate", {"model": model, "prompt": "fn main", "raw": True, "stream": True,
                     "options": {"num_predict": 4, "temperature": 0.01}})
ok("/completion", {"prompt": "fn main", "n_predict": 4, "stream": True, "stop": ["\n\n"]})
assert json.loads(ok("/props"))["total_slots"] > 0
