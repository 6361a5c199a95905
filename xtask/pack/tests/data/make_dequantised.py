"""Makes dequantised.safetensors: random blocks of every GGUF encoding that the packer reads, and
what the reference decoder of the Python package `gguf` makes of them. For encodings with tables
also blocks in which every entry occurs (NAME.table), and the sum over all decoded weights of their
bits times an odd number that counts up (NAME.sum).

needs: pip install numpy gguf safetensors
"""
import numpy as np
from gguf import GGMLQuantizationType as T, GGML_QUANT_SIZES
from gguf.quants import dequantize
from safetensors.numpy import save_file

BLOCKS = 3
# Where the f16 scales of a block lie.
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ1_S": [0], "IQ1_M": [], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0],
    "IQ4_NL": [0], "IQ4_XS": [0], "TQ1_0": [52], "TQ2_0": [64], "MXFP4": [], "NVFP4": [],
}

rng = np.random.default_rng(1)
tensors = {}


def blocks(name, count):
    data = rng.integers(0, 256, size=(count, GGML_QUANT_SIZES[T[name]][1]), dtype=np.uint8)
    for at in SCALES[name]:
        data[:, at : at + 2] = rng.normal(scale=0.05, size=(count, 1)).astype(np.float16).view(np.uint8)
    if name == "IQ1_M":
        # The top nibble of the scale is that of 0.5, so that it is finite.
        data[:, 55] = data[:, 55] & 0x0F | 0x30
    if name == "MXFP4":
        data[:, 0] = [0, 1, 120]
    if name == "NVFP4":
        data[0, :4] = [0x00, 0x7F, 0xFF, 0x05]
    return data


def decode(name, data):
    return dequantize(data.reshape(-1), T[name]).astype(np.float32).reshape(-1)


def words(data, at, kind):
    """A view of a part of each block as wider numbers."""
    return lambda values: data.__setitem__((slice(None), slice(at, at + values.shape[1] * values.itemsize)), values.astype(kind).view(np.uint8))


def every(name):
    """Blocks whose groups take every entry of the table in order."""
    size = {"IQ2_XXS": 256, "IQ2_XS": 512, "IQ2_S": 1024, "IQ3_XXS": 256, "IQ3_S": 512, "IQ1_S": 2048, "IQ1_M": 2048}[name]
    groups = 64 if name.startswith("IQ3") else 32
    index = np.arange(size).reshape(-1, groups)
    data = blocks(name, len(index))
    low = (index & 255).astype(np.uint8)
    if name == "IQ2_XXS":
        data[:, 2:66].reshape(-1, 8, 8)[:, :, :4] = low.reshape(-1, 8, 4)
    elif name == "IQ2_XS":
        words(data, 2, np.uint16)((index | rng.integers(0, 128, index.shape) << 9).astype(np.uint16))
    elif name == "IQ2_S":
        data[:, 2:34] = low
        high = (index >> 8).reshape(-1, 8, 4) << np.array([0, 2, 4, 6])
        data[:, 66:74] = high.sum(-1)
    elif name == "IQ3_XXS":
        data[:, 2:66] = low
    elif name == "IQ3_S":
        data[:, 2:66] = low
        data[:, 66:74] = ((index >> 8).reshape(-1, 8, 8) << np.arange(8)).sum(-1)
    elif name == "IQ1_S":
        data[:, 2:34] = low
        high = ((index >> 8).reshape(-1, 8, 4) << np.array([0, 3, 6, 9])).sum(-1)
        words(data, 34, np.uint16)((high | rng.integers(0, 16, high.shape) << 12).astype(np.uint16))
    elif name == "IQ1_M":
        data[:, :32] = low
        high = (index >> 8 | rng.integers(0, 2, index.shape) << 3).reshape(-1, 16, 2) << np.array([0, 4])
        data[:, 32:48] = high.sum(-1)
    return data


for name in ["F16", "BF16", *SCALES]:
    if name == "F16":
        data = rng.normal(size=64).astype(np.float16).view(np.uint8)
    elif name == "BF16":
        data = (rng.normal(size=64).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    else:
        data = blocks(name, BLOCKS)
    tensors[f"{name}.bytes"] = data.reshape(-1).copy()
    tensors[f"{name}.weights"] = decode(name, data)
    if name[:3] in ("IQ1", "IQ2", "IQ3"):
        data = every(name)
        bits = decode(name, data).view(np.uint32).astype(np.uint64)
        tensors[f"{name}.table"] = data.reshape(-1).copy()
        tensors[f"{name}.sum"] = (bits * (2 * np.arange(len(bits), dtype=np.uint64) + 1)).sum(keepdims=True)
save_file(tensors, "dequantised.safetensors")
