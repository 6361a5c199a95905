"""Many clients at once: every answer is what the same request alone would get, RAM stays as it is, and
no place is lost, whoever leaves or sends rubbish.

Usage: load.py [--clients N] [--conversations N] [--requests N | --seconds S] [--seed N]
"""

import argparse
import json
import random
import statistics
import threading
import time

from server import Server, ask, pieces, text

QUESTIONS = [
    "Where is the lift?",
    "Tell me a story about a fox and a kite.",
    "When do you open?",
    "Count from one to ten.",
    "Which way to the toilets?",
    "Say something nice.",
]
RUBBISH = [
    b"",
    b"{",
    b'{"messages": 3}',
    b'{"messages": []}',
    b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
    b"[" * 2000,
    b'{"messages": [{"role": "user", "content": "hi"}], "temperature": "hot"}',
    b'{"messages": [{"role": "nobody", "content": "hi"}]}',
    b'{"messages": [{"role": "user", "content": "' + b"long " * 40_000 + b'"}]}',
]
VERBS = ["walked home together", "flew it", "sang", "sat down by the river", "laughed", "slept"]
# RAM may differ by what an allocator keeps.
SLACK = 6 << 20


def request(number):
    """One of the requests that are asked again and again."""
    return {
        "messages": [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
        "max_tokens": 4 + number * 5 % 24,
        "temperature": [0, 0.7, 1.2][number % 3],
        "seed": number,
        "stream": True,
    }


def decision(number):
    """One of the decisions that are asked for again and again."""
    story = "Once there was a fox who had a kite and a friend who had none. " * (6 + 6 * number)
    return {"prompt": story, "choices": [f"So they {verb}." for verb in VERBS[: 3 + number]]}


def decided(server, number):
    """The answer to a decision: the status, and what was decided."""
    reply = ask(server.connect(), decision(number), "/v1/decide")
    body = json.loads(reply.read())
    return reply.status, body.get("choices", body)


class Tally:
    """What happened."""

    def __init__(self):
        self.lock = threading.Lock()
        self.outcomes = {}
        self.first = []
        self.wrong = []
        self.begun = 0

    def count(self, outcome):
        with self.lock:
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def next(self, most):
        """The number of the next request; nothing when there were enough."""
        with self.lock:
            if most is not None and self.begun >= most:
                return None
            self.begun += 1
            return self.begun


def alone(server, body):
    return "".join(map(text, pieces(ask(server.connect(), body))))


def client(server, known, tally, seed, most, until):
    chance = random.Random(seed)
    while time.monotonic() < until and tally.next(most) is not None:
        try:
            one(server, known, tally, chance)
        except Exception as error:  # A client must hear how it went, whatever happens.
            with tally.lock:
                tally.wrong.append(repr(error))


def one(server, known, tally, chance):
    draw = chance.random()
    if draw < 0.05:
        reply = ask(server.connect(), chance.choice(RUBBISH))
        body = json.loads(reply.read())
        assert 400 <= reply.status < 500 and body["error"]["message"], (reply.status, body)
        return tally.count("rubbish refused")
    answers, decisions = known
    if draw > 0.9:
        number = chance.randrange(len(decisions))
        found = decided(server, number)
        if found[0] == 429:
            return tally.count("told to come back")
        assert found == decisions[number], f"{found} is not {decisions[number]}"
        return tally.count("decided alike")
    number = chance.randrange(len(answers))
    connection = server.connect()
    asked = time.monotonic()
    reply = ask(connection, request(number))
    if reply.status == 429:
        assert int(reply.getheader("Retry-After")) > 0
        reply.read()
        tally.count("told to come back")
        return time.sleep(0.05)
    assert reply.status == 200, (reply.status, reply.read())
    said, leaves = "", draw < 0.15
    for index, piece in enumerate(pieces(reply)):
        if not said and text(piece):
            with tally.lock:
                tally.first.append(time.monotonic() - asked)
        said += text(piece)
        if leaves and index >= chance.randrange(4):
            connection.sock and connection.sock.close()
            reply.close()
            return tally.count("left")
    assert said == answers[number], f"{said!r} is not {answers[number]!r}"
    tally.count("answered alike")


def settled(server):
    """Nobody is at work and nobody waits, soon after all have gone."""
    for _ in range(1200):
        metrics = server.metrics()
        if metrics["rill_answers_active"] == metrics["rill_answers_queued"] == 0:
            return True
        time.sleep(0.05)
    return False


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--conversations", type=int, default=4)
    parser.add_argument("--requests", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kv-tokens", type=int, default=512, help="fewer than all have together")
    parser.add_argument("--ram", default="192MiB", help="a little above the least that works, as 192MiB")
    args = parser.parse_args()
    if args.requests is None and args.seconds is None:
        args.requests = 1000
    options = ["--conversations", str(args.conversations), "--ram", args.ram]
    options += ["--kv-tokens", str(args.kv_tokens)]
    with Server(*options) as server:
        known = (
            [alone(server, request(number)) for number in range(24)],
            [decided(server, number) for number in range(4)],
        )
        assert all(status == 200 for status, _ in known[1]), known[1]
        tally = Tally()
        until = time.monotonic() + (args.seconds or 1e9)
        clients = [
            threading.Thread(
                target=client,
                args=(server, known, tally, args.seed * 1000 + number, args.requests, until),
            )
            for number in range(args.clients)
        ]
        for thread in clients:
            thread.start()
        resident = []
        while any(thread.is_alive() for thread in clients):
            resident.append(server.resident())
            time.sleep(0.2)
        assert not tally.wrong, tally.wrong[:5]
        assert settled(server), "a place is lost"
        # Refusals are right where the queue is full, but most are answered, and some of each kind come.
        outcomes = tally.outcomes
        kinds = ["answered alike", "decided alike", "left", "rubbish refused"]
        assert all(outcomes.get(kind) for kind in kinds), outcomes
        assert outcomes["answered alike"] >= sum(outcomes.values()) / 2, outcomes
        # As many as there are places are at work at once, and all are answered.
        together = [server.connect() for _ in range(args.conversations)]
        replies = [ask(connection, request(0)) for connection in together]
        assert all("".join(map(text, pieces(reply))) == known[0][0] for reply in replies)
        half = len(resident) // 2
        grown = max(resident[half:] or [0]) - max(resident[: half + 1])
        assert grown <= SLACK, f"RAM grew by {grown} bytes"
        budget = int(args.ram.removesuffix("MiB")) << 20
        assert server.peak() <= budget, f"{server.peak()} bytes used of {budget}"
        first = sorted(tally.first) or [0.0]
        report = {
            "outcomes": tally.outcomes,
            "first_token_seconds": {
                "median": round(statistics.median(first), 3),
                "p95": round(first[len(first) * 95 // 100], 3),
                "most": round(first[-1], 3),
            },
            "resident_mib": [round(bytes / 2**20, 1) for bytes in (resident[0], max(resident))],
            "peak_mib": round(server.peak() / 2**20, 1),
            "parked": server.metrics()["rill_parked_total"],
        }
        print(json.dumps(report))


main()
