"""Makes dequantised.safetensors: random blocks of every GGUF encoding that the packer reads, and
what the reference decoder of the Python package `gguf` makes of them.

needs: pip install numpy gguf safetensors
"""
import numpy as np
from gguf import GGMLQuantizationType as T, GGML_QUANT_SIZES
from gguf.quants import dequantize
from safetensors.numpy import save_file

BLOCKS = 3
# Where the f16 scales of a block lie.
SCALES = {"Q4_0": [0], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}

rng = np.random.default_rng(1)
tensors = {}
for name in ["F16", "BF16", "Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]:
    kind = T[name]
    weights, size = GGML_QUANT_SIZES[kind]
    if name == "F16":
        data = rng.normal(size=64).astype(np.float16).view(np.uint8)
    elif name == "BF16":
        data = (rng.normal(size=64).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    else:
        data = rng.integers(0, 256, size=(BLOCKS, size), dtype=np.uint8)
        for at in SCALES[name]:
            scale = rng.normal(scale=0.05, size=(BLOCKS, 1)).astype(np.float16)
            data[:, at : at + 2] = scale.view(np.uint8)
    tensors[f"{name}.bytes"] = data.reshape(-1).copy()
    tensors[f"{name}.weights"] = dequantize(data.reshape(-1), kind).astype(np.float32).reshape(-1)
save_file(tensors, "dequantised.safetensors")
