"""Runs CUDA kernels on the CPU and checks every memory access they make. README.md says how."""


class KernelError(Exception):
    """A kernel did what a GPU would not have reported.

    Attributes: kind, kernel, block, thread, buffer (a name, "shared" or ""), index (of an element, or -1) and sites
    (file:line of the access, then of the one it conflicts with).
    """

    def __init__(self, message, kind="", kernel="", block=(), thread=(), buffer="", index=-1, sites=()):
        super().__init__(message)
        self.kind = kind
        self.kernel = kernel
        self.block = block
        self.thread = thread
        self.buffer = buffer
        self.index = index
        self.sites = sites
