// SPDX-License-Identifier: Apache-2.0
// libze_loader.so.1: the driver interface of an Intel GPU, where there is no driver.
// _C asks it for a device's memory; each call answers
// ZE_RESULT_ERROR_UNSUPPORTED_FEATURE.
#define UNSUPPORTED(name) \
  int name(void) { return 0x78000003; }

UNSUPPORTED(zeDeviceGetMemoryProperties)
UNSUPPORTED(zeDeviceGetProperties)
UNSUPPORTED(zeDriverGetExtensionProperties)
