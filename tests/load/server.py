"""A `rill serve` of the kiosk model, and what a client sees of it."""

import functools
import http.client
import json
import os
import pathlib
import subprocess
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]


@functools.cache
def program():
    """The built program."""
    if "RILL_PROGRAM" in os.environ:
        return os.environ["RILL_PROGRAM"]
    build = ["cargo", "build", "--quiet", "--package", "rill-linux", "--bin", "rill"]
    lines = subprocess.run(
        [*build, "--message-format", "json"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()
    found = [json.loads(line).get("executable") for line in lines]
    return [path for path in found if path][-1]


class Server:
    """A server of its own; `with` ends it."""

    def __init__(self, *options, context=512):
        self.child = subprocess.Popen(
            [program(), "serve", "--listen", "127.0.0.1:0", "-c", str(context), *options],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.port = None
        for line in self.child.stderr:
            if "listening at " in line:
                self.port = urllib.parse.urlsplit(line.split("listening at ")[1].strip()).port
            if line.strip().endswith("ready"):
                break
        assert self.port, "the server did not start"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.terminate()
        try:
            said = self.child.communicate(timeout=60)[1]
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise
        # Asked to end it ends well; a test may also have killed it.
        assert "panicked" not in said and self.child.returncode in (0, -9), said

    def connect(self, timeout=120):
        """A connection of HTTP."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def metrics(self):
        """All counters without labels."""
        lines = get(self.connect(), "/metrics")[1].decode().splitlines()
        pairs = [line.split() for line in lines if not line.startswith("#") and "{" not in line]
        return {name: float(value) for name, value in pairs}

    def resident(self):
        """Bytes of RAM that the process has."""
        return field(self.child.pid, "VmRSS:")

    def peak(self):
        """The most it had so far, with its page tables."""
        return field(self.child.pid, "VmHWM:") + field(self.child.pid, "VmPTE:")


def field(pid, name):
    status = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in status if line.startswith(name))


def get(connection, path):
    """Status and body of a GET."""
    connection.request("GET", path)
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    return reply.status, body


def ask(connection, body, path="/v1/chat/completions", headers=()):
    """Begins a request; its answer is read by the caller."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, data, {"Content-Type": "application/json", **dict(headers)})
    return connection.getresponse()


def pieces(reply):
    """The pieces of a streamed answer; an error in the stream, or its breaking off, is raised."""
    done = False
    for line in reply:
        line = line.strip()
        if line == b"data: [DONE]":
            done = True
        elif line.startswith(b"data: "):
            piece = json.loads(line[6:])
            if "error" in piece:
                raise RuntimeError(piece["error"])
            yield piece
    if not done:
        raise ConnectionError("the answer broke off")


def text(piece):
    """What a piece says."""
    choices = piece.get("choices")
    return (choices[0]["delta"].get("content") or "") if choices else ""
