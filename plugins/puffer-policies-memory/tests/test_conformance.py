"""Every memory of this package keeps the contract, on every kind of space."""

from puffer_policies.checks import conformance_tests

test_conformance = conformance_tests("puffer-policies-memory")
