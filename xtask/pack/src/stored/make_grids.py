"""Makes grids.bin: the tables of ggml's IQ encodings, as the Python package `gguf` has them packed.

needs: pip install gguf
"""
from gguf import quants

with open("grids.bin", "wb") as out:
    for kind in ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S"]:
        out.write(bytes.fromhex(getattr(quants, kind).grid_hex.decode()))
