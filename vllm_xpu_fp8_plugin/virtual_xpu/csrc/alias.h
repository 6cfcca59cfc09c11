// SPDX-License-Identifier: Apache-2.0
// A device tensor and a host tensor over the same memory.
#pragma once

#include <ATen/core/Tensor.h>

#include "device.h"

namespace virtual_xpu {

// The host's tensor over the memory of `tensor`, which is the device's. Same storage
// for the same storage, so that what shares memory goes on sharing it.
at::Tensor on_host(const at::Tensor& tensor);
c10::Storage host_storage(const c10::Storage& device);

// The device's tensor over the memory of `tensor`, which is the host's.
at::Tensor on_device(const at::Tensor& tensor, c10::DeviceIndex device);
c10::Storage device_storage(const c10::Storage& host, c10::DeviceIndex device);

}  // namespace virtual_xpu
