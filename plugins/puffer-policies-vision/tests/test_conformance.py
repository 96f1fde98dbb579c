"""Every policy of this package keeps the contract, on every kind of space that it takes."""

from puffer_policies.checks import conformance_tests

test_conformance = conformance_tests("puffer-policies-vision")
