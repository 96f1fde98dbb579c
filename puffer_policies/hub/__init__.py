"""Where checkpoints come from and go to: paths, installed packages and the Hugging Face Hub."""
