// An NVRTC that compiles nothing, for tests/device.rs. Its machine code is the magic of an ELF file and two strings:
// the architecture, and the one kernel that is in it, empty for all of the file. Its PTX is a comment with the same.
//
//   FAKE_NVRTC_VERSION  as 130 for 13.0; 130 if unset
//   FAKE_NVRTC_FAIL     the log of a compilation that fails
//   FAKE_NVRTC_OLD      set: it does not know `sm_90a`
//   FAKE_NVRTC_MISSING  the name of a kernel that no source has
//   FAKE_CUDA_LOG       the file to write to

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kSuccess = 0, kInvalidInput = 3, kInvalidOption = 5, kCompilation = 6 };

struct Program {
  char arch[32];
  char kernel[128];
  char log[256];
};

static void note(const char* what, const char* detail) {
  const char* path = getenv("FAKE_CUDA_LOG");
  FILE* file = path ? fopen(path, "a") : NULL;
  if (!file) return;
  fprintf(file, "%s %s\n", what, detail);
  fclose(file);
}

int nvrtcVersion(int* major, int* minor) {
  const char* version = getenv("FAKE_NVRTC_VERSION");
  const int number = version ? atoi(version) : 130;
  *major = number / 10;
  *minor = number % 10;
  return kSuccess;
}

static const int kArchs[] = {75, 80, 86, 89, 90, 100, 120};

int nvrtcGetNumSupportedArchs(int* count) {
  *count = sizeof kArchs / sizeof *kArchs;
  return kSuccess;
}

int nvrtcGetSupportedArchs(int* archs) {
  memcpy(archs, kArchs, sizeof kArchs);
  return kSuccess;
}

int nvrtcCreateProgram(struct Program** out, const char* source, const char* name, int count, const char* const* headers,
                       const char* const* names) {
  for (int i = 0; i < count; ++i) {
    if (!strstr(names[i], ".cuh") || !headers[i]) return kInvalidInput;
  }
  *out = calloc(1, sizeof **out);
  note("source", name);
  return source ? kSuccess : kInvalidInput;
}

int nvrtcDestroyProgram(struct Program** program) {
  note("destroy", "program");
  free(*program);
  *program = NULL;
  return kSuccess;
}

// The rest of an option after what it begins with, or null.
static const char* after(const char* option, const char* start) {
  return strncmp(option, start, strlen(start)) == 0 ? option + strlen(start) : NULL;
}

int nvrtcCompileProgram(struct Program* program, int count, const char* const* options) {
  const char *log = getenv("FAKE_NVRTC_FAIL"), *missing = getenv("FAKE_NVRTC_MISSING");
  for (int i = 0; i < count; ++i) {
    const char* arch = after(options[i], "--gpu-architecture=");
    const char* wanted = after(options[i], "--define-macro=TWOFOUR_WANTED_");
    note("option", options[i]);
    if (arch) snprintf(program->arch, sizeof program->arch, "%s", arch);
    if (wanted) snprintf(program->kernel, sizeof program->kernel, "%.*s", (int)strcspn(wanted, "="), wanted);
  }
  if (missing && strcmp(missing, program->kernel) == 0) program->kernel[0] = '\0';
  if (getenv("FAKE_NVRTC_OLD") && strcmp(program->arch, "sm_90a") == 0) return kInvalidOption;
  if (log) snprintf(program->log, sizeof program->log, "%s", log);
  return log ? kCompilation : kSuccess;
}

int nvrtcGetCUBINSize(struct Program* program, size_t* size) {
  *size = 4 + strlen(program->arch) + 1 + strlen(program->kernel) + 1;
  return kSuccess;
}

int nvrtcGetCUBIN(struct Program* program, char* out) {
  memcpy(out, "\177ELF", 4);
  strcpy(out + 4, program->arch);
  strcpy(out + 4 + strlen(program->arch) + 1, program->kernel);
  return kSuccess;
}

int nvrtcGetPTXSize(struct Program* program, size_t* size) {
  *size = 3 + strlen(program->arch) + 1 + strlen(program->kernel) + 1;
  return kSuccess;
}

int nvrtcGetPTX(struct Program* program, char* out) {
  sprintf(out, "// %s %s", program->arch, program->kernel);
  return kSuccess;
}

int nvrtcGetProgramLogSize(struct Program* program, size_t* size) {
  *size = strlen(program->log) + 1;
  return kSuccess;
}

int nvrtcGetProgramLog(struct Program* program, char* out) {
  strcpy(out, program->log);
  return kSuccess;
}
