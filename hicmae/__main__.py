"""`python -m hicmae` is the command `hicmae`."""

from hicmae.cli import entry

if __name__ == "__main__":
    entry()
