"""`python -m cas_ext.info` prints what is installed here, to paste into a bug report."""

from .environment import info

if __name__ == "__main__":
    for name, text in info().items():
        print(f"{name:14} {text}")
