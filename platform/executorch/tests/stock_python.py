"""The program in ExecuTorch's own Python runtime, and its stock text runner, against `rill`.

Usage: stock_python.py FOLDER RILL

FOLDER is what `cargo xtask image --board executorch-x86_64 --model MODEL.rill -o FOLDER` made, RILL the
`rill` program. It needs `pip install executorch==1.5.1 torch==2.13.0` (5 GB).
"""

import ctypes
import json
import pathlib
import subprocess
import sys
import tempfile

import executorch
import numpy
import torch
from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner
from executorch.runtime import Runtime, Verification

QUESTION = "<|im_start|>user\nWhere is the first aid room?<|im_end|>\n<|im_start|>assistant\n"
TOKENS = 32

folder, rill = pathlib.Path(sys.argv[1]), sys.argv[2]
program = folder / "model.pte"
runtime = pathlib.Path(list(executorch.__path__)[0]) / "lib" / "libexecutorch.so"
for library in (runtime, folder / "lib" / "librill_backend.so"):
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def run(*args):
    return subprocess.run([rill, *args], check=True, stdout=subprocess.PIPE, text=True).stdout


def forward(method, tokens, position):
    (logits,) = method.execute((torch.tensor([tokens]), torch.tensor([position])))
    return logits.flatten().numpy().copy()


loaded = Runtime.get().load_program(program, verification=Verification.InternalConsistency)
method = loaded.load_method("forward")
tokens = json.loads(run("tokenize", "-m", program, "--special", QUESTION))
with tempfile.TemporaryDirectory() as place:
    (ids, out) = (pathlib.Path(place) / name for name in ("ids.txt", "logits.npy"))
    ids.write_text(" ".join(map(str, tokens)))
    run("logits", "-m", program, "--ids", ids, "--out", out)
    wanted = numpy.load(out)
for position, token in enumerate(tokens):
    assert numpy.array_equal(forward(method, [token], position), wanted[position]), position
assert numpy.array_equal(forward(method, tokens, 0), wanted[-1])
print(f"executorch.runtime: {len(tokens)} tokens, all logits are those of rill")

runner = TextLLMRunner(str(program), str(folder / "tokenizer.json"))
said = []
config = GenerationConfig(echo=False, temperature=0.0, max_new_tokens=TOKENS)
runner.generate(QUESTION, config, said.append)
# The runner hands on the token that ends the answer.
said = "".join(said).removesuffix("<|im_end|>")
greedy = run("run", "-m", program, "--greedy", "-n", str(TOKENS), "--raw", QUESTION)
assert said.strip() == greedy.strip(), (said, greedy)
print(f"TextLLMRunner: {said.strip()}")
