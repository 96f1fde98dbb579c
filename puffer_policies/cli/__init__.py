"""The command line. A verb is a module with ``add_arguments(parser)`` and ``run(options)``."""
