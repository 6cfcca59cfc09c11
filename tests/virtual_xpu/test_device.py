# SPDX-License-Identifier: Apache-2.0
"""The device `xpu`: its tensors, memory, streams and random numbers."""

import copy
import io

import pytest
import torch

from vllm_xpu_fp8_plugin import virtual_xpu

virtual_xpu.enable()


def test_it_says_what_it_is() -> None:
    """Catches a virtual device that can be taken for a real one."""
    assert torch.xpu.is_available()
    assert torch.accelerator.current_accelerator() == torch.device("xpu")
    assert torch.xpu.device_count() == torch.accelerator.device_count() == 2
    properties = torch.xpu.get_device_properties(1)
    assert properties.name == "Virtual Intel GPU (software)"
    assert properties.total_memory == torch.xpu.mem_get_info(1)[1]
    assert properties.sub_group_sizes == [16, 32]


def test_an_op_gives_what_the_cpus_gives() -> None:
    """Catches an alias with other strides or another offset than its tensor."""
    host = torch.arange(24.0).view(4, 6)
    part = host.t()[1:5:2, ::3]
    on_device = host.to("xpu").t()[1:5:2, ::3]
    assert on_device.device == torch.device("xpu:0")
    assert on_device.stride() == part.stride()
    assert torch.equal((on_device @ on_device.t()).cpu(), part @ part.t())


def test_views_share_memory() -> None:
    """Catches a copy where an op returns a view of its argument."""
    x = torch.zeros(4, 6, device="xpu")
    for view in (x.view(-1), x[1:], x.t(), x.unfold(0, 2, 2), x.view(torch.int32)):
        assert view.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    x[1].add_(1)
    assert x.sum().item() == 6
    chunks = x.split(2)
    chunks[1].fill_(5)
    assert x[2:].eq(5).all()


def test_out_is_resized_and_written() -> None:
    """Catches a result that goes to the alias and never to the tensor."""
    out = torch.empty(0, device="xpu")
    given = torch.add(torch.ones(3, device="xpu"), 1, out=out)
    assert given is out
    assert out.tolist() == [2, 2, 2]


def test_resizing_is_seen_by_every_view() -> None:
    """Catches a storage that is replaced for one of its tensors only."""
    x = torch.arange(3.0, device="xpu")
    view = x[:2]
    x.resize_(100_000)
    x[:2].fill_(7)
    assert view.tolist() == [7, 7]


def test_tensors_of_two_devices_do_not_mix() -> None:
    """Catches a virtual GPU that hides what fails on a real one."""
    x = torch.ones(2, device="xpu")
    with pytest.raises(RuntimeError, match=r"on the same device.*xpu:0 and cpu"):
        x + torch.ones(2)
    with pytest.raises(RuntimeError, match=r"on the same device.*xpu:0 and xpu:1"):
        torch.mul(x, torch.ones(2, device="xpu:1"))


def test_a_result_on_the_host_is_refused() -> None:
    """Catches a call that writes where a GPU cannot, and no wait for it."""
    x = torch.ones(2, device="xpu")
    for out in (torch.empty(2), torch.empty(())):
        with pytest.raises(RuntimeError, match=r"out must be on the device.*, got cpu"):
            torch.add(x, x, out=out)


def test_what_a_gpu_takes_from_the_host_is_taken() -> None:
    """Catches a refusal of scalars and of indices on the CPU."""
    x = torch.arange(4.0, device="xpu")
    assert (x + torch.tensor(1.0)).tolist() == [1, 2, 3, 4]
    assert x[torch.tensor([2, 0])].tolist() == [2, 0]
    x[torch.tensor([1])] = 9
    x.copy_(x.cpu() + 1)
    assert x.tolist() == [1, 10, 3, 4]


def test_devices_have_memory_of_their_own() -> None:
    """Catches results on device 0 of what ran on device 1."""
    x = torch.ones(3, device="xpu:1")
    assert (x + 1).device == torch.device("xpu:1")
    assert x.to("xpu:0").device == torch.device("xpu:0")
    with torch.xpu.device(1):
        assert torch.empty(1, device="xpu").device == torch.device("xpu:1")
    with pytest.raises(RuntimeError, match=r"must be in \[0, 2\), but got 5"):
        torch.empty(1, device="xpu:5")


def test_inference_mode() -> None:
    """Catches an alias that takes an inference tensor's version counter."""
    with torch.inference_mode():
        x = torch.ones(3, device="xpu")
        x.view(3, 1).mul_(2)
        assert x.detach().tolist() == [2, 2, 2]


def test_gradients() -> None:
    """Catches a backward pass that runs on the host's aliases."""
    x = torch.ones(2, 3, device="xpu", requires_grad=True)
    torch.nn.functional.linear(x, x).sum().backward()
    assert x.grad is not None
    assert x.grad.device == torch.device("xpu:0")
    assert x.grad.eq(4).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_of_half_precision(dtype: torch.dtype) -> None:
    """Catches raw memory of oneDNN's that is taken for a tensor's."""
    a, b = torch.randn(64, 96).to(dtype), torch.randn(80, 96).to(dtype)
    got = torch.nn.functional.linear(a.to("xpu"), b.to("xpu")).cpu()
    assert torch.equal(got, torch.nn.functional.linear(a, b))


def test_convolution() -> None:
    """Catches an op that asks for a kernel of the XPU's."""
    x, weight = torch.randn(1, 3, 16), torch.randn(4, 3, 3)
    got = torch.nn.functional.conv1d(x.to("xpu"), weight.to("xpu"))
    assert torch.allclose(got.cpu(), torch.nn.functional.conv1d(x, weight), atol=1e-5)


def test_pinned_memory() -> None:
    """Catches pinned memory that is none, and a device's view of it that is a copy."""
    host = torch.zeros(4, pin_memory=True)
    assert host.is_pinned()
    assert not torch.zeros(4).is_pinned()
    view = torch.ops._C.get_xpu_view_from_cpu_tensor(host)
    assert view.device.type == "xpu"
    view.add_(3)
    torch.xpu.synchronize()
    assert host.tolist() == [3, 3, 3, 3]


def test_memory_statistics_are_true() -> None:
    """Catches figures that vLLM would plan its cache by, and that say nothing."""
    torch.xpu.empty_cache()
    before = torch.xpu.memory_allocated()
    free, total = torch.xpu.mem_get_info()
    torch.xpu.reset_peak_memory_stats()
    x = torch.zeros(8 << 20, dtype=torch.uint8, device="xpu")
    grown = torch.xpu.memory_allocated() - before
    assert 8 << 20 <= grown <= 9 << 20
    assert torch.xpu.max_memory_allocated() - before >= 8 << 20
    assert free - torch.xpu.mem_get_info()[0] >= 8 << 20
    del x
    assert torch.xpu.memory_allocated() == before
    torch.xpu.empty_cache()
    assert torch.xpu.mem_get_info()[0] >= free
    assert total == torch.xpu.get_device_properties().total_memory


def test_freed_memory_is_used_again() -> None:
    """Catches a cache that only grows."""
    torch.xpu.empty_cache()
    torch.zeros(4 << 20, dtype=torch.uint8, device="xpu")
    reserved = torch.xpu.memory_reserved()
    for _ in range(50):
        torch.zeros(4 << 20, dtype=torch.uint8, device="xpu")
    assert torch.xpu.memory_reserved() == reserved


def test_out_of_memory_is_an_error_that_says_what_to_do() -> None:
    """Catches a crash, or the host's memory eaten up."""
    total = torch.xpu.get_device_properties().total_memory
    with pytest.raises(torch.OutOfMemoryError, match="VLLM_XPU_FP8_VIRTUAL_MEMORY"):
        torch.empty(total + 1, dtype=torch.uint8, device="xpu")
    assert torch.ones(3, device="xpu").sum().item() == 3


def test_streams_and_events() -> None:
    """Catches a stream that is not the current one where it should be."""
    stream = torch.xpu.Stream()
    default = torch.xpu.current_stream()
    start, end = (torch.xpu.Event(enable_timing=True) for _ in range(2))
    start.record()
    with torch.xpu.stream(stream):
        assert torch.xpu.current_stream() == stream != default
        x = torch.ones(1000, device="xpu")
        x.record_stream(default)
        end.record()
    assert torch.xpu.current_stream() == default
    end.wait()
    assert end.query()
    assert start.elapsed_time(end) > 0
    with pytest.raises(RuntimeError, match="enable_timing"):
        torch.xpu.Event().elapsed_time(end)


def test_random_numbers_follow_the_devices_seed() -> None:
    """Catches numbers of the CPU's generator, whose state has another size."""
    generator = torch.xpu.default_generators[0]
    torch.xpu.manual_seed(7)
    first = torch.rand(5, device="xpu")
    assert generator.get_state().view(torch.int64).tolist() == [7, 4]
    second = torch.rand(5, device="xpu")
    assert not torch.equal(first, second)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(5, device="xpu"), first)
    generator.set_offset(4)
    assert torch.equal(torch.rand(5, device="xpu"), second)
    own = torch.Generator("xpu").manual_seed(7)
    assert torch.equal(torch.rand(5, device="xpu", generator=own), first)


def test_tensors_are_saved_and_copied() -> None:
    """Catches a tensor that pickles as its alias."""
    x = torch.arange(6.0, device="xpu:1").view(2, 3)
    file = io.BytesIO()
    torch.save({"x": x, "view": x[0]}, file)
    file.seek(0)
    loaded = torch.load(file)
    assert loaded["x"].device == torch.device("xpu:1")
    loaded["view"].fill_(9)
    assert loaded["x"][0].eq(9).all()
    assert torch.equal(copy.deepcopy(x).cpu(), x.cpu())
    assert torch.equal(
        torch.load(io.BytesIO(file.getvalue()), map_location="cpu")["x"], x.cpu()
    )


def test_a_compiled_op_and_torchs_run_in_order() -> None:
    """Catches an op that reads what a kernel has not written yet."""
    x = torch.ones(256, 2048, device="xpu", dtype=torch.float16)
    out = torch.empty(256, 1024, device="xpu", dtype=torch.float16)
    for i in range(50):
        x.fill_(i / 10)
        torch.ops._C.silu_and_mul(out, x)
        expected = torch.nn.functional.silu(x[:1, :1].float()).half() * x[:1, :1]
        assert out.eq(expected).all()


def test_memory_of_a_running_kernel_is_not_given_away() -> None:
    """Catches a temporary that is freed, and filled anew, while a kernel reads it."""
    out = torch.empty(512, 1024, device="xpu", dtype=torch.bfloat16)
    for i in range(30):
        torch.ops._C.silu_and_mul(
            out, torch.full((512, 2048), i / 8, device="xpu", dtype=torch.bfloat16)
        )
        torch.full((512, 2048), 100.0, device="xpu", dtype=torch.bfloat16)
        value = torch.tensor(i / 8, dtype=torch.bfloat16)
        expected = torch.nn.functional.silu(value.float()).bfloat16() * value
        assert out.cpu().eq(expected).all()


def test_a_refusal_of_the_host_code_is_an_error_of_the_call() -> None:
    """Catches an exception of the compiled code that is lost."""
    x = torch.ones(2, 7, device="xpu", dtype=torch.int64)
    with pytest.raises(RuntimeError, match="not implemented for 'Long'"):
        torch.ops._C.silu_and_mul(torch.empty_like(x), x)
    torch.xpu.synchronize()


def test_a_kernel_in_a_gpus_instructions_is_computed_in_pytorch() -> None:
    """Catches a crash of the runtime where an op's image was left out."""
    a = torch.randn(3, 64, device="xpu").bfloat16()
    weights = torch.randn(2, 64, 16, device="xpu").bfloat16()
    rows = torch.tensor([1, 2], device="xpu", dtype=torch.int32)
    out = torch.zeros(3, 16, device="xpu", dtype=torch.bfloat16)
    op = torch.ops._xpu_C.cutlass_grouped_gemm_interface
    returned = op(a, None, weights, None, None, out, rows, 16, 64, 2)
    assert returned.data_ptr() == out.data_ptr() and returned.device == out.device
    for row, expert in enumerate((0, 1, 1)):
        expected = a[row].cpu().float() @ weights[expert].cpu().float()
        torch.testing.assert_close(out[row].cpu(), expected.bfloat16())
