"""The vocabulary of checks: how a policy is built, run, varied and shown in text."""
