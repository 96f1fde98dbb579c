"""The wrappers of this package: policies that hold a policy and add memory or a transformation."""
