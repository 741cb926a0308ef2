"""What the integration and VM tests share: processes under test, a JSON-RPC client, deadlines, guests."""

from .case import TestCase
from .deadline import scaled, wait_until
from .process import DataPlane, Process, ProcessFailed, program
from .rpc import RpcClient, RpcError

__all__ = [
    "DataPlane",
    "Process",
    "ProcessFailed",
    "RpcClient",
    "RpcError",
    "TestCase",
    "program",
    "scaled",
    "wait_until",
]
