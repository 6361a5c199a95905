"""Builds the wheel of the Python package, installs it in a clean virtual environment, and tests it there.

Usage: run.py, with the Python that has what requirements.txt lists.
"""

import pathlib
import shutil
import subprocess
import sys
import venv

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "load"))
from server import program  # noqa: E402

place = ROOT / "target" / "python-clean"
wheels = place / "wheels"
shutil.rmtree(place, ignore_errors=True)
# Neither optimised nor another build of what the tests have built already.
build = ["-m", "maturin", "build", "--quiet", "--profile", "dev", "--out", wheels]
manifest = ROOT / "platform" / "python" / "Cargo.toml"
subprocess.run([sys.executable, *build, "--manifest-path", manifest], check=True)
(wheel,) = wheels.glob("*.whl")
assert "abi3" in wheel.name, wheel.name
venv.create(place / "venv", with_pip=True)
python = place / "venv" / "bin" / "python"
numpy = [line for line in (HERE / "requirements.txt").read_text().split() if "numpy" in line]
subprocess.run([python, "-m", "pip", "install", "--quiet", wheel, *numpy], check=True)
image = place / "kiosk.rill"
checkpoint = ROOT / "tests" / "data" / "kiosk" / "kiosk-16m"
subprocess.run([program(), "pack", checkpoint, "-o", image], check=True, capture_output=True)
tests = [python, HERE / "test_rill.py", image, program()]
sys.exit(subprocess.run(tests, cwd=place).returncode)
