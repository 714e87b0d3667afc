"""Data-parallel training: several processes, one device each, joined by torch.distributed.

Every process has the whole model and every n-th window of each batch. The gradients of the summed loss are added over
all processes and divided by the global number of targets, so that n processes take the same steps as one process.
(torch's DistributedDataParallel averages over processes instead, which is wrong if they have different numbers of
targets, and reduces after each backward pass; a step here has several.)
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

TIMEOUT_HOURS = 2  # the other processes wait while the main process validates


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train one model together.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that validates, reports and saves."""
        return self.rank == 0

    def sum(self, values: list[float], device: torch.device) -> list[float]:
        """Sum each of `values` over all processes."""
        if self.world_size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()

    def sum_gradients(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
        """Sum the gradients and the loss over all processes in one all-reduce, and return the summed loss."""
        if self.world_size == 1:
            return loss
        parameters = list(parameters)
        flat = torch.cat([*(_gradient(parameter).flatten() for parameter in parameters), loss.float().view(1)])
        dist.all_reduce(flat)
        *gradients, loss = flat.split([*(parameter.numel() for parameter in parameters), 1])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return loss.squeeze()

    def broadcast_weights(self, module: nn.Module) -> None:
        """Copy the parameters and buffers of the main process to all processes."""
        if self.world_size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, src=0)

    def broadcast_values(self, values: dict[str, float], device: torch.device) -> dict[str, float]:
        """Return the main process's values in every process; they are sent as JSON of at most 4 kB."""
        if self.world_size == 1:
            return values
        buffer = torch.zeros(4096, dtype=torch.uint8, device=device)
        encoded = json.dumps(values).encode()
        buffer[: len(encoded)] = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
        dist.broadcast(buffer, src=0)
        return json.loads(bytes(buffer.cpu().numpy()).rstrip(b"\0"))


def join_process_group(device: torch.device, *, n_processes: int) -> tuple[ProcessGroup, torch.device]:
    """Join the process group of a worker; each worker uses the GPU of its local rank.

    The environment identifies the worker: WORLD_SIZE, RANK and LOCAL_RANK as torchrun sets them. The pipelines also
    set ATTNREC_RENDEZVOUS, a file through which the workers find each other, so that no process listens on a port.

    Args:
        device: the device of `TrainConfig.device`.
        n_processes: `TrainConfig.processes`.

    Returns:
        The process group, and the device of this process.

    Raises:
        ValueError: if torchrun started another number of processes than `n_processes`, or there are too few GPUs.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size != n_processes:
        raise ValueError(
            f"train.processes must equal the number of processes that torchrun started, got train.processes = "
            f"{n_processes} and {world_size} started; start with torchrun --standalone --nproc-per-node {n_processes}, "
            f"or set train.processes = {world_size}"
        )
    if world_size == 1:
        return ProcessGroup(), device
    if device.type == "cuda":
        local_rank, n_gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local_rank >= n_gpus:
            raise ValueError(
                f"every process needs its own GPU, got local rank {local_rank} on a machine with {n_gpus} GPUs; "
                f"start at most {n_gpus} processes per machine"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        rendezvous = os.environ.get("ATTNREC_RENDEZVOUS")
        store = None if rendezvous is None else dist.FileStore(rendezvous, world_size)  # pyright: ignore[reportPrivateImportUsage]
        rank, timeout = int(os.environ["RANK"]), timedelta(hours=TIMEOUT_HOURS)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    return ProcessGroup(rank=dist.get_rank(), world_size=dist.get_world_size()), device


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
