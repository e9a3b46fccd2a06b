"""The CUDA runtime through ctypes, and where it is found; pushed beside runtime.py.

Every symbol was held against the CUDA runtimes 12.9 and 13.5; no call that needs a GPU was executed: no GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import weakref
from pathlib import Path
from typing import Any, Callable  # noqa: UP035 - typing's own, for Python 3.8

import numpy as np
import numpy.typing as npt


class Unavailable(RuntimeError):
    """There is no TensorRT or no GPU here."""


class CudaError(RuntimeError):
    """A call of the CUDA runtime failed."""


class Cuda:
    """The few calls of a CUDA runtime library that are needed."""

    def __init__(self, path: str) -> None:
        """Raises `OSError` when there is no such library."""
        self.path, self._library = path, ctypes.CDLL(path)

    def call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            text = self._library.cudaGetErrorString
            text.restype = ctypes.c_char_p
            raise CudaError(f"{name}: {text(code).decode('utf-8', 'replace')} (CUDA error {code})")

    def _number(self, name: str, *arguments: Any) -> int:
        value = ctypes.c_int(0)
        self.call(name, ctypes.byref(value), *arguments)
        return value.value

    def _pointer(self, name: str, *arguments: Any) -> int:
        value = ctypes.c_void_p()
        self.call(name, ctypes.byref(value), *arguments)
        return int(value.value or 0)

    def devices(self) -> int:
        return self._number("cudaGetDeviceCount")

    def version(self, of: str) -> str:
        """`of`: Runtime or Driver."""
        number = self._number(f"cuda{of}GetVersion")
        return f"{number // 1000}.{number % 1000 // 10}"

    def device(self) -> dict[str, str]:
        """What an engine is bound to: name, compute capability, UUID, driver, and the machine's own name."""
        properties = ctypes.create_string_buffer(1 << 14)  # name[256] and uuid[16] lead it in CUDA 11 to 13
        self.call("cudaGetDeviceProperties", properties, ctypes.c_int(0))
        major, minor = (self._number("cudaDeviceGetAttribute", ctypes.c_int(n), 0) for n in (75, 76))
        with contextlib.suppress(OSError):
            machine = Path("/proc/device-tree/model").read_bytes().rstrip(b"\0").decode("utf-8", "replace")
            return {**self._named(properties.raw, major, minor), "machine": machine}
        return self._named(properties.raw, major, minor)

    def _named(self, properties: bytes, major: int, minor: int) -> dict[str, str]:
        return {
            "name": properties[:256].split(b"\0")[0].decode("utf-8", "replace"),
            "uuid": properties[256:272].hex(),
            "compute_capability": f"{major}.{minor}",
            "driver": self.version("Driver"),
        }

    def stream(self) -> int:
        return self._pointer("cudaStreamCreateWithFlags", ctypes.c_uint(1))  # waits for no other stream

    def wait(self, stream: int) -> None:
        self.call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def event(self) -> int:
        return self._pointer("cudaEventCreateWithFlags", ctypes.c_uint(0))

    def record(self, event: int, stream: int) -> None:
        self.call("cudaEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def elapsed_ms(self, before: int, after: int) -> float:
        value = ctypes.c_float()
        ends = (ctypes.c_void_p(before), ctypes.c_void_p(after))
        self.call("cudaEventElapsedTime", ctypes.byref(value), *ends)
        return float(value.value)

    def memory(self, size: int) -> tuple[int, int]:
        """Addresses of as many bytes on the device, and of pinned ones on the host."""
        on_device = self._pointer("cudaMalloc", ctypes.c_size_t(size))
        # 0: pinned, and known to every CUDA context of the process.
        return on_device, self._pointer("cudaHostAlloc", ctypes.c_size_t(size), ctypes.c_uint(0))

    def free(self, on_device: int, on_host: int) -> None:
        self.call("cudaFree", ctypes.c_void_p(on_device))
        self.call("cudaFreeHost", ctypes.c_void_p(on_host))

    def to_device(self, memory: Memory, stream: int) -> None:
        self._copy(memory.device, memory.address, memory.host.nbytes, 1, stream)

    def to_host(self, memory: Memory, stream: int) -> None:
        self._copy(memory.address, memory.device, memory.host.nbytes, 2, stream)

    def _copy(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        ends = (ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size))
        self.call("cudaMemcpyAsync", *ends, ctypes.c_int(kind), ctypes.c_void_p(stream))

    def captured(self, work: Callable[[], None], stream: int) -> int:
        """What `work` enqueues on the stream, as a graph that can be launched."""
        self.call("cudaStreamBeginCapture", ctypes.c_void_p(stream), ctypes.c_int(1))  # of this thread only
        graph = ctypes.c_void_p()
        try:
            work()
        finally:
            self.call("cudaStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        return self._pointer("cudaGraphInstantiateWithFlags", graph, ctypes.c_ulonglong(0))

    def launch(self, graph: int, stream: int) -> None:
        self.call("cudaGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))


class Memory:
    """A tensor on the device (`device`: its address), and its pinned copy on the host (`host`)."""

    def __init__(self, cuda: Cuda, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype
        size = int(np.prod(shape)) * dtype.itemsize
        self.device, self.address = cuda.memory(size)
        content = (ctypes.c_byte * size).from_address(self.address)
        self.host: npt.NDArray[Any] = np.ctypeslib.as_array(content).view(dtype).reshape(shape)
        weakref.finalize(self, cuda.free, self.device, self.address).atexit = False


def open_cuda() -> Cuda:
    """The first CUDA runtime library that sees a GPU; raises `Unavailable`."""
    reasons = []
    for path in libraries():
        try:
            cuda = Cuda(path)
            if cuda.devices() > 0:
                return cuda
            reasons.append(f"{path}: sees no GPU")
        except OSError:
            continue
        except CudaError as error:
            reasons.append(f"{path}: {error}")
    raise Unavailable(f"no GPU: {'; '.join(reasons) or 'there is no CUDA runtime library (libcudart)'}")


def libraries() -> list[str]:
    """Where a CUDA runtime is looked for: the loader's own places, JetPack's, those of pip's packages."""
    found = [f"libcudart.so.{version}" for version in ("13", "12", "11.0")]
    places = [(Path("/usr/local"), f"cuda*/{folder}") for folder in ("lib64", "targets/*/lib")]
    places += [(Path("/usr/lib"), "*-linux-gnu")]
    places += [(Path(one), "nvidia/*/lib") for one in sys.path if Path(one).is_absolute()]
    for root, pattern in places:
        found += sorted(map(str, root.glob(f"{pattern}/libcudart.so.*")), reverse=True)
    return found
