"""Reads the machine code of the CUDA kernels: registers, local memory and the width of global accesses, without a GPU."""
