"""Runs the command line as ``python -m puffer_policies``."""

from puffer_policies.cli.main import enter

if __name__ == "__main__":
    enter()
