"""HAProxy, with the configuration for many boards, before two servers: a conversation stays on its board,
however a client writes it, and conversations that begin with the same instruction spread; one board is
killed under load: new requests go on, and answers that broke off are told.

Usage: haproxy.py
"""

import collections
import http.client
import json
import pathlib
import re
import socket
import subprocess
import tempfile
import threading
import time

from server import ROOT, Server, ask, pieces, text

CONFIG = ROOT / "platform/serve/fleet/haproxy.cfg"


class Proxy:
    """HAProxy before servers."""

    def __init__(self, servers, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        text = CONFIG.read_text()
        text, binds = re.subn(r"bind .*", f"bind 127.0.0.1:{self.port}", text)
        lines = [line for line in text.splitlines() if not re.match(r"\s+server ", line)]
        assert binds == 1 and len(text.splitlines()) - len(lines) == 2, "the configuration has changed"
        names = zip("ab", servers)
        # Others use the machine too: a server that answers late is not down. One that is refuses at once.
        lines.append("    timeout check 30s")
        lines += [f"    server {name} 127.0.0.1:{server.port}" for name, server in names]
        path = pathlib.Path(folder) / "haproxy.cfg"
        path.write_text("\n".join(lines) + "\n")
        self.child = subprocess.Popen(["haproxy", "-db", "-q", "-f", path])
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                break
            except OSError:
                time.sleep(0.05)
        else:
            raise RuntimeError("HAProxy did not start")

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)


def body(talk, key=None, most=40):
    request = {
        "messages": [
            {"role": "system", "content": "You stand in a hall."},
            {"role": "user", "content": f"Tell me story {talk}."},
        ],
        "max_tokens": most,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }
    return {**request, "prompt_cache_key": key} if key else request


def done(server):
    return server.metrics()["rill_first_token_seconds_count"]


def stays(proxy, servers, request):
    """The board that all of a few equal requests reach."""
    before = [done(server) for server in servers]
    for _ in range(3):
        list(pieces(ask(proxy.connect(), request)))
    more = [done(server) - was for server, was in zip(servers, before)]
    assert sorted(more) == [0, 3], more
    return more.index(3)


def board(proxy, path, request):
    """What tells the board that answers from others: the number of its run, in the answer's name."""
    reply = ask(proxy.connect(), request, path)
    answer = json.loads(reply.read())
    assert reply.status == 200, answer
    return re.split("[-_]", answer["id"])[1][:16]


def parts(said):
    return [{"type": "text", "text": said}]


def input_parts(said):
    return [{"type": "input_text", "text": said}]


def turns():
    """First turns of conversations that are told the same, and their second turns, in the ways of clients."""
    told = "You stand in a hall. " * 30
    chat, responses = "/v1/chat/completions", "/v1/responses"

    def messages(field, roles, content):
        def make(asked, *more):
            before = [{"role": role, "content": content(told)} for role in roles]
            answer = {"role": "assistant", "content": "By the sea."}
            later = [answer, {"role": "user", "content": content("Why?")}]
            talk = [*before, {"role": "user", "content": content(asked)}, *(later if more else [])]
            return {field: talk}

        return make

    def as_text(asked, *more):
        return messages("input", [], str)(asked, *more) if more else {"input": asked}

    def with_instructions(asked, *more):
        return {"instructions": told, **as_text(asked, *more)}

    def prompt(asked, *_):
        return {"prompt": told + asked}

    yield "chat", chat, messages("messages", [], str)
    yield "chat with a system message", chat, messages("messages", ["system"], str)
    yield "chat in parts", chat, messages("messages", [], parts)
    yield "chat in parts with a system message", chat, messages("messages", ["system"], parts)
    yield "responses, as a text first", responses, as_text
    yield "responses with instructions", responses, with_instructions
    yield "responses, as a list", responses, messages("input", [], str)
    yield "responses in parts", responses, messages("input", ["system"], input_parts)
    yield "completions", "/v1/completions", prompt


def stay_and_spread(proxy):
    for name, path, turn in turns():
        most = {"max_output_tokens" if path == "/v1/responses" else "max_tokens": 1}
        boards = set()
        for talk in range(12):
            asked = f"Tell me story {talk}."
            first = board(proxy, path, {**turn(asked), **most})
            second = board(proxy, path, {**turn(asked, "more"), **most})
            assert first == second, f"{name}: a second turn went elsewhere"
            boards.add(first)
        assert len(boards) == 2, f"{name}: all conversations are on one board"


def main():
    options = ["--ram", "192MiB", "--conversations", "4"]
    with tempfile.TemporaryDirectory() as folder, Server(*options) as a, Server(*options) as b:
        servers = [a, b]
        proxy = Proxy(servers, folder)
        try:
            check(proxy, servers)
        finally:
            proxy.child.terminate()
            proxy.child.wait(timeout=30)


def check(proxy, servers):
    stay_and_spread(proxy)

    # By its key, wherever it goes on; by its beginning without one.
    with_key = {stays(proxy, servers, body(talk, key=f"talk {talk}", most=2)) for talk in range(8)}
    without = {stays(proxy, servers, body(talk, most=2)) for talk in range(8)}
    assert with_key == without == {0, 1}, "all conversations are on one board"
    assert stays(proxy, servers, body(1, "k", 2)) == stays(proxy, servers, body(2, "k", 2))

    # One dies while both answer: when all that it answers have begun.
    boards = [stays(proxy, servers, body(talk, most=2)) for talk in range(8)]
    outcomes, lock = collections.Counter(), threading.Lock()
    halfway = threading.Barrier(boards.count(0) + 1)

    def client(talk):
        try:
            for index, _ in enumerate(pieces(ask(proxy.connect(), body(talk, most=300)))):
                if index == 3 and boards[talk] == 0:
                    halfway.wait(timeout=120)
            outcome = "answered"
        except (ConnectionError, http.client.HTTPException):
            outcome = "told that it broke off"
        with lock:
            outcomes[outcome] += 1

    clients = [threading.Thread(target=client, args=(talk,)) for talk in range(8)]
    for thread in clients:
        thread.start()
    halfway.wait(timeout=120)
    servers[0].child.kill()
    # New ones go on at once, those of the dead board too.
    for talk in range(8):
        said = "".join(map(text, pieces(ask(proxy.connect(), body(talk, most=4)))))
        assert said, talk
    for thread in clients:
        thread.join()
    assert outcomes["answered"] and outcomes["told that it broke off"], outcomes
    assert sum(outcomes.values()) == 8, outcomes
    print(dict(outcomes))


main()
