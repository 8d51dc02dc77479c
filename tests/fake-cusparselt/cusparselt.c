// A cuSPARSELt without a device, for tests/cusparselt.rs: it writes down every call, insists on live objects that have not
// moved, and multiplies f32, bf16 and i8 as the descriptors say, in memory that is the host's.
//
//   FAKE_CUSPARSELT_VERSION  as 0.8.1; 0.10.0 if unset
//   FAKE_CUSPARSELT_FAIL     as cusparseLtMatmul=6: what this function returns, instead of doing anything
//   FAKE_CUSPARSELT_LAYOUT   how codes of 16-bit values lie: `mma` or `hopper`, as real libraries are said to have them,
//                            `scrambled`, as none has; with `+` behind it there is more room than codes need
//   FAKE_CUDA_LOG            the file to write to
//
// Else its compressed form is its own: kept values, then for each group of four (f32: each pair) a byte of kept positions.

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kSuccess = 0, kInvalidValue = 3, kInternalError = 7, kNotSupported = 10 };
enum { kF32 = 0, kF16 = 2, kI8 = 3, kI32 = 10, kBf16 = 14 };
enum { kColumns = 1, kRows = 2 };
enum { kAlgorithms = 4, kBuffer = 64 };
// All of what the caller must keep ready, to be noticed if it keeps less.
enum { kObjectBytes = 16 << 10 };

typedef struct {
  char kind[16];
  const void* self;
} Head;

typedef struct {
  Head head;
  int structured, type, order, batches;
  int64_t rows, cols, pitch, stride;
} Matrix;

typedef struct {
  Head head;
  const Matrix *a, *b, *c, *d;
  int op_a, op_b, relu, gelu, alpha_vector;
  float upper, threshold, scaling;
  int64_t bias_stride;
  const void *bias, *dense;
} Product;

typedef struct {
  Head head;
  const Product* product;
  int id, iterations, split_k, mode, buffers;
} Selection;

typedef struct {
  Head head;
  const Product* product;
  Selection* selection;
} Plan;

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

// The status that a call is to fail with, or 0.
static int failure(const char* call) {
  const char* wanted = getenv("FAKE_CUSPARSELT_FAIL");
  size_t length = strlen(call);
  return wanted && strncmp(wanted, call, length) == 0 && wanted[length] == '=' ? atoi(wanted + length + 1) : kSuccess;
}

#define FAIL_IF_WANTED(call)                 \
  do {                                       \
    int wanted = failure("cusparseLt" call); \
    if (wanted) {                            \
      note("FAILS " call "\n");              \
      return wanted;                         \
    }                                        \
  } while (0)

#define NEED(condition)                           \
  do {                                            \
    if (!(condition)) {                           \
      note("BAD %s: %s\n", __func__, #condition); \
      return kInvalidValue;                       \
    }                                             \
  } while (0)

static void begin(void* object, const char* kind) {
  memset(object, 0xab, kObjectBytes);
  Head head = {"", object};
  strcpy(head.kind, kind);
  memcpy(object, &head, sizeof head);
}

static int is(const void* object, const char* kind) {
  const Head* head = object;
  return object && (uintptr_t)object % 16 == 0 && head->self == object && strcmp(head->kind, kind) == 0;
}

static int end(const void* object) {
  memset((void*)object, 0, sizeof(Head));
  return kSuccess;
}

static size_t bytes_of(int type) { return type == kI8 ? 1 : type == kF16 || type == kBf16 ? 2 : 4; }

int cusparseLtGetProperty(int which, int* value) {
  FAIL_IF_WANTED("GetProperty");
  const char* version = getenv("FAKE_CUSPARSELT_VERSION");
  int numbers[3] = {0, 10, 0};
  if (version) sscanf(version, "%d.%d.%d", &numbers[0], &numbers[1], &numbers[2]);
  note("GetProperty %d\n", which);
  *value = numbers[which];
  return kSuccess;
}

int cusparseLtInit(void* handle) {
  FAIL_IF_WANTED("Init");
  begin(handle, "handle");
  note("Init\n");
  return kSuccess;
}

int cusparseLtDestroy(const void* handle) {
  NEED(is(handle, "handle"));
  note("Destroy\n");
  return end(handle);
}

#ifndef BEFORE_0_8
const char* cusparseLtGetErrorName(int status) { return status == 6 ? "A_NAME_FROM_THE_LIBRARY" : NULL; }

int cusparseLtMatmulAlgSelectionDestroy(const void* selection) {
  NEED(is(selection, "selection"));
  NEED(is(((const Selection*)selection)->product, "product"));
  note("MatmulAlgSelectionDestroy\n");
  return end(selection);
}
#endif

static int matrix(const void* handle, Matrix* to, Matrix from, unsigned alignment) {
  NEED(is(handle, "handle"));
  NEED(alignment == 16);
  begin(to, "matrix");
  from.head = to->head;
  from.batches = 1;
  *to = from;
  return kSuccess;
}

int cusparseLtDenseDescriptorInit(const void* handle, Matrix* to, int64_t rows, int64_t cols, int64_t pitch,
                                  uint32_t alignment, int type, int order) {
  FAIL_IF_WANTED("DenseDescriptorInit");
  note("DenseDescriptorInit %d %d %d %d %d\n", (int)rows, (int)cols, (int)pitch, type, order);
  Matrix from = {.rows = rows, .cols = cols, .pitch = pitch, .type = type, .order = order};
  return matrix(handle, to, from, alignment);
}

int cusparseLtStructuredDescriptorInit(const void* handle, Matrix* to, int64_t rows, int64_t cols, int64_t pitch,
                                       uint32_t alignment, int type, int order, int sparsity) {
  FAIL_IF_WANTED("StructuredDescriptorInit");
  NEED(sparsity == 0);
  note("StructuredDescriptorInit %d %d %d %d %d\n", (int)rows, (int)cols, (int)pitch, type, order);
  Matrix from = {.structured = 1, .rows = rows, .cols = cols, .pitch = pitch, .type = type, .order = order};
  return matrix(handle, to, from, alignment);
}

int cusparseLtMatDescriptorDestroy(const void* gone) {
  NEED(is(gone, "matrix"));
  note("MatDescriptorDestroy\n");
  return end(gone);
}

int cusparseLtMatDescSetAttribute(const void* handle, Matrix* to, int attribute, const void* data, size_t bytes) {
  FAIL_IF_WANTED("MatDescSetAttribute");
  NEED(is(handle, "handle") && is(to, "matrix") && attribute <= 1);
  NEED(bytes == (attribute == 0 ? sizeof(int) : sizeof(int64_t)));
  memcpy(attribute == 0 ? (void*)&to->batches : (void*)&to->stride, data, bytes);
  note("MatDescSetAttribute %d %d\n", attribute, attribute == 0 ? to->batches : (int)to->stride);
  return kSuccess;
}

int cusparseLtMatmulDescriptorInit(const void* handle, Product* to, int op_a, int op_b, const Matrix* a,
                                   const Matrix* b, const Matrix* c, const Matrix* d, int compute) {
  FAIL_IF_WANTED("MatmulDescriptorInit");
  NEED(is(handle, "handle") && is(a, "matrix") && is(b, "matrix") && is(c, "matrix") && is(d, "matrix"));
  NEED(a->structured && !b->structured && a->type == b->type && c->type == d->type && c->order == d->order);
  NEED(compute == (a->type == kI8 ? 0 : 2));
  NEED(a->rows == d->rows && a->cols == (op_b ? b->cols : b->rows) && (op_b ? b->rows : b->cols) == d->cols);
  begin(to, "product");
  Product from = {.head = to->head, .a = a, .b = b, .c = c, .d = d, .op_a = op_a, .op_b = op_b, .scaling = 1};
  *to = from;
  note("MatmulDescriptorInit %d %d %d\n", op_a, op_b, compute);
  return kSuccess;
}

int cusparseLtMatmulDescSetAttribute(const void* handle, Product* to, int attribute, const void* data, size_t bytes) {
  FAIL_IF_WANTED("MatmulDescSetAttribute");
  NEED(is(handle, "handle") && is(to, "product"));
  struct {
    void* at;
    size_t bytes;
  } fields[] = {
      {&to->relu, 4},         {&to->upper, 4}, {&to->threshold, 4},   {&to->gelu, 4}, {&to->scaling, 4},
      {&to->alpha_vector, 4}, {NULL, 0},       {&to->bias_stride, 8}, {&to->bias, 8}, {&to->dense, 8},
  };
  NEED(attribute < 10 && fields[attribute].at && bytes == fields[attribute].bytes);
  memcpy(fields[attribute].at, data, bytes);
  note("MatmulDescSetAttribute %d\n", attribute);
  return kSuccess;
}

int cusparseLtMatmulAlgSelectionInit(const void* handle, Selection* to, const Product* product, int algorithm) {
  FAIL_IF_WANTED("MatmulAlgSelectionInit");
  NEED(is(handle, "handle") && is(product, "product") && algorithm == 0);
  begin(to, "selection");
  Selection from = {.head = to->head, .product = product, .iterations = 5, .split_k = 1, .mode = 1};
  *to = from;
  note("MatmulAlgSelectionInit\n");
  return kSuccess;
}

int cusparseLtMatmulAlgSetAttribute(const void* handle, Selection* to, int attribute, const void* data, size_t bytes) {
  FAIL_IF_WANTED("MatmulAlgSetAttribute");
  NEED(is(handle, "handle") && is(to, "selection") && bytes == 4);
  int value;
  memcpy(&value, data, 4);
  note("MatmulAlgSetAttribute %d %d\n", attribute, value);
  // The library refuses, on some devices, to be told its own default.
  if (attribute == 4 && value == 1) return kNotSupported;
  int* fields[] = {&to->id, NULL, &to->iterations, &to->split_k, &to->mode, &to->buffers};
  NEED(attribute < 6 && fields[attribute]);
  *fields[attribute] = value;
  return kSuccess;
}

int cusparseLtMatmulAlgGetAttribute(const void* handle, const Selection* from, int attribute, void* data,
                                    size_t bytes) {
  FAIL_IF_WANTED("MatmulAlgGetAttribute");
  NEED(is(handle, "handle") && is(from, "selection") && bytes == 4);
  // The library does not tell everything.
  if (attribute == 5 && from->split_k == 1) return kInternalError;
  int values[] = {from->id, kAlgorithms, from->iterations, from->split_k, from->mode, from->buffers};
  memcpy(data, &values[attribute], 4);
  return kSuccess;
}

int cusparseLtMatmulPlanInit(const void* handle, Plan* to, const Product* product, const Selection* selection) {
  FAIL_IF_WANTED("MatmulPlanInit");
  NEED(is(handle, "handle") && is(product, "product") && is(selection, "selection") && selection->product == product);
  begin(to, "plan");
  Plan from = {.head = to->head, .product = product, .selection = (Selection*)selection};
  *to = from;
  note("MatmulPlanInit %d %d %d %d\n", selection->id, selection->split_k, selection->mode, selection->buffers);
  return kSuccess;
}

static int whole(const Plan* plan) {
  return is(plan, "plan") && is(plan->product, "product") && is(plan->selection, "selection") &&
         is(plan->product->a, "matrix") && is(plan->product->d, "matrix");
}

int cusparseLtMatmulPlanDestroy(const Plan* plan) {
  NEED(whole(plan));
  note("MatmulPlanDestroy\n");
  return end(plan);
}

int cusparseLtMatmulGetWorkspace(const void* handle, const Plan* plan, size_t* bytes) {
  FAIL_IF_WANTED("MatmulGetWorkspace");
  NEED(is(handle, "handle") && whole(plan));
  *bytes = 256 * (size_t)plan->selection->split_k;
  return kSuccess;
}

// Values of a group, and how many of them are kept.
static int group_of(const Matrix* a) { return a->type == kF32 ? 2 : 4; }

// Whether codes lie in this layout.
static int lies(const Matrix* a, const char* layout) {
  const char* wanted = getenv("FAKE_CUSPARSELT_LAYOUT");
  return bytes_of(a->type) == 2 && wanted && strncmp(wanted, layout, strlen(layout)) == 0;
}

static int64_t up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// The half byte of a group's code, in layouts that have one; -1 in the library's own.
static int64_t half_byte(const Matrix* a, int64_t r, int64_t c) {
  int64_t inner = r % 8 * 8 + r % 32 / 16 * 4 + c % 32 / 16 * 2 + r % 16 / 8;
  int64_t tall = (c / 64 * (a->rows / 128) + r / 128) * 512 + c % 64 / 32 * 256 + r % 128 / 32 * 64;
  int64_t low = (c / 32 * (up(a->rows, 32) / 32) + r / 32) * 64;
  int64_t word = (a->rows >= 256 && a->rows % 128 == 0 && a->cols % 64 == 0 ? tall : low) + inner;
  if (lies(a, "mma")) return word * 4 + c % 16 / 4;
  if (lies(a, "scrambled")) return (word ^ 1) * 4 + c % 16 / 4;
  if (!lies(a, "hopper")) return -1;
  int64_t g = c / 4, byte = r / 64 * 8 * a->cols + c / 32 * 256 + r % 64 / 16 * 64 + r % 8 * 8 + 2 * (g % 4) + g % 8 / 4;
  return byte * 2 + r % 16 / 8;
}

static size_t code_bytes(const Matrix* a) {
  if (half_byte(a, 0, 0) < 0) return (size_t)(a->rows * a->cols / group_of(a));
  int64_t one = up(a->rows, 32) * up(a->cols, 64), other = up(a->rows, 64) * up(a->cols, 32);
  const char* layout = getenv("FAKE_CUSPARSELT_LAYOUT");
  return (size_t)(one > other ? one : other) / 8 + (layout[strlen(layout) - 1] == '+' ? 512 : 0);
}

// Positions of a group that are kept, the first one in the low half.
static void put_positions(const Matrix* a, char* codes, int64_t row, int64_t col, int positions) {
  int64_t at = half_byte(a, row, col);
  if (at < 0) {
    codes[(row * a->cols + col) / group_of(a)] = (char)positions;
    return;
  }
  int code = (positions & 3) + 4 * (positions >> 4), shift = 4 * (int)(at % 2);
  codes[at / 2] = (char)((codes[at / 2] & ~(15 << shift)) | code << shift);
}

static int positions_of(const Matrix* a, const char* codes, int64_t row, int64_t col) {
  int64_t at = half_byte(a, row, col);
  if (at < 0) return codes[(row * a->cols + col) / group_of(a)];
  int code = codes[at / 2] >> (4 * (at % 2)) & 15;
  return (code & 3) | code >> 2 << 4;
}

static size_t compressed_bytes(const Matrix* a, int batches) {
  return (size_t)batches * ((size_t)(a->rows * a->cols) / 2 * bytes_of(a->type) + code_bytes(a));
}

static int compressed_batches(const Matrix* a) { return a->stride == 0 ? 1 : a->batches; }

static int is_zero(const char* value, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) {
    if (value[i]) return 0;
  }
  return 1;
}

static void compress(const Matrix* a, const char* from, char* to) {
  size_t size = bytes_of(a->type);
  int group = group_of(a), kept = group / 2;
  for (int batch = 0; batch < compressed_batches(a); ++batch, from += a->stride * (int64_t)size) {
    char *values = to, *codes = to + (size_t)(a->rows * a->cols) / 2 * size;
    // Gaps are the library's affair.
    memset(codes, 0x5a, code_bytes(a));
    for (int64_t row = 0; row < a->rows; ++row) {
      for (int64_t col = 0; col < a->cols; col += group) {
        const char* at = from + (size_t)(row * a->pitch + col) * size;
        int code = 0, count = 0;
        for (int i = 0; i < group; ++i) {
          // Where there are too many zeros, the last ones are kept.
          if (count < kept && (!is_zero(at + (size_t)i * size, size) || group - i <= kept - count)) {
            memcpy(values, at + (size_t)i * size, size);
            values += size;
            code |= i << (4 * count++);
          }
        }
        put_positions(a, codes, row, col, code);
      }
    }
    to += compressed_bytes(a, 1);
  }
}

static int prune_check(const Matrix* a, const char* from) {
  size_t size = bytes_of(a->type);
  int group = group_of(a), bad = 0;
  for (int64_t i = 0; i < a->rows * a->cols; i += group) {
    int count = 0;
    const char* at = from + (size_t)(i / a->cols * a->pitch + i % a->cols) * size;
    for (int j = 0; j < group; ++j) count += !is_zero(at + (size_t)j * size, size);
    bad |= count > group / 2;
  }
  return bad;
}

int cusparseLtSpMMACompressedSize2(const void* handle, const Matrix* a, size_t* bytes, size_t* buffer) {
  FAIL_IF_WANTED("SpMMACompressedSize2");
  NEED(is(handle, "handle") && is(a, "matrix") && a->structured);
  *bytes = compressed_bytes(a, 1);
  *buffer = kBuffer;
  return kSuccess;
}

int cusparseLtSpMMACompress2(const void* handle, const Matrix* a, int is_a, int op, const void* from, void* to,
                             void* buffer, void* stream) {
  FAIL_IF_WANTED("SpMMACompress2");
  NEED(is(handle, "handle") && is(a, "matrix") && a->structured && is_a == 1 && op == 0 && from && to && buffer);
  note("SpMMACompress2 %p\n", stream);
  memset(buffer, 0xcd, kBuffer);
  compress(a, from, to);
  return kSuccess;
}

int cusparseLtSpMMAPruneCheck2(const void* handle, const Matrix* a, int is_a, int op, const void* from, int* verdict,
                               void* stream) {
  FAIL_IF_WANTED("SpMMAPruneCheck2");
  NEED(is(handle, "handle") && is(a, "matrix") && a->structured && is_a == 1 && op == 0);
  note("SpMMAPruneCheck2 %p\n", stream);
  *verdict = prune_check(a, from);
  return kSuccess;
}

int cusparseLtSpMMACompressedSize(const void* handle, const Plan* plan, size_t* bytes, size_t* buffer) {
  FAIL_IF_WANTED("SpMMACompressedSize");
  NEED(is(handle, "handle") && whole(plan));
  *bytes = compressed_bytes(plan->product->a, compressed_batches(plan->product->a));
  *buffer = kBuffer;
  return kSuccess;
}

int cusparseLtSpMMACompress(const void* handle, const Plan* plan, const void* from, void* to, void* buffer,
                            void* stream) {
  FAIL_IF_WANTED("SpMMACompress");
  NEED(is(handle, "handle") && whole(plan) && from && to && buffer);
  note("SpMMACompress %p\n", stream);
  memset(buffer, 0xcd, kBuffer);
  compress(plan->product->a, from, to);
  return kSuccess;
}

int cusparseLtSpMMAPruneCheck(const void* handle, const Product* product, const void* from, int* verdict,
                              void* stream) {
  FAIL_IF_WANTED("SpMMAPruneCheck");
  NEED(is(handle, "handle") && is(product, "product"));
  note("SpMMAPruneCheck %p\n", stream);
  *verdict = prune_check(product->a, from);
  return kSuccess;
}

static float get(const Matrix* m, const void* base, int64_t row, int64_t col) {
  int64_t at = m->order == kRows ? row * m->pitch + col : col * m->pitch + row;
  switch (m->type) {
    case kF32:
      return ((const float*)base)[at];
    case kI8:
      return ((const int8_t*)base)[at];
    case kBf16: {
      uint32_t bits = (uint32_t)((const uint16_t*)base)[at] << 16;
      float value;
      memcpy(&value, &bits, 4);
      return value;
    }
    default:
      return (float)((const int32_t*)base)[at];
  }
}

static void put(const Matrix* m, void* base, int64_t row, int64_t col, float value) {
  int64_t at = m->order == kRows ? row * m->pitch + col : col * m->pitch + row;
  switch (m->type) {
    case kF32:
      ((float*)base)[at] = value;
      break;
    case kI8:
      ((int8_t*)base)[at] = (int8_t)value;
      break;
    case kBf16: {
      uint32_t bits;
      memcpy(&bits, &value, 4);
      // To nearest even; there is no NaN.
      ((uint16_t*)base)[at] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
      break;
    }
    default:
      ((int32_t*)base)[at] = (int32_t)value;
  }
}

// One row of the compressed matrix, spread out.
static void spread(const Matrix* a, const char* compressed, int64_t row, float* out) {
  int group = group_of(a), kept = group / 2;
  const char* codes = compressed + (size_t)(a->rows * a->cols) / 2 * bytes_of(a->type);
  Matrix values = {.type = a->type, .order = kRows, .pitch = a->cols / 2};
  for (int64_t col = 0; col < a->cols; ++col) out[col] = 0;
  for (int64_t i = 0; i < a->cols / 2; ++i) {
    int position = positions_of(a, codes, row, i / kept * group) >> (4 * (i % kept)) & 15;
    out[i / kept * group + position] = get(&values, compressed, row, i);
  }
}

static void multiply(const Product* p, const float* alpha, const char* a, const char* b, float beta, const char* c,
                     char* d, const char* bias) {
  // Of the result's format, but f32 for integers.
  Matrix values = {.type = p->d->type == kBf16 ? kBf16 : kF32, .order = kRows};
  float* row = malloc((size_t)p->a->cols * sizeof(float));
  for (int64_t i = 0; i < p->d->rows; ++i) {
    spread(p->a, a, i, row);
    for (int64_t j = 0; j < p->d->cols; ++j) {
      float sum = 0;
      for (int64_t k = 0; k < p->a->cols; ++k) sum += row[k] * (p->op_b ? get(p->b, b, j, k) : get(p->b, b, k, j));
      sum *= p->alpha_vector ? alpha[i] : *alpha;
      if (beta != 0) sum += beta * get(p->c, c, i, j);
      if (bias) sum += get(&values, bias, 0, i);
      if (p->relu) sum = sum > p->threshold ? (sum < p->upper ? sum : p->upper) : 0;
      put(p->d, d, i, j, sum);
    }
  }
  free(row);
}

static int check_run(const void* handle, const Plan* plan, const void* workspace, int streams) {
  NEED(is(handle, "handle") && whole(plan) && workspace && streams == 1);
  int a = plan->product->a->type, d = plan->product->d->type;
  int same = a == d && (a == kF32 || a == kBf16);
  return same || (a == kI8 && (d == kI8 || d == kI32)) ? kSuccess : kNotSupported;
}

int cusparseLtMatmul(const void* handle, const Plan* plan, const float* alpha, const char* a, const char* b,
                     const float* beta, const char* c, char* d, void* workspace, void** streams, int32_t count) {
  FAIL_IF_WANTED("Matmul");
  int status = check_run(handle, plan, workspace, count);
  if (status) return status;
  const Product* p = plan->product;
  memset(workspace, 0xcd, 256 * (size_t)plan->selection->split_k);
  note("Matmul %p %d beta %g\n", streams[0], plan->selection->id, (double)*beta);
  for (int batch = 0; batch < p->d->batches; ++batch) {
    size_t x = (size_t)p->b->stride * bytes_of(p->b->type), y = (size_t)p->d->stride * bytes_of(p->d->type);
    size_t w = p->a->stride == 0 ? 0 : compressed_bytes(p->a, 1), i = (size_t)batch;
    size_t bias_bytes = p->d->type == kBf16 ? 2 : 4;
    const char* bias = p->bias ? (const char*)p->bias + (size_t)(batch * p->bias_stride) * bias_bytes : NULL;
    multiply(p, alpha, a + i * w, b + i * x, *beta, c + i * y, d + i * y, bias);
  }
  return kSuccess;
}

int cusparseLtMatmulSearch(const void* handle, Plan* plan, const float* alpha, const char* a, const char* b,
                           const float* beta, const char* c, char* d, void* workspace, void** streams, int32_t count) {
  FAIL_IF_WANTED("MatmulSearch");
  (void)alpha, (void)a, (void)b, (void)beta, (void)c;
  int status = check_run(handle, plan, workspace, count);
  if (status) return status;
  NEED(plan->product->dense);
  note("MatmulSearch %p iterations %d\n", streams[0], plan->selection->iterations);
  memset(d, 0x7f, 16);
  plan->selection->id = 3;
  plan->selection->split_k = 2;
  plan->selection->buffers = 1;
  return kSuccess;
}
