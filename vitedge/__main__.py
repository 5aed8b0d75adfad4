"""`python -m vitedge`."""

from vitedge.cli import program

if __name__ == "__main__":
    program()
