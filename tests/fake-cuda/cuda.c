// A CUDA driver without a device, for tests/device.rs: it answers as the environment says and writes down what it is
// asked to do.
//
//   FAKE_CUDA_INIT      what cuInit returns; 0 if unset
//   FAKE_CUDA_COUNT     devices; 1 if unset
//   FAKE_CUDA_CC        compute capability, as 90; 90 if unset
//   FAKE_CUDA_REFUSE    what cuModuleLoadData returns for the kinds in FAKE_CUDA_REFUSED; 209 if unset
//   FAKE_CUDA_REFUSED   any of the words: fatbin elf ptx
//   FAKE_CUDA_MISSING   the name of a kernel that no module has
//                       (of an ELF file of tests/fake-cuda/nvrtc.c, only the kernel it names is there)
//   FAKE_CUDA_CAPTURING modules after which every stream is being captured; none is if unset
//   FAKE_CUDA_ARGS      bytes of a kernel's parameter; 0 if unset
//   FAKE_CUDA_LOG       the file to write to

#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kSuccess = 0, kInvalidValue = 1, kNotInitialized = 3, kInvalidDevice = 101, kInvalidContext = 201, kNotFound = 500 };
enum { kStaticShared = 1024, kModules = 64 };

static int initialized;
static _Thread_local void* current;
// The primary contexts of devices 0 and 1.
enum { kDevices = 2 };
static char contexts[kDevices], function_, event_, stream_;
// The one kernel of a module, empty for any; a handle points at one of these.
static char modules[kModules][128];
static atomic_int loaded;

static int number(const char* name, int otherwise) {
  const char* value = getenv(name);
  return value ? atoi(value) : otherwise;
}

// One line, written at once, so that threads do not mix theirs.
static void note(const char* format, ...) {
  const char* path = getenv("FAKE_CUDA_LOG");
  FILE* file = path ? fopen(path, "a") : NULL;
  if (!file) return;
  va_list arguments;
  va_start(arguments, format);
  vfprintf(file, format, arguments);
  va_end(arguments);
  fclose(file);
}

static int is_module(const void* handle) {
  for (int i = 0; i < loaded; ++i) {
    if (handle == modules[i]) return 1;
  }
  return 0;
}

static int is_context(const void* handle) { return handle == &contexts[0] || handle == &contexts[1]; }

int cuInit(unsigned flags) {
  int status = flags ? kInvalidValue : number("FAKE_CUDA_INIT", kSuccess);
  initialized = status == kSuccess;
  return status;
}

int cuDeviceGetCount(int* count) {
  *count = number("FAKE_CUDA_COUNT", 1);
  return initialized ? kSuccess : kNotInitialized;
}

int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal < number("FAKE_CUDA_COUNT", 1) ? kSuccess : kInvalidDevice;
}

// Numbers of CUdevice_attribute.
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  int capability = number("FAKE_CUDA_CC", 90);
  switch (attribute) {
    case 16: *value = 132; break;                // MULTIPROCESSOR_COUNT
    case 38: *value = 60 << 20; break;           // L2_CACHE_SIZE
    case 39: *value = 2048; break;               // MAX_THREADS_PER_MULTIPROCESSOR
    case 75: *value = capability / 10; break;    // COMPUTE_CAPABILITY_MAJOR
    case 76: *value = capability % 10; break;    // COMPUTE_CAPABILITY_MINOR
    case 81: *value = 228 << 10; break;          // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
    case 97: *value = 227 << 10; break;          // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    case 115: *value = 1; break;                 // MEMORY_POOLS_SUPPORTED
    default: return kInvalidValue;
  }
  note("attribute %d\n", attribute);
  return device >= 0 ? kSuccess : kInvalidDevice;
}

int cuDevicePrimaryCtxRetain(void** out, int device) {
  if (device < 0 || device >= kDevices) return kInvalidDevice;
  *out = &contexts[device];
  return kSuccess;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
  note("release\n");
  return device >= 0 ? kSuccess : kInvalidDevice;
}

int cuCtxGetCurrent(void** out) {
  *out = current;
  return kSuccess;
}

int cuCtxSetCurrent(void* value) {
  current = value;
  return kSuccess;
}

int cuModuleLoadData(void** out, const void* image) {
  if (!is_context(current)) return kInvalidContext;
  uint32_t magic;
  memcpy(&magic, image, sizeof magic);
  const char* kind = magic == 0xba55ed50u ? "fatbin" : magic == 0x464c457fu ? "elf" : "ptx";
  const char* refused = getenv("FAKE_CUDA_REFUSED");
  int status = refused && strstr(refused, kind) ? number("FAKE_CUDA_REFUSE", 209) : kSuccess;
  note("load %s %d\n", kind, status);
  if (status) return status;
  int module = loaded++;
  if (module >= kModules) return kInvalidValue;
  const char* arch = (const char*)image + sizeof magic;
  if (strcmp(kind, "elf") == 0) snprintf(modules[module], sizeof modules[module], "%s", arch + strlen(arch) + 1);
  *out = modules[module];
  return kSuccess;
}

int cuModuleUnload(void* module) {
  note("unload\n");
  return is_module(module) ? kSuccess : kInvalidValue;
}

int cuModuleGetFunction(void** out, void* module, const char* name) {
  const char* missing = getenv("FAKE_CUDA_MISSING");
  if (!is_module(module)) return kInvalidValue;
  if (missing && strcmp(missing, name) == 0) return kNotFound;
  const char* only = module;
  if (*only && strcmp(only, name) != 0) return kNotFound;
  note("function %s\n", name);
  *out = &function_;
  return kSuccess;
}

int cuModuleGetFunctionCount(unsigned* count, void* module) {
  *count = 2;
  return is_module(module) ? kSuccess : kInvalidValue;
}

int cuModuleEnumerateFunctions(void** functions, unsigned count, void* module) {
  for (unsigned i = 0; i < count; ++i) functions[i] = &function_;
  return is_module(module) ? kSuccess : kInvalidValue;
}

int cuFuncLoad(void* function) {
  note("ready\n");
  return function == &function_ ? kSuccess : kInvalidValue;
}

int cuFuncGetAttribute(int* value, int attribute, void* function) {
  *value = attribute == 1 ? kStaticShared : 0;  // SHARED_SIZE_BYTES
  return function == &function_ ? kSuccess : kInvalidValue;
}

int cuFuncSetAttribute(void* function, int attribute, int value) {
  note("set %d to %d\n", attribute, value);
  return function == &function_ ? kSuccess : kInvalidValue;
}

// 1 is CU_STREAM_CAPTURE_STATUS_ACTIVE.
int cuStreamIsCapturing(void* stream, int* status) {
  (void)stream;
  *status = loaded >= number("FAKE_CUDA_CAPTURING", kModules + 1);
  return is_context(current) ? kSuccess : kInvalidContext;
}

int cuCtxSynchronize(void) { return is_context(current) ? kSuccess : kInvalidContext; }

int cuStreamCreate(void** out, unsigned flags) {
  *out = &stream_;
  return flags <= 1 ? kSuccess : kInvalidValue;
}

int cuStreamDestroy_v2(void* stream) { return stream == &stream_ ? kSuccess : kInvalidValue; }

int cuStreamWaitEvent(void* stream, void* event, unsigned flags) {
  note("wait of %s\n", stream ? "a stream" : "the default stream");
  return event == &event_ && !flags ? kSuccess : kInvalidValue;
}

// Memory of the host's, and events of nothing.
int cuMemAllocAsync(uint64_t* out, size_t bytes, void* stream) {
  (void)stream;
  if (bytes == 0) return kInvalidValue;
  void* memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
  *out = (uint64_t)(uintptr_t)memory;
  return memory ? kSuccess : kInvalidValue;
}

int cuMemFreeAsync(uint64_t address, void* stream) {
  (void)stream;
  free((void*)(uintptr_t)address);
  return kSuccess;
}

int cuMemsetD8Async(uint64_t address, unsigned char byte, size_t bytes, void* stream) {
  (void)stream;
  memset((void*)(uintptr_t)address, byte, bytes);
  return kSuccess;
}

int cuEventCreate(void** out, unsigned flags) {
  *out = &event_;
  return flags <= 7 ? kSuccess : kInvalidValue;
}

int cuEventRecord(void* event, void* stream) {
  (void)stream;
  return event == &event_ ? kSuccess : kInvalidValue;
}

int cuEventDestroy_v2(void* event) { return event == &event_ ? kSuccess : kInvalidValue; }

int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void* stream, void** parameters, void** extra) {
  if (!is_context(current) || function != &function_ || extra) return kInvalidValue;
  char args[256] = "";
  for (int i = 0; i < number("FAKE_CUDA_ARGS", 0) && i < 80; ++i) {
    sprintf(args + 3 * i, " %02x", ((unsigned char*)parameters[0])[i]);
  }
  note("launch %u %u %u | %u %u %u | %u | %p |%s\n", gx, gy, gz, bx, by, bz, shared, stream, args);
  return kSuccess;
}
