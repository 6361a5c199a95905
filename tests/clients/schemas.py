"""Drawn schemas: of 300 tools every forced call has its schema, and of 100 answers every one has its own.

The schemas are drawn from a seed, and so are the answers: each run is the same.
"""

import json
import random
import sys
from concurrent.futures import ThreadPoolExecutor

from jsonschema import Draft202012Validator
from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0, timeout=300)
model = client.models.list().data[0].id
CALLS, ANSWERS = 300, 100
WORDS = ["hall", "lift", "café", "left wing", "it's", 'the "old" door', "2nd", "a\\b", "", "日本"]
FORMATS = ["date", "time", "date-time", "email", "ipv4", "ipv6", "uuid", "uri", "duration"]


def leaf(draw):
    low = draw.randint(-50, 50)
    limits = {"minimum": low, "maximum": low + draw.randint(0, 500)}
    return draw.choice(
        [
            lambda: {"type": "string", "maxLength": draw.randint(0, 12)},
            lambda: {"type": "string", "minLength": 2, "maxLength": 8, "description": "A word."},
            lambda: {"type": "string", "enum": draw.sample(WORDS, draw.randint(1, 5))},
            lambda: {"enum": [*draw.sample(WORDS, 2), None, True, 3, ["x"]]},
            lambda: {"const": draw.choice([*WORDS, 7, None, {"a": [1]}])},
            lambda: {"type": "integer", **limits},
            lambda: {"type": "integer", **limits, "multipleOf": 1},
            lambda: {"type": "number", "minimum": 0, "exclusiveMaximum": 10, "multipleOf": 0.5},
            lambda: {"type": "boolean"},
            lambda: {"type": "null"},
            lambda: {"type": ["boolean", "null"]},
            lambda: {"type": "string", "pattern": "^[a-z]{2,4}-[0-9]{3}$"},
            lambda: {"type": "string", "format": draw.choice(["date", "ipv4", "uuid"])},
            lambda: {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
        ]
    )()


def schema(draw, depth):
    """A schema whose values are short."""
    kind = draw.random()
    if depth == 0 or kind < 0.55:
        return leaf(draw)
    if kind < 0.7:
        least = draw.randint(0, 2)
        most = least + draw.randint(0, 2)
        return {"type": "array", "items": schema(draw, depth - 1), "minItems": least, "maxItems": most}
    if kind < 0.75:
        items = [schema(draw, depth - 1) for _ in range(2)]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": 2}
    if kind < 0.85:
        return {"anyOf": [schema(draw, depth - 1) for _ in range(2)]}
    return fields(draw, depth - 1)


def fields(draw, depth, names="abcdef"):
    names = draw.sample(list(names), draw.randint(0, 4))
    required = draw.sample(names, draw.randint(0, len(names)))
    properties = {name: schema(draw, depth) for name in names}
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def tool(draw, number):
    names = ["room", "level", "on", "note", "where_to", "Zeit"]
    odd = ["two words", "größe", "x-y", "1st", "a=b", "'"]
    parameters = fields(draw, 2, names + odd if number % 5 == 0 else names)
    if number % 7 == 0:
        parameters["$defs"] = {"place": fields(draw, 1)}
        parameters["properties"]["place"] = {"$ref": "#/$defs/place"}
    if number % 11 == 0:
        del parameters["additionalProperties"]
    name = draw.choice(["lights.set", "go_to", "kiosk-say", "find", "v2:open"])
    function = {"name": name, "description": "Does something.", "parameters": parameters}
    return {"type": "function", "function": function}


def root(draw, number):
    """A schema of the kinds that public suites have: the number says which."""
    node = {"type": "object", "additionalProperties": False}
    kinds = [
        lambda: fields(draw, 2),
        lambda: {"enum": draw.sample(WORDS, 4)},
        lambda: {"type": "array", "items": leaf(draw), "minItems": 1, "maxItems": 4},
        lambda: fields(draw, 3),
        lambda: {
            "$defs": {
                "node": {
                    **node,
                    "properties": {
                        "leaf": {"type": "boolean"},
                        "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
                    },
                    "required": ["leaf", "next"],
                }
            },
            "$ref": "#/$defs/node",
        },
        lambda: {"type": "string", "format": FORMATS[number // 10 % len(FORMATS)]},
        lambda: {
            **node,
            "properties": {"kind": {"const": "a"}, "of": {"$ref": "#/definitions/part"}},
            "required": ["kind", "of"],
            "definitions": {"part": leaf(draw)},
        },
        lambda: {"anyOf": [fields(draw, 1), leaf(draw)]},
        lambda: {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": draw.randint(3, 900)}]},
        lambda: {"type": "object", "additionalProperties": leaf(draw), "maxProperties": 2},
    ]
    return kinds[number % len(kinds)]()


def check(value, schema):
    Draft202012Validator.check_schema(schema)
    checker = Draft202012Validator.FORMAT_CHECKER
    Draft202012Validator(schema, format_checker=checker).validate(value)


def ask(number, system=None, **more):
    messages = [{"role": "user", "content": "Where is the lift, and when do you open?"}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    # So hot that the small model comes to an end of everything.
    return client.chat.completions.create(
        model=model, messages=messages, seed=number, temperature=2, **more
    ).choices[0]


def call(number):
    draw = random.Random(number)
    tools = [tool(draw, number)]
    function = tools[0]["function"]
    choice = draw.choice(["required", {"type": "function", "function": {"name": function["name"]}}])
    system = "Output function calls as JSON." if number % 3 == 0 else None
    answer = ask(
        number, system, tools=tools, tool_choice=choice, parallel_tool_calls=False, max_tokens=400
    )
    assert answer.finish_reason == "tool_calls", (number, function, answer)
    (said,) = answer.message.tool_calls
    assert said.function.name == function["name"]
    check(json.loads(said.function.arguments), function["parameters"])


def answer(number):
    wanted = root(random.Random(number), number)
    form = {"name": "answer", "strict": True, "schema": wanted}
    answer = ask(
        number, response_format={"type": "json_schema", "json_schema": form}, max_tokens=300
    )
    if answer.finish_reason == "length":
        return 0
    assert answer.finish_reason == "stop", (number, answer)
    check(json.loads(answer.message.content), wanted)
    return 1


with ThreadPoolExecutor(8) as pool:
    # What goes wrong is raised here.
    list(pool.map(call, range(CALLS)))
    whole = sum(pool.map(answer, range(ANSWERS)))
assert whole >= ANSWERS * 3 // 4, f"{ANSWERS - whole} answers of {ANSWERS} were cut"
