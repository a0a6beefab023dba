/* A stand-in for libnvidia-ml.so.1 at its C ABI: two devices, 700 W each by the clock.
 * Device 0 has an energy counter; device 1 has none and answers with its power.
 * The numbers of the error codes are NVML's: 0 success, 3 not supported, 6 not found. */
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6 };
static int devices[2] = {0, 1};

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
  if (index > 1) return NOT_FOUND;
  *handle = &devices[index];
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
  struct timespec now;
  if (*(int *)handle) return NOT_SUPPORTED;
  clock_gettime(CLOCK_MONOTONIC, &now);
  *millijoules = 700ULL * (now.tv_sec * 1000ULL + now.tv_nsec / 1000000ULL);
  return SUCCESS;
}
int nvmlDeviceGetPowerUsage(void *handle, unsigned *milliwatts) {
  (void)handle;
  *milliwatts = 700000;
  return SUCCESS;
}
const char *nvmlErrorString(int result) { (void)result; return "stand-in error"; }
