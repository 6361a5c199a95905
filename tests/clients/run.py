"""Starts `rill serve` with the kiosk model, given tools, runs a command with its address, and ends it.

Usage: run.py COMMAND...
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

KIOSK = Path(__file__).parent.parent / "data" / "kiosk"
# On Unix cargo becomes the program: a signal for one reaches the other.
RILL = ["cargo", "run", "--quiet", "--package", "rill-linux", "--bin", "rill", "--"]


def with_tools(folder):
    """An image of the kiosk model with control tokens for tools, and a template that shows them."""
    checkpoint = folder / "kiosk"
    shutil.copytree(KIOSK / "kiosk-16m", checkpoint)
    template = (KIOSK / "tools.jinja").read_text()
    (checkpoint / "chat_template.jinja").write_text(template)
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    first = max(tokenizer["model"]["vocab"].values()) + 1
    names = dict.fromkeys(re.findall(r"<\|tool_\w+\|>", template))
    like = tokenizer["added_tokens"][0]
    tokenizer["added_tokens"] += [
        {**like, "id": id, "content": name} for id, name in enumerate(names, first)
    ]
    (checkpoint / "tokenizer.json").write_text(json.dumps(tokenizer))
    image = folder / "kiosk.rill"
    subprocess.run([*RILL, "pack", checkpoint, "-o", image], check=True, capture_output=True)
    return image


def serve(image, command):
    """The status of the command, and that of the server."""
    options = ["--listen", "127.0.0.1:0", "--ram", "256MiB", "-c", "2048", "--conversations", "4"]
    server = subprocess.Popen(
        [*RILL, "serve", "-m", image, *options], stderr=subprocess.PIPE, text=True
    )
    address = None
    try:
        for line in server.stderr:
            if "listening at " in line:
                address = line.split("listening at ")[1].strip()
            if line.strip().endswith("ready"):
                break
        if address is None:
            sys.exit("the server did not start")
        status = subprocess.run([*command, address]).returncode
    finally:
        server.terminate()
        server.communicate(timeout=60)
    return status, server.returncode


with tempfile.TemporaryDirectory() as folder:
    status, ended = serve(with_tools(Path(folder)), sys.argv[1:])
if status == 0 and ended != 0:
    sys.exit(f"the server ended with status {ended}")
sys.exit(status)
