"""Export: trained policies as files of other runtimes, one module for each kind of file."""
