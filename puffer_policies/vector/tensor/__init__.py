"""Vector envs on a device: the adapter of those that take and give tensors, and envs of our own."""

from puffer_policies.vector.tensor.adapter import TensorVecEnv, is_tensor_env
from puffer_policies.vector.tensor.base import TorchVectorEnv
from puffer_policies.vector.tensor.cartpole import TorchCartPole
from puffer_policies.vector.tensor.host import HostVecEnv, on_host
from puffer_policies.vector.tensor.pendulum import TorchPendulum
from puffer_policies.vector.tensor.repeat_previous import TorchRepeatPrevious

__all__ = [
    "HostVecEnv",
    "TensorVecEnv",
    "TorchCartPole",
    "TorchPendulum",
    "TorchRepeatPrevious",
    "TorchVectorEnv",
    "is_tensor_env",
    "on_host",
]
