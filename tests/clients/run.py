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

sys.path.insert(0, str(Path(__file__).parent.parent / "load"))
from server import Server, program  # noqa: E402

KIOSK = Path(__file__).parent.parent / "data" / "kiosk"


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
    subprocess.run([program(), "pack", checkpoint, "-o", image], check=True, capture_output=True)
    return image


with tempfile.TemporaryDirectory() as folder:
    options = ["-m", with_tools(Path(folder)), "--ram", "256MiB", "--conversations", "4"]
    with Server(*options, context=2048) as server:
        address = f"http://127.0.0.1:{server.port}"
        status = subprocess.run([*sys.argv[1:], address]).returncode
sys.exit(status)
