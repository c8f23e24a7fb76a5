"""Starting the processes of a job: one, several on GPUs, or those that torchrun has started already."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.distributed.elastic.multiprocessing.errors.error_handler import ErrorHandler

from panoptic_plugin.engine.termination import EXIT_CODE
from panoptic_plugin.errors import ConfigError, UserError, one_line

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT = timedelta(minutes=10)
# After a failure: how long the other processes have to end by themselves, and then again until they are killed.
FAREWELL_SECONDS = 4.0
# What gloo says where NCCL raises DistBackendError.
SIGNS_OF_A_LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Connection refused",
    "gloo/transport",
)
TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class ProcessPlace:
    """Which of a job's processes this is; ``init_method`` says where they meet."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    init_method: str


def is_torchrun() -> bool:
    """Whether torchrun (or anything that sets its variables) has started this process."""
    return all(name in os.environ for name in TORCHRUN_VARIABLES)


def launch(
    main: Callable[..., Any],
    num_gpus: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: Sequence[Any] = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> Any:
    """Run ``main(*args)`` in every process of the job, with Detectron2's ``comm`` set up.

    Under torchrun this process is one of them: NCCL joins them on GPUs, gloo on CPUs. Otherwise, for more than one
    GPU or machine, ``num_gpus`` processes are started here, as Detectron2's ``launch`` does.

    Args:
        main: a function that can be pickled.
        num_gpus: GPUs on each machine; 0 is one process on the CPU.
        num_machines: machines of the job, on each of which ``launch`` is called.
        machine_rank: which of them this is.
        dist_url: where the processes meet, for example ``tcp://10.0.0.1:29500``; "auto" is a free local port.
        args: arguments of ``main``; pickled, where processes are started.
        timeout: how long one process waits for another.

    Returns:
        What ``main`` returns; None where processes were started.

    Raises:
        ConfigError: more GPUs than the machine has, or machines without a common address.
    """
    check_num_gpus(num_gpus)
    if is_torchrun():
        return _run_in_group(_torchrun_place(), num_gpus > 0, timeout, main, args)
    if num_gpus == 0 and num_machines > 1:
        raise ConfigError("--num-machines needs GPUs; for CPUs of several machines start the script with torchrun")
    if num_gpus * num_machines <= 1:
        return main(*args)
    if dist_url == "auto":
        if num_machines > 1:
            raise ConfigError(
                "--dist-url auto works on one machine only; give the address of machine 0 (tcp://IP:PORT)"
            )
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    start_processes(main, num_gpus, num_machines, machine_rank, dist_url, args, timeout=timeout)
    return None


def start_processes(
    main: Callable[..., Any],
    num_local: int,
    num_machines: int,
    machine_rank: int,
    dist_url: str,
    args: Sequence[Any],
    *,
    use_cuda: bool = True,
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Start ``num_local`` processes of a job on this machine and wait for them; see :func:`launch`.

    Raises:
        UserError: that of the first process that had one.
        torch.multiprocessing.ProcessExitedException: a process has ended with another exit code than 0.
        torch.multiprocessing.ProcessRaisedException: another exception in a process, with its traceback.
    """
    user_errors = torch.multiprocessing.get_context("spawn").SimpleQueue()
    job = (num_local, num_machines, machine_rank, dist_url, use_cuda, timeout, main, args, user_errors)
    started = torch.multiprocessing.spawn(_started_process, args=job, nprocs=num_local, join=False)
    try:
        with _passed_on(signal.SIGTERM, started.processes):
            while not started.join(grace_period=FAREWELL_SECONDS):
                pass
    except torch.multiprocessing.ProcessExitedException as ended:
        if ended.exit_code == EXIT_CODE:  # saved and stopped, as they were told to
            raise SystemExit(EXIT_CODE) from None
        if user_errors.empty():
            raise
        raise user_errors.get() from None


@contextmanager
def _passed_on(number: signal.Signals, processes: Sequence[Any]) -> Iterator[None]:
    """Send a signal that this process gets on to ``processes``; they decide what it means."""
    if threading.current_thread() is not threading.main_thread():  # only there can Python handle signals
        yield
        return

    def pass_on(received: int, frame: Any) -> None:
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, received)

    before = signal.signal(number, pass_on)
    try:
        yield
    finally:
        signal.signal(number, before)


def _started_process(
    local_rank: int,
    num_local: int,
    num_machines: int,
    machine_rank: int,
    dist_url: str,
    use_cuda: bool,
    timeout: timedelta,
    main: Callable[..., Any],
    args: Sequence[Any],
    user_errors: Any,
) -> None:
    rank = machine_rank * num_local + local_rank
    place = ProcessPlace(rank, num_machines * num_local, local_rank, num_local, dist_url)
    try:
        _run_in_group(place, use_cuda, timeout, main, args)
    except UserError as error:
        user_errors.put(_with_rank(error, rank))  # as an exception it would reach the other side as a traceback only
        sys.exit(1)


def _torchrun_place() -> ProcessPlace:
    rank, world_size, local_rank, local_world_size = (int(os.environ[name]) for name in TORCHRUN_VARIABLES)
    return ProcessPlace(rank, world_size, local_rank, local_world_size, "env://")


def _run_in_group(
    place: ProcessPlace, use_cuda: bool, timeout: timedelta, main: Callable[..., Any], args: Sequence[Any]
) -> Any:
    if use_cuda:
        check_num_gpus(place.local_rank + 1)
        torch.cuda.set_device(place.local_rank)
    dist.init_process_group(
        backend="nccl" if use_cuda else "gloo",
        init_method=place.init_method,
        rank=place.rank,
        world_size=place.world_size,
        timeout=timeout,
    )
    create_local_group(place.local_world_size)
    # Detectron2 0.6 packs what it gathers in a way that PyTorch comments on in every process.
    warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
    comm.synchronize()  # without it NCCL's first collective may time out
    try:
        result = main(*args)
    except Exception as error:
        if is_torchrun() and "TORCHELASTIC_ERROR_FILE" in os.environ:
            ErrorHandler().record_exception(error)  # torchrun prints it last
        if _is_of_a_peer(error) and "Timed out" not in str(error):
            # The process that failed first must be the first to end, so that its error is the one reported.
            logger.error("Process %d: another process has failed or hangs (%s)", place.rank, one_line(error))
            time.sleep(FAREWELL_SECONDS)
        raise
    leave_group()  # only after success: with a failed peer it would wait
    return result


def _is_of_a_peer(error: Exception) -> bool:
    """Whether an error says that another process did not answer, rather than what went wrong."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(sign in text for sign in SIGNS_OF_A_LOST_PEER)


def _with_rank(error: UserError, rank: int) -> UserError:
    if rank:
        error.args = (f"{error} (process {rank})",)
    return error


def create_local_group(num_local: int) -> None:
    """Tell Detectron2's ``comm`` which processes share this machine; all processes must call it."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(num_local)
        return
    for first in range(0, dist.get_world_size(), num_local):
        group = dist.new_group(list(range(first, first + num_local)))
        if first <= dist.get_rank() < first + num_local:
            comm._LOCAL_PROCESS_GROUP = group


def leave_group() -> None:
    """End this process' part in the job and make Detectron2's ``comm`` forget it."""
    dist.destroy_process_group()
    comm._LOCAL_PROCESS_GROUP = None
    for name in ("create_local_process_group", "_get_global_gloo_group"):
        if hasattr(comm, name):
            getattr(comm, name).cache_clear()


def check_num_gpus(num_gpus: int) -> None:
    """Raise ConfigError for a number of GPUs that this machine does not have."""
    visible = torch.cuda.device_count()
    if num_gpus < 0:
        raise ConfigError(f"--num-gpus is {num_gpus}, expected 0 (CPU) or more")
    if num_gpus > visible:
        raise ConfigError(
            f"{num_gpus} GPUs are asked for, but PyTorch sees {visible} on this machine; "
            f"use --num-gpus {visible}{' (CPU)' if visible == 0 else ''} or check CUDA_VISIBLE_DEVICES"
        )


def choose_num_gpus(asked: int | None, device: str) -> int:
    """How many GPUs to use on this machine.

    Args:
        asked: what ``--num-gpus`` says, None where it was not given.
        device: ``MODEL.DEVICE``; "cpu" means none.

    Returns:
        ``asked``; or 1, as in Detectron2, or 0 with a warning where there is none.

    Raises:
        ConfigError: as :func:`check_num_gpus`.
    """
    if device == "cpu" and not asked:
        return 0
    if device == "cpu":
        raise ConfigError(f"--num-gpus is {asked}, but MODEL.DEVICE is cpu; leave out one of them")
    if asked is not None:
        check_num_gpus(asked)
        return asked
    if torch.cuda.is_available():
        return 1
    logger.warning("PyTorch sees no CUDA device: running on the CPU (--num-gpus 0 says so without this warning)")
    return 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
