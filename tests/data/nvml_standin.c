/* A stand-in for libnvidia-ml.so.1 at its C ABI: two devices, 700 W each by the clock.
 * Device 0 has an energy counter, the power fields of Hopper and one MIG instance; device 1 has
 * none of these and answers with its power.
 * The environment plants faults: STANDIN_LOST_MS, STANDIN_RESET_MS: so long after nvmlInit device 0
 * is lost, or its counter begins anew.
 * The numbers of the error codes are NVML's: 0 success, 2 invalid argument, 3 not supported,
 * 6 not found, 15 GPU is lost. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, LOST = 15 };
static int devices[3] = {0, 1, 2}; /* the last is the MIG instance on device 0 */
static unsigned long long began_ms;

typedef union { double d; unsigned u; unsigned long ul; unsigned long long ull; } value_t;
typedef struct {
  uint32_t field, scope;
  int64_t timestamp, latency_usec;
  int type, result;
  value_t value;
} field_t;

static unsigned long long now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000ULL + now.tv_nsec / 1000000ULL;
}
static int past(const char *name) {
  const char *text = getenv(name);
  return text && now_ms() - began_ms > strtoull(text, 0, 10);
}
static int lost(void *handle) { return *(int *)handle == 0 && past("STANDIN_LOST_MS"); }

int nvmlInit_v2(void) { began_ms = now_ms(); return SUCCESS; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return nvmlInit_v2(); }
int nvmlShutdown(void) { return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
  if (index > 1) return NOT_FOUND;
  *handle = &devices[index];
  return SUCCESS;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
  if (strcmp(uuid, "MIG-a1")) return NOT_FOUND;
  *handle = &devices[2];
  return SUCCESS;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *instance, void **parent) {
  if (*(int *)instance != 2) return INVALID;
  *parent = &devices[0];
  return SUCCESS;
}
int nvmlDeviceGetName(void *handle, char *name, unsigned length) {
  strncpy(name, *(int *)handle ? "Stand-in B" : "Stand-in A", length);
  return SUCCESS;
}
int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) {
  strncpy(uuid, *(int *)handle ? "GPU-b" : "GPU-a", length);
  return SUCCESS;
}
int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *millijoules) {
  if (*(int *)handle) return NOT_SUPPORTED;
  if (lost(handle)) return LOST;
  *millijoules = 700ULL * (past("STANDIN_RESET_MS") ? now_ms() - began_ms : now_ms());
  return SUCCESS;
}
int nvmlDeviceGetPowerUsage(void *handle, unsigned *milliwatts) {
  if (lost(handle)) return LOST;
  *milliwatts = 700000;
  return SUCCESS;
}
/* Fields 185 and 186, average and instant; scopes 0 GPU, 1 module, 2 memory. */
int nvmlDeviceGetFieldValues(void *handle, int count, field_t *fields) {
  static const unsigned by_scope[3] = {520000, 700000, 130000};
  for (int i = 0; i < count; i++) {
    int known = fields[i].field == 185 || fields[i].field == 186;
    fields[i].result = *(int *)handle || !known || fields[i].scope > 2 ? NOT_SUPPORTED
                       : lost(handle)                                  ? LOST
                                                                       : SUCCESS;
    if (fields[i].result == SUCCESS) fields[i].value.u = by_scope[fields[i].scope];
  }
  return SUCCESS;
}
const char *nvmlErrorString(int result) {
  return result == LOST ? "GPU is lost" : "stand-in error";
}
