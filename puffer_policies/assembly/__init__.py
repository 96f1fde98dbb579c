"""From a name to a module, and from a module to a file and back."""
