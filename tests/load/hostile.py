"""A thousand hostile requests of every kind at a server that wants a key: none is let in, each gets a
refusal or a closed connection in time, and the server answers afterwards as it did before.

Usage: hostile.py [--requests N] [--seed N]
"""

import argparse
import collections
import json
import pathlib
import random
import socket
import subprocess
import tempfile
import threading

from server import Server, ask, program

HELLO = b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "temperature": 0}'


def head(lines, body=b""):
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def post(host, key, body, *more):
    lines = ["POST /v1/chat/completions HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    return head([*lines, f"Authorization: Bearer {key}", "Connection: close", *more], body)


def nested(chance):
    opening = chance.choice([b"[", b'{"a":'])
    return opening * chance.choice([100, 5000, 100_000])


def kinds(port, key):
    """Requests by kind: what is sent, and the statuses that may come; 0 for a closed connection."""
    here = f"127.0.0.1:{port}"
    smuggled = b"GET /v1/models HTTP/1.1\r\nHost: " + here.encode() + b"\r\n\r\n"
    wrong = lambda chance: chance.choice(
        ["", "x", key[:-1], key + "0", key.upper(), key[::-1], "\xff" * 40, "Bearer " + key, "rill-" * 2000]
    )
    lengths = ["-1", "+5", "5, 6", "0x5", "99999999999999999999", "5\r\nContent-Length: 50", " ", "5;"]
    codings = ["chunked, identity", "xchunked", "chunked\r\nTransfer-Encoding: gzip", "\x0bchunked", "Chunked,"]
    hosts = ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "a b", "", "[::1", "%00"]
    origins = ["https://evil.example", "null", "file://", "http://localhost:1", "http://127.0.0.1"]
    first = ["GET / HTTP/9.9", "GET", "\0 / HTTP/1.1", "GET /%00/../../etc/passwd HTTP/1.1",
             "GET ../../etc/passwd HTTP/1.1", "CONNECT evil.example:443 HTTP/1.1", "GET http://evil.example/ HTTP/1.1",
             "TRACE / HTTP/1.1", "PRI * HTTP/2.0", "GET /" + "a" * 70_000 + " HTTP/1.1"]
    rubbish = {400, 401, 403, 404, 405, 408, 411, 413, 414, 415, 421, 431, 501, 505, 0}
    return {
        "wrong key": (lambda c: post(here, wrong(c), HELLO), {400, 401, 431, 0}),
        "no key": (lambda c: post(here, "", HELLO).replace(b"Authorization: Bearer \r\n", b""), {401}),
        "content length": (
            lambda c: head(["POST /v1/chat/completions HTTP/1.1", f"Host: {here}", f"Content-Length: {c.choice(lengths)}"], HELLO + smuggled),
            rubbish,
        ),
        "transfer coding": (
            lambda c: head(["POST /v1/chat/completions HTTP/1.1", f"Host: {here}", "Content-Length: 4", f"Transfer-Encoding: {c.choice(codings)}"], b"0\r\n\r\n" + smuggled),
            rubbish,
        ),
        "both lengths": (
            lambda c: head(["POST /v1/chat/completions HTTP/1.1", f"Host: {here}", "Content-Length: 30", "Transfer-Encoding: chunked"], b"0\r\n\r\n" + smuggled),
            rubbish,
        ),
        "rebinding": (lambda c: post(c.choice(hosts), key, HELLO), {400, 421, 0}),
        "foreign page": (lambda c: post(here, key, HELLO, f"Origin: {c.choice(origins)}"), {403}),
        "first line": (lambda c: head([c.choice(first), f"Host: {here}"]), rubbish),
        "deep": (lambda c: post(here, key, nested(c)), {400, 413}),
        "no text": (lambda c: post(here, key, b'{"messages": "' + bytes(c.randrange(128, 256) for _ in range(50)) + b'"}'), {400}),
        "huge body": (lambda c: post(here, key, b" " * (1 << 20) + HELLO), {413, 0}),
        "huge claim": (
            lambda c: head(["POST /v1/chat/completions HTTP/1.1", f"Host: {here}", f"Authorization: Bearer {key}", "Content-Length: 9999999999"], HELLO),
            {413, 0},
        ),
        "huge head": (lambda c: head(["GET /health HTTP/1.1", f"Host: {here}", "X: " + "y" * c.choice([20_000, 200_000])]), {431, 0}),
        "many heads": (lambda c: head(["GET /health HTTP/1.1", f"Host: {here}", *[f"X-{n}: y" for n in range(1000)]]), {431, 0}),
        "huge numbers": (
            lambda c: post(here, key, HELLO.replace(b'"max_tokens": 4', b'"n": ' + c.choice([b"1e999", b"-1", b"999999999999999999999", b"1" * 5000]))),
            {400},
        ),
        "noise": (lambda c: bytes(c.randrange(256) for _ in range(c.randrange(1, 400))), rubbish),
        "half": (lambda c: post(here, key, HELLO)[: c.randrange(1, 150)], {400, 408, 0}),
    }


def send(port, data, halves):
    """The status that comes, and how many answers."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as stream:
        try:
            stream.sendall(data)
            if halves:
                stream.shutdown(socket.SHUT_WR)
            while part := stream.recv(1 << 16):
                said += part
        except OSError:
            pass  # It was refused before all of it was sent.
    words = said.split(b" ", 2)
    return (int(words[1]) if len(words) > 1 else 0), said.count(b"HTTP/1.1 ")


def slow(port, data, outcomes):
    """Sends a byte now and then until the server has had enough."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as stream:
        stream.settimeout(1)
        said = b""
        for byte in data:
            try:
                stream.sendall(bytes([byte]))
                said = stream.recv(1 << 16)
                break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        outcomes.append(said.split(b" ", 2)[1] if b" " in said else b"closed")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        keys = pathlib.Path(folder) / "keys.txt"
        key = subprocess.run(
            [program(), "key", keys, "guest"], check=True, capture_output=True, text=True
        ).stdout.strip()
        with Server("--ram", "192MiB", "--keys", keys) as server:
            friendly = {"Authorization": f"Bearer {key}"}
            ours = lambda: json.loads(ask(server.connect(), HELLO, headers=friendly).read())["choices"]
            before = ours()
            # They are at it all the while, in places of their own.
            late = []
            dawdlers = [
                threading.Thread(target=slow, args=(server.port, post("localhost", key, HELLO), late))
                for _ in range(32)
            ]
            for thread in dawdlers:
                thread.start()
            choices = kinds(server.port, key)
            told = collections.Counter()
            for number in range(args.requests):
                kind = list(choices)[number % len(choices)]
                make, allowed = choices[kind]
                data = make(chance)
                # What was cut off is at its end only where the sender says so. Who says so is gone.
                halves = kind in ("noise", "half", "first line") or chance.random() < 0.5
                status, answers = send(server.port, data, halves)
                allowed = allowed | {0} if halves else allowed
                assert status in allowed, (kind, status, data[:300])
                assert answers <= 1, (kind, "something else was let in behind it", data[:300])
                told[kind] += 1
            for thread in dawdlers:
                thread.join()
            assert len(late) == 32 and set(late) <= {b"408", b"closed"}, late
            assert ours() == before
            assert server.child.poll() is None
            print(json.dumps({"refused": sum(told.values()), "kinds": len(told), "slow": len(late)}))


main()
