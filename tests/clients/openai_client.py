"""OpenAI's client for Python: models, chat, streams, log-probabilities, errors, leaving, tools, schemas, Responses."""

import json
import sys

import openai
from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0, timeout=60)
asked = [{"role": "user", "content": "Where is the lift?"}]


def chat(**more):
    return client.chat.completions.create(model=model, messages=asked, **more)


# The model list, and one of them.
models = client.models.list().data
model = models[0].id
assert len(models) == 1 and client.models.retrieve(model).id == model

# A whole answer, and the same as a stream.
whole = chat(temperature=0, max_tokens=20)
text = whole.choices[0].message.content
assert text and whole.choices[0].finish_reason in ("stop", "length")
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
assert whole.usage.prompt_tokens_details.cached_tokens >= 0
chunks = list(
    chat(temperature=0, max_tokens=20, stream=True, stream_options={"include_usage": True})
)
pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
assert "".join(pieces) == text
assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
# The second time the prompt is known.
assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0
ends = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
assert ends == [whole.choices[0].finish_reason]

# The client's own accumulation of a stream.
with client.chat.completions.stream(
    model=model, messages=asked, temperature=0, max_completion_tokens=20
) as stream:
    assert stream.get_final_completion().choices[0].message.content == text

# Fields that change an answer, and fields that do not.
seeded = [chat(seed=3, temperature=1, max_tokens=8).choices[0].message.content for _ in range(2)]
assert seeded[0] == seeded[1]
several = chat(n=2, seed=3, temperature=1, max_tokens=8, user="u", metadata={"a": "b"}, store=False)
assert [c.index for c in several.choices] == [0, 1]
assert several.choices[0].message.content == seeded[0]
stop = text[3:6]
assert chat(temperature=0, max_tokens=20, stop=[stop]).choices[0].message.content == text.split(stop)[0]
biased = chat(
    temperature=0, max_tokens=4, logit_bias={"42": -1}, presence_penalty=0.5, frequency_penalty=0.5,
    top_p=0.9, reasoning_effort="low",
)
assert biased.usage.completion_tokens <= 4
parts = [{"role": "user", "content": [{"type": "text", "text": "Where is the lift?"}]}]
parted = client.chat.completions.create(model=model, messages=parts, temperature=0, max_tokens=20)
assert parted.choices[0].message.content == text

# Log-probabilities.
content = chat(max_tokens=3, temperature=0, logprobs=True, top_logprobs=2).choices[0].logprobs.content
assert len(content) == 3
for token in content:
    assert len(token.top_logprobs) == 2 and token.logprob == token.top_logprobs[0].logprob <= 0

# Plain completions.
plain = client.completions.create(model=model, prompt=["The museum", "The lift"], max_tokens=4)
assert [c.index for c in plain.choices] == [0, 1]
pieces = client.completions.create(
    model=model, prompt="The museum", max_tokens=4, temperature=0, stream=True
)
plain = client.completions.create(model=model, prompt="The museum", max_tokens=4, temperature=0)
assert "".join(p.choices[0].text for p in pieces) == plain.choices[0].text

# Errors name the field.
for field, value in [("temperature", -1), ("n", 0), ("top_logprobs", 30), ("modalities", ["audio"])]:
    try:
        chat(**{field: value})
        raise AssertionError(f"{field}={value} was accepted")
    except openai.BadRequestError as error:
        assert error.param == field, error
try:
    client.models.retrieve("nothing")
    raise AssertionError("a model that is not there was found")
except openai.NotFoundError as error:
    assert error.code == "model_not_found"

# Leaving in the middle of an answer frees its place for the next.
for _ in range(5):
    stream = chat(stream=True, max_tokens=800, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
assert chat(temperature=0, max_tokens=20).choices[0].message.content == text

# Tools: a call that must be, whole, as a stream and put together by the client, and its answer.
go = {
    "type": "object",
    "properties": {"floor": {"type": "integer", "minimum": 0, "maximum": 9}, "now": {"type": "boolean"}},
    "required": ["floor", "now"],
    "additionalProperties": False,
}
tool = {"type": "function", "function": {"name": "go", "description": "Moves.", "parameters": go, "strict": True}}
forced = {
    "tools": [tool], "tool_choice": {"type": "function", "function": {"name": "go"}},
    "parallel_tool_calls": False, "temperature": 1, "seed": 4,
}
choice = chat(**forced).choices[0]
(call,) = choice.message.tool_calls
assert choice.finish_reason == "tool_calls" and choice.message.content is None
arguments = json.loads(call.function.arguments)
assert call.function.name == "go" and arguments["floor"] in range(10) and type(arguments["now"]) is bool
with client.chat.completions.stream(model=model, messages=asked, **forced) as stream:
    (streamed,) = stream.get_final_completion().choices[0].message.tool_calls
assert streamed.function.arguments == call.function.arguments
told = [*asked, choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "It moves."}]
said = client.chat.completions.create(model=model, messages=told, tools=[tool], tool_choice="none", max_tokens=8)
assert said.choices[0].message.content is not None and not said.choices[0].message.tool_calls

# A schema.
form = {"type": "json_schema", "json_schema": {"name": "go", "strict": True, "schema": go}}
parsed = json.loads(chat(response_format=form, temperature=1, seed=4).choices[0].message.content)
assert set(parsed) == {"floor", "now"}

# Responses, whole and as events, with tools.
response = client.responses.create(model=model, input="Where is the lift?", temperature=0, max_output_tokens=20)
assert response.output_text == text and response.status in ("completed", "incomplete")
assert response.usage.input_tokens == whole.usage.prompt_tokens
with client.responses.stream(model=model, input=asked, temperature=0, max_output_tokens=20) as stream:
    kinds = [event.type for event in stream]
    final = stream.get_final_response() if kinds[-1] == "response.completed" else None
assert kinds[0] == "response.created" and "response.output_text.delta" in kinds
assert final is None or final.output_text == text
flat = {"type": "function", "name": "go", "parameters": go, "strict": True}
called = client.responses.create(
    model=model, input="Take me up.", tools=[flat], tool_choice="required", parallel_tool_calls=False,
    temperature=1, store=False, include=["reasoning.encrypted_content"],
)
(item,) = called.output
assert item.type == "function_call" and json.loads(item.arguments)["floor"] in range(10)
answered = client.responses.create(
    model=model, tools=[flat], tool_choice="none", max_output_tokens=8, temperature=0,
    input=[{"role": "user", "content": "Take me up."}, item.model_dump(exclude_none=True),
           {"type": "function_call_output", "call_id": item.call_id, "output": "It moves."}],
)
assert answered.output[0].type == "message"
try:
    client.responses.create(model=model, input="x", previous_response_id="resp_1")
    raise AssertionError("a response that was not kept was found")
except openai.BadRequestError as error:
    assert error.param == "previous_response_id", error
