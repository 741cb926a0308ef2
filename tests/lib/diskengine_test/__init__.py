"""What the integration and VM tests share: processes under test, a JSON-RPC client, deadlines, guests."""

from . import linux_nvme, rdma
from .blobstore import Blobstore
from .case import TestCase
from .deadline import scaled, wait_until
from .guest import (
    BLOCK_MODULES,
    EXT4_MODULES,
    NETWORK_MODULES,
    NVME_TCP_MODULES,
    NVMET_TCP_MODULES,
    Guest,
    GuestCommandFailed,
)
from .lvols import LvolCase
from .nvme_pipeline import NvmePipeline, TargetGone
from .nvme_tcp import Namespace, NvmeError
from .process import DataPlane, Process, ProcessFailed, program
from .rpc import RpcClient, RpcError

__all__ = [
    "BLOCK_MODULES",
    "EXT4_MODULES",
    "NETWORK_MODULES",
    "NVME_TCP_MODULES",
    "NVMET_TCP_MODULES",
    "Blobstore",
    "DataPlane",
    "Guest",
    "GuestCommandFailed",
    "LvolCase",
    "Namespace",
    "NvmeError",
    "NvmePipeline",
    "Process",
    "ProcessFailed",
    "RpcClient",
    "RpcError",
    "TargetGone",
    "TestCase",
    "linux_nvme",
    "program",
    "rdma",
    "scaled",
    "wait_until",
]
