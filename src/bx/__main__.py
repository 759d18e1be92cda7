"""`python -m bx` is `bx`."""

from bx.cli import run

if __name__ == "__main__":
    run()
