"""Several processes, one device each, train one model: started by torchrun, joined through torch.distributed.

Every process has the whole model and every n-th window of each batch. Gradients of the summed loss are added over
all processes and divided by the global number of targets, so n processes take the steps that one would take.
(torch's DistributedDataParallel averages over processes instead, which is wrong where they hold different numbers
of targets, and reduces once per backward pass, of which a step here has several.)
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

TIMEOUT_HOURS = 2  # others wait while the first validates


@dataclass(frozen=True)
class Processes:
    """Who trains together.

    Attributes:
        rank: this one's number, from 0; the first one validates, reports and saves.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks."""
        return self.rank == 0

    def sum(self, values: list[float], device: torch.device) -> list[float]:
        """Each of `values`, added over all processes."""
        if self.size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()

    def sum_gradients(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
        """Add the gradients of all processes, and their parts of the loss, in one message; returns the loss."""
        if self.size == 1:
            return loss
        parameters = list(parameters)
        flat = torch.cat([*(_gradient(parameter).flatten() for parameter in parameters), loss.float().view(1)])
        dist.all_reduce(flat)
        *gradients, loss = flat.split([*(parameter.numel() for parameter in parameters), 1])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return loss.squeeze()

    def share_weights(self, module: nn.Module) -> None:
        """Everybody gets the first one's parameters and buffers."""
        if self.size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, src=0)

    def share_values(self, values: dict[str, float], device: torch.device) -> dict[str, float]:
        """Everybody gets the first one's values, as JSON of at most 4 kB."""
        if self.size == 1:
            return values
        text = torch.zeros(4096, dtype=torch.uint8, device=device)
        said = json.dumps(values).encode()
        text[: len(said)] = torch.frombuffer(bytearray(said), dtype=torch.uint8)
        dist.broadcast(text, src=0)
        return json.loads(bytes(text.cpu().numpy()).rstrip(b"\0"))


def join_processes(device: torch.device, *, n_processes: int) -> tuple[Processes, torch.device]:
    """Meet the others if torchrun started this process; each takes the GPU of its own number.

    Args:
        device: of the settings.
        n_processes: of the settings.

    Returns:
        The processes, and the device of this one.

    Raises:
        ValueError: when torchrun started another number of processes than the settings ask for, or a GPU is missing.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size != n_processes:
        raise ValueError(
            f"processes must be how many torchrun started, got {n_processes} and {size}; start with "
            f"torchrun --standalone --nproc-per-node {n_processes}, or set train.processes = {size}"
        )
    if size == 1:
        return Processes(), device
    if device.type == "cuda":
        number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if number >= there:
            raise ValueError(f"processes must be no more than the GPUs of a machine, got {number + 1} for {there}")
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=TIMEOUT_HOURS))
    return Processes(rank=dist.get_rank(), size=dist.get_world_size()), device


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
