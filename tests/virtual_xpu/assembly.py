# SPDX-License-Identifier: Apache-2.0
"""Runs one inline assembly of an Intel GPU on the virtual one, lane by lane."""

import ctypes
import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tests.virtual_xpu.payloads import Payload, Payloads
from tests.virtual_xpu.spirv_module import Module, words_of
from vllm_xpu_fp8_plugin.virtual_xpu import build, intel

Array = NDArray[np.generic]

LANES = 16

# SPIR-V's storage classes.
_CROSS, _INPUT = 5, 1
# Its built-in variables: a lane's number in the sub-group and in the work-group.
IN_SUBGROUP, IN_GROUP = 41, 27


def run(
    text: str,
    constraints: str,
    operands: Sequence[Array | int | Payload],
    result: tuple[type[np.generic], int] | None = None,
    group: tuple[int, ...] = (LANES,),
    lane_number: int = IN_SUBGROUP,
    sub_group: int = LANES,
) -> Array | None:
    """Run an assembly in a sub-group of 16 lanes.

    Args:
        text: The assembly.
        constraints: Of its operands, the result's first if there is one.
        operands: [count, 16] the lanes' vectors (count 1: scalars), an immediate
            number, or a payload.
        result: Type and count of the result's elements a lane.
        group: Items of the work-group that is launched, the innermost dimension first.
        lane_number: `IN_SUBGROUP` or `IN_GROUP`, what tells a lane its place.
        sub_group: Lanes that the kernel asks for, 0: any number.

    Returns:
        [count, 16], or None.

    Raises:
        ValueError: The rewriting does not know it; with its words.
        RuntimeError: OpenCL fails, or the launch is refused.

    """
    m = Module()
    for capability in (4, 5, 6, 7, 11, 22, 38, 39, 58, 5606, 5619):
        m.put(m.head, 17, capability)
    for extension in ("SPV_INTEL_inline_assembly", "SPV_INTEL_vector_compute"):
        m.put(m.head, 10, *words_of(extension))
    m.put(m.head, 14, 2, 2)
    main, lane_variable = m.fresh(), m.fresh()
    m.put(m.head, 15, 6, main, *words_of("main"), lane_variable)
    if sub_group:
        m.put(m.head, 16, main, 35, sub_group)
    m.put(m.head, 71, lane_variable, 11, lane_number)
    void, u8, u32, u64 = m.type(19), m.type(21, 8, 0), m.type(21, 32, 0), 0
    u64 = m.type(21, 64, 0)
    pointer = m.type(32, _CROSS, u8)
    payloads = Payloads(m)
    own = u32 if lane_number == IN_SUBGROUP else m.type(23, u64, 3)
    lane_pointer = m.type(32, _INPUT, own)
    m.put(m.types, 59, lane_pointer, lane_variable, _INPUT)

    def element(kind: np.dtype[np.generic] | type[np.generic], count: int) -> int:
        kind = np.dtype(kind)
        bits = kind.itemsize * 8
        one = m.type(22, bits) if kind.kind == "f" else m.type(21, bits, 0)
        return one if count == 1 else m.type(23, one, count)

    outcome = void if result is None else element(*result)
    given: list[int] = []
    for operand in operands:
        if isinstance(operand, Payload):
            given.append(payloads.type)
        elif isinstance(operand, int):
            given.append(u32)
        else:
            given.append(element(operand.dtype, len(operand)))
    kernel = m.type(33, void, *[pointer] * 3)
    function = m.type(33, outcome, *given)
    target, assembly = m.fresh(), m.fresh()
    m.put(m.types, 5609, target, *words_of("spirv64-unknown-unknown"))
    m.put(
        m.types,
        *(5610, void, assembly, function, target),
        *words_of(text),
        *words_of(constraints),
    )
    m.put(m.body, 54, void, main, 0, kernel)
    source, target_memory, surface = (m.emit(55, pointer) for _ in range(3))
    payloads.enter()
    lane = m.emit(61, own, lane_variable)
    widen = (113, u64, lane) if own == u32 else (81, u64, lane, 0)
    wide_lane = m.emit(*widen)

    def place(base: int, offset: int, kind: int, stride: int) -> int:
        at = m.emit(132, u64, wide_lane, m.number(u64, stride, 0))
        at = m.emit(128, u64, at, m.number(u64, offset, 0))
        return m.emit(124, m.type(32, _CROSS, kind), m.emit(70, pointer, base, at))

    memory, arguments = b"", []
    surface_bytes: Array = np.zeros(8, np.uint8)
    for operand, kind in zip(operands, given, strict=True):
        if isinstance(operand, int):
            arguments.append(m.number(u32, operand))
        elif isinstance(operand, Payload):
            surface_bytes = operand.surface
            arguments.append(payloads.make(operand, surface, lane))
        else:
            stride = len(operand) * operand.itemsize
            where = place(source, len(memory), kind, stride)
            arguments.append(m.emit(61, kind, where, 2, operand.itemsize))
            memory += np.ascontiguousarray(operand.T).tobytes()
    value = m.emit(5611, outcome, assembly, *arguments)
    size = 8
    if result is not None:
        stride = np.dtype(result[0]).itemsize * result[1]
        size = stride * LANES
        where = place(target_memory, 0, outcome, stride)
        m.put(m.body, 62, where, value, 2, np.dtype(result[0]).itemsize)
    m.put(m.body, 253)
    m.put(m.body, 56)
    code = rewritten(m.words())
    out = _launch(code, memory or b"\0" * 8, size, surface_bytes, group)
    if result is None:
        return None
    return np.frombuffer(out, result[0]).reshape(LANES, result[1]).T


def rewritten(words: NDArray[np.uint32]) -> bytes:
    """Return a module without assembly, or raise ValueError with what is not known."""
    runtime, _ = intel.find()
    library = ctypes.CDLL(str(build.libraries(runtime) / "libc10_xpu.so"))
    rewrite = library.virtual_xpu_rewritten
    rewrite.restype = ctypes.c_size_t
    out = np.zeros(1 << 20, np.uint32)
    why = ctypes.create_string_buffer(1000)
    as_words = ctypes.POINTER(ctypes.c_uint32)
    count = rewrite(
        words.ctypes.data_as(as_words),
        ctypes.c_size_t(len(words)),
        out.ctypes.data_as(as_words),
        ctypes.c_size_t(len(out)),
        why,
        ctypes.c_size_t(len(why)),
    )
    if not count:
        raise ValueError(why.value.decode())
    return out[:count].tobytes()


def _check(code: int, what: str) -> None:
    if code:
        raise RuntimeError(f"{what} failed with OpenCL error {code}")


@functools.cache
def _opencl() -> tuple[ctypes.CDLL, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]:
    """Return the library, and the CPU device with a context and a queue on it."""
    cl = ctypes.CDLL("libOpenCL.so.1")
    for call in ("Context", "CommandQueue", "ProgramWithIL", "Kernel", "Buffer"):
        getattr(cl, f"clCreate{call}").restype = ctypes.c_void_p
    platform, device, error = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int()
    _check(cl.clGetPlatformIDs(1, ctypes.byref(platform), None), "clGetPlatformIDs")
    cpu = ctypes.c_uint64(2)
    _check(cl.clGetDeviceIDs(platform, cpu, 1, ctypes.byref(device), None), "a CPU")
    context = cl.clCreateContext(
        None, 1, ctypes.byref(device), None, None, ctypes.byref(error)
    )
    queue = cl.clCreateCommandQueue(
        ctypes.c_void_p(context), device, ctypes.c_uint64(0), ctypes.byref(error)
    )
    return cl, device, ctypes.c_void_p(context), ctypes.c_void_p(queue)


def _launch(
    module: bytes, source: bytes, size: int, surface: Array, group: tuple[int, ...]
) -> bytes:
    cl, device, context, queue = _opencl()
    error = ctypes.c_int()
    program = ctypes.c_void_p(
        cl.clCreateProgramWithIL(
            context, module, ctypes.c_size_t(len(module)), ctypes.byref(error)
        )
    )
    _check(error.value, "clCreateProgramWithIL")
    # What holds then holds for kernels that are not built so, too.
    options = b"-cl-denorms-are-zero"
    built = cl.clBuildProgram(program, 1, ctypes.byref(device), options, None, None)
    _check(built, "clBuildProgram")
    kernel = ctypes.c_void_p(cl.clCreateKernel(program, b"main", ctypes.byref(error)))
    _check(error.value, "clCreateKernel")
    out = ctypes.create_string_buffer(size)
    copies = (
        ctypes.create_string_buffer(source, len(source)),
        out,
        ctypes.create_string_buffer(surface.tobytes(), surface.nbytes),
    )
    buffers = []
    for i, copy in enumerate(copies):
        read_write_and_use = ctypes.c_uint64(1 | 1 << 5)
        buffer = ctypes.c_void_p(
            cl.clCreateBuffer(
                context,
                read_write_and_use,
                ctypes.c_size_t(len(copy)),
                copy,
                ctypes.byref(error),
            )
        )
        _check(error.value, "clCreateBuffer")
        cl.clSetKernelArg(kernel, i, ctypes.c_size_t(8), ctypes.byref(buffer))
        buffers.append(buffer)
    items = (ctypes.c_size_t * len(group))(*group)
    launched = cl.clEnqueueNDRangeKernel(
        *(queue, kernel, len(group), None, items, items, 0), *(None, None)
    )
    _check(launched, "clEnqueueNDRangeKernel")
    for buffer, copy in zip(buffers, copies, strict=True):
        length = ctypes.c_size_t(len(copy))
        read = cl.clEnqueueReadBuffer(
            *(queue, buffer, 1, ctypes.c_size_t(0), length, copy, 0, None, None)
        )
        _check(read, "clEnqueueReadBuffer")
    surface[:] = np.frombuffer(copies[2].raw, np.uint8)[: surface.nbytes]
    for buffer in buffers:
        cl.clReleaseMemObject(buffer)
    cl.clReleaseKernel(kernel)
    cl.clReleaseProgram(program)
    return out.raw
