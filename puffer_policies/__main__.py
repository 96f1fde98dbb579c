"""Runs the command line as ``python -m puffer_policies``."""

from puffer_policies.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
