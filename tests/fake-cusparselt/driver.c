// The fake driver of tests/fake-cuda, with memory: device addresses are the host's, and work is done when it is queued.

#define _POSIX_C_SOURCE 200112L
#include "../fake-cuda/cuda.c"

static char event;

int cuMemAllocAsync(void** out, size_t bytes, void* stream) {
  (void)stream;
  if (bytes == 0) return kInvalidValue;
  return posix_memalign(out, 256, bytes) ? 2 : kSuccess;
}

int cuMemFreeAsync(void* address, void* stream) {
  (void)stream;
  free(address);
  return kSuccess;
}

int cuMemsetD8Async(void* to, unsigned char value, size_t bytes, void* stream) {
  (void)stream;
  memset(to, value, bytes);
  return kSuccess;
}

static int copy(void* to, const void* from, size_t bytes) {
  memcpy(to, from, bytes);
  return kSuccess;
}

int cuMemcpyHtoDAsync_v2(void* to, const void* from, size_t bytes, void* stream) {
  (void)stream;
  return copy(to, from, bytes);
}

int cuMemcpyDtoHAsync_v2(void* to, const void* from, size_t bytes, void* stream) {
  (void)stream;
  return copy(to, from, bytes);
}

int cuMemcpyDtoDAsync_v2(void* to, const void* from, size_t bytes, void* stream) {
  (void)stream;
  return copy(to, from, bytes);
}

int cuStreamSynchronize(void* stream) {
  (void)stream;
  note("synchronize\n");
  return kSuccess;
}

int cuEventCreate(void** out, unsigned flags) {
  (void)flags;
  *out = &event;
  return kSuccess;
}

int cuEventDestroy_v2(void* gone) { return gone == &event ? kSuccess : kInvalidValue; }
