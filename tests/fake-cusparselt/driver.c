// The fake driver of tests/fake-cuda, with copies: device addresses are the host's, and work is done when it is queued.

#include "../fake-cuda/cuda.c"

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
