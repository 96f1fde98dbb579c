"""Export: trained policies for programs that run without this package."""
