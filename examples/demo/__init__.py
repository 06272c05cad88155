"""Segmentation learned from labels that are half wrong: `python -m examples.demo` from the repository root.

One small network is trained three times, with cross entropy, with class-agnostic cross entropy and with
`cas_ext.CASLoss`, on images whose region labels are swapped in half of the training set. A table and a picture show
what each of them learned. `python -m examples.demo --help` lists the options, among them your own images and masks.
"""

import os
import sys

if "torch" not in sys.modules:
    # OpenMP reads this once, when torch is loaded. Threads that wait by spinning take the core from the one they wait
    # for as soon as another program runs too, and training then takes several times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
