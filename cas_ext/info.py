"""`python -m cas_ext.info` prints what is installed here, to paste into a bug report. Exit code 1: it cannot be used."""

import sys

from .environment import look

if __name__ == "__main__":
    found, usable = look()
    for name, text in found.items():
        print(f"{name:14} {text}")
    sys.exit(0 if usable else 1)
