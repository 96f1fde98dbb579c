"""What `make gpu` runs: the policies and the trainer on a device, compared with the CPU, and timed.

It needs torch, gymnasium, pluggy, importlib-metadata and safetensors, and no network. Each part
runs in a process of its own with a limit of time, so that one that crashes leaves the others.
"""
