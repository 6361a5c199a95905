"""Starts `rill serve` with the built-in model, runs a command with its address, and ends it.

Usage: run.py COMMAND...
"""

import subprocess
import sys


def main():
    command = sys.argv[1:]
    # On Unix cargo becomes the program: a signal for one reaches the other.
    rill = ["cargo", "run", "--quiet", "--package", "rill-linux", "--bin", "rill", "--"]
    server = subprocess.Popen(
        [*rill, "serve", "--listen", "127.0.0.1:0", "--ram", "256MiB", "-c", "1024"],
        stderr=subprocess.PIPE,
        text=True,
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
    if status == 0 and server.returncode != 0:
        sys.exit(f"the server ended with status {server.returncode}")
    sys.exit(status)


main()
