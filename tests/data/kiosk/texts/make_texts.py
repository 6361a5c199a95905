"""Makes calibration.jsonl, tuning.jsonl and held-back.jsonl.

    cargo run --release -- pack tests/data/kiosk/kiosk-16m --experts q8 --dense q8 -o q8.rill
    python3 tests/data/kiosk/texts/make_texts.py target/release/rill q8.rill

Questions are composed like those that the kiosk model was trained on, and the model answers them
itself, with its weights in int8. Each question falls into one of the three files by its hash. No two
conversations, in one file or in two, share a question (with its system prompt) or an answer.
"""

import hashlib
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

# Most conversations of each kind in a file.
MOST = {"calibration": 72, "tuning": 24, "held-back": 36}
# Of 16 hash values, those below go to the file.
BELOW = {"calibration": 9, "tuning": 12, "held-back": 16}

ANIMALS = "fox owl otter beaver hedgehog rabbit badger mouse heron frog squirrel cat dog crow hare".split()
THINGS = "kite compass lantern key boat bell drum map umbrella whistle ladder basket ball".split()
ROOMS = "cafe library gallery archive cinema workshop museum office theatre garden kitchen hall".split()
MARKS = (
    "the lift",
    "the red door",
    "the fountain",
    "the big window",
    "the main stairs",
    "the north entrance",
    "the clock",
    "the ticket desk",
)
NAMES = "Nora Emil Greta Ivan Lena Tom Mara Paul Ines Hugo".split()
DEVICES = "gateway router printer boiler camera heater pump sensor".split()
SENSORS = "boiler attic tank cellar office roof garage pump freezer hall".split()
ORDINALS = "first second third fourth fifth sixth seventh eighth".split()
COUNTRIES = "France Spain Italy Norway Portugal Austria Japan Egypt".split()
GERMAN = (
    "Die Tür ist schön",
    "Der Zug ist spät",
    "Das Haus ist alt",
    "Ich brauche die Fahrkarte",
    "Wo ist der Bahnhof",
    "Das Wasser ist kalt",
    "Die Katze schläft",
    "Der Garten ist grün",
)
SPANISH = (
    "Necesito el billete",
    "La casa es grande",
    "El tren llega tarde",
    "Quiero un café",
    "¿Dónde está la estación?",
    "El agua está fría",
    "La puerta es roja",
    "El gato duerme",
)


def article(noun):
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def story(r):
    return None, f"Tell me a story about {article(r.choice(ANIMALS))} and {article(r.choice(THINGS))}."


def greeting(r):
    name = r.choice(NAMES)
    return None, r.choice((f"Hello, my name is {name}.", f"Hi! I am {name}.", f"Good morning, {name} here."))


def directions(r):
    rooms, marks, floors = r.sample(ROOMS, 3), r.sample(MARKS, 3), r.sample(range(1, 8), 3)
    places = (f"{a} on floor {f}, next to {m}" for a, m, f in zip(rooms, marks, floors))
    room = r.choice(rooms)
    asked = (f"How do I find the {room}?", f"Where is the {room}?", f"Which floor is the {room} on?")
    return f"Building: {'; '.join(places)}.", r.choice(asked)


def fact(r):
    return None, r.choice(
        (
            f"What does {article(r.choice(ANIMALS))} eat?",
            f"Which planet is {r.choice(ORDINALS)} from the Sun?",
            f"What is the capital of {r.choice(COUNTRIES)}?",
        )
    )


def steps(r):
    return None, f"How do I {r.choice(('restart', 'clean', 'reset', 'check', 'open'))} the {r.choice(DEVICES)}?"


def arithmetic(r):
    a, b = r.randint(1, 60), r.randint(1, 40)
    return None, r.choice(
        (
            f"What is {a} plus {b}?",
            f"What is {max(a, b)} minus {min(a, b)}?",
            f"Count from {a} to {a + r.randint(4, 9)}.",
            f"What is {a % 10} times {b % 10}?",
        )
    )


def translation(r):
    return None, r.choice((f"Was bedeutet: {r.choice(GERMAN)}?", f"¿Qué significa: {r.choice(SPANISH)}?"))


def readings(r):
    sensors = r.sample(SENSORS, 3)
    values = (f"{sensor} {r.randint(-20, 90)} C" for sensor in sensors)
    asked = (
        "Write the readings as JSON.",
        f"What is the temperature of the {r.choice(sensors)}?",
        "Which reading is the highest?",
    )
    return f"Readings: {', '.join(values)}.", r.choice(asked)


KINDS = (story, greeting, directions, fact, steps, arithmetic, translation, readings)


def questions():
    """(file, kind, system prompt or None, question), each once."""
    r, seen = random.Random(2026), set()
    for _ in range(1500):
        for kind in KINDS:
            system, question = kind(r)
            if (system, question) in seen:
                continue
            seen.add((system, question))
            value = hashlib.sha256(f"{system}\n{question}".encode()).digest()[0] % 16
            file = next(file for file, below in BELOW.items() if value < below)
            yield file, kind.__name__, system, question


def answers(rill, image, asked):
    with tempfile.TemporaryDirectory() as folder:
        prompts, out = Path(folder, "prompts.jsonl"), Path(folder, "answers.jsonl")
        lines = ({"prompt": q} | ({"system": s} if s else {}) for _, _, s, q in asked)
        prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
        sampling = ["-n", "96", "--temp", "0.4", "--seed", "7"]
        command = [rill, "run", "-m", image, "--file", prompts, "--out", out, *sampling]
        subprocess.run([*command, "--conversations", "4"], check=True)
        return [json.loads(line)["text"] for line in out.read_text().splitlines()]


def main():
    counts, asked = {}, []
    for question in questions():
        key = question[:2]
        counts[key] = counts.get(key, 0) + 1
        # Some more than are kept: answers may be alike.
        if counts[key] <= 2 * MOST[question[0]]:
            asked.append(question)
    given, kept, said = {}, {}, {file: [] for file in MOST}
    for (file, kind, system, question), answer in zip(asked, answers(*sys.argv[1:3], asked)):
        if answer in given or kept.get((file, kind), 0) == MOST[file]:
            continue
        given[answer] = file
        kept[file, kind] = kept.get((file, kind), 0) + 1
        messages = [{"role": "system", "content": system}] if system else []
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        said[file].append(json.dumps(messages, ensure_ascii=False))
    for file, lines in said.items():
        path = Path(__file__).with_name(f"{file}.jsonl")
        path.write_text("".join(line + "\n" for line in lines))
        print(path, len(lines), {kind: n for (f, kind), n in kept.items() if f == file})


main()
