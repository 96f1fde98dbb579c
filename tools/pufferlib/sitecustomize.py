"""What the setup script of PufferLib 3.0 needs, to be built without its envs in C and for the CPU.

Python imports this file at its start where the folder is on ``PYTHONPATH``. Without those envs
(``NO_OCEAN=1``) the script reads a name that it has not defined; and where it finds a compiler of
CUDA, it asks for the rest of CUDA.
"""

import builtins
import shutil

builtins.c_extension_paths = []
_which = shutil.which


def _which_but_nvcc(name, *args, **options):
    return None if name == "nvcc" else _which(name, *args, **options)


shutil.which = _which_but_nvcc
